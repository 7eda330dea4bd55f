"""The cut between prefill and decode groups, against all cuts."""

import itertools

import numpy as np
import pytest

from planner.search.hexgen2.graph import gpu_graph
from planner.search.hexgen2.phase_split import coarsened, prefill_side
from tests.planner.tiny_problems import tiny_cluster


def cut(weights, side):
    return sum(
        weights[a, b]
        for a, b in itertools.combinations(range(len(weights)), 2)
        if side[a] != side[b]
    )


def test_groups_of_one_node_are_on_different_sides():
    # Two nodes of two groups: 100 GB/s inside, 2 GB/s between.
    parts = [(0,), (1,), (2,), (3,)]
    weights = coarsened(gpu_graph(tiny_cluster(2, 2)), parts)
    assert weights[0, 1] == 100e9
    assert weights[0, 2] == 2e9
    for seed in range(10):
        side = prefill_side(weights, np.random.default_rng(seed))
        assert side[0] != side[1]
        assert side[2] != side[3]


@pytest.mark.parametrize("seed", range(20))
def test_no_group_gains_by_changing_sides(seed):
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.uniform(size=(6, 6)), 1)
    weights += weights.T
    side = prefill_side(weights, rng)
    assert any(side)
    assert not all(side)
    reached = cut(weights, side)
    for index in range(6):
        flipped = tuple(s != (i == index) for i, s in enumerate(side))
        if any(flipped) and not all(flipped):
            assert cut(weights, flipped) <= reached + 1e-9


def test_two_groups_get_a_phase_each_even_if_nothing_joins_them():
    for seed in range(10):
        side = prefill_side(np.zeros((2, 2)), np.random.default_rng(seed))
        assert sorted(side) == [False, True]
