"""Moves: every one keeps all GPUs, each in one group, and types apart."""

import itertools

import pytest

from tests.planner.search.hexgen2.hexgen2_parts import (
    DECODE,
    PREFILL,
    groups,
    parts_of,
)
from tests.planner.tiny_problems import mixed_cluster, tiny_cluster, tiny_problem


def all_moves(moves, grouping):
    for a, b in itertools.product(range(len(grouping)), repeat=2):
        yield from moves.phases(grouping, a)
        yield from moves.split(grouping, a)
        if a != b:
            yield from moves.exchange(grouping, a, b)
            yield from moves.give(grouping, a, b)
            yield from moves.swap(grouping, a, b)
            yield from moves.merge(grouping, a, b)


@pytest.mark.parametrize("cluster", [tiny_cluster(2, 4), mixed_cluster()])
def test_gpus_are_kept_and_types_are_not_mixed(cluster):
    moves = parts_of(tiny_problem(cluster=cluster)).moves
    half = cluster.num_gpus // 2
    first, second = tuple(range(half)), tuple(range(half, 2 * half))
    grouping = groups((first[:1], PREFILL), (first[1:], DECODE), (second, PREFILL))
    found = list(all_moves(moves, grouping))
    assert len(set(found)) > 10
    for each in found:
        gpus = [gpu for group in each for gpu in group.gpus]
        assert sorted(gpus) == list(range(cluster.num_gpus))
        assert all(group.gpus == tuple(sorted(group.gpus)) for group in each)
        for group in each:
            assert len({moves.gpu_types[gpu] for gpu in group.gpus}) == 1


def test_by_hand():
    moves = parts_of(tiny_problem()).moves
    grouping = groups(((0, 1), PREFILL), ((2,), DECODE), ((3,), DECODE))
    assert groups(((0, 1), DECODE), ((2,), DECODE), ((3,), DECODE)) in moves.phases(
        grouping, 0
    )
    assert moves.exchange(grouping, 1, 2) == []  # both decode
    assert moves.exchange(grouping, 0, 1) == [
        groups(((0, 1), DECODE), ((2,), PREFILL), ((3,), DECODE))
    ]
    assert moves.merge(grouping, 1, 2) == [groups(((0, 1), PREFILL), ((2, 3), DECODE))]
    assert moves.split(grouping, 1) == []  # one GPU
    assert len(moves.give(grouping, 0, 1)) == 1
    assert moves.swap_gpus(grouping, (0, 1), (1, 2)) == [
        groups(((0, 2), PREFILL), ((1,), DECODE), ((3,), DECODE))
    ]


def test_the_swap_brings_neighbours_together():
    # Two nodes of two: each group has a GPU of either node.
    moves = parts_of(tiny_problem(cluster=tiny_cluster(2, 2))).moves
    grouping = groups(((0, 2), PREFILL), ((1, 3), DECODE))
    assert moves.swap(grouping, 0, 1)[0] in (
        groups(((0, 1), PREFILL), ((2, 3), DECODE)),
        groups(((2, 3), PREFILL), ((0, 1), DECODE)),
    )


def test_unused_gpus_can_be_split_off():
    moves = parts_of(tiny_problem()).moves
    grouping = groups(((0, 1, 2), PREFILL), ((3,), DECODE))
    wanted = groups(((0, 1), PREFILL), ((2,), DECODE), ((3,), DECODE))
    assert wanted in moves.split(grouping, 0, unused=(2,))
