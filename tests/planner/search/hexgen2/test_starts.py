"""Starts: every GPU in a group that can hold the model, both phases, all limits."""

import numpy as np
import pytest

from planner.search.hexgen2.graph import gpu_graph
from planner.search.hexgen2.starts import starts
from tests.planner.search.hexgen2.hexgen2_parts import DECODE, PREFILL, parts_of
from tests.planner.tiny_problems import mixed_cluster, tiny_cluster, tiny_problem


def starts_of(problem, num=12, seed=0):
    graph = gpu_graph(problem.cluster)
    rng = np.random.default_rng(seed)
    return list(starts(problem, graph, parts_of(problem).strategies, rng, num))


@pytest.mark.parametrize("cluster", [tiny_cluster(2, 4), mixed_cluster()])
def test_all_gpus_are_grouped_within_their_type(cluster):
    found = starts_of(tiny_problem(cluster=cluster))
    assert len(found) == 12
    topology = cluster.topology
    for grouping in found:
        gpus = sorted(gpu for group in grouping for gpu in group.gpus)
        assert gpus == list(range(cluster.num_gpus))
        assert {group.phase for group in grouping} == {PREFILL, DECODE}
        for group in grouping:
            assert len({topology.gpu(gpu).type.name for gpu in group.gpus}) == 1


def test_the_number_of_groups_is_swept():
    sizes = {len(grouping) for grouping in starts_of(tiny_problem())}
    assert {2, 4} <= sizes


def test_a_group_holds_the_smallest_replica():
    for grouping in starts_of(tiny_problem(tp=(2,), cluster=tiny_cluster(2, 4))):
        assert all(len(group.gpus) >= 2 for group in grouping)


def test_equal_seeds_give_equal_starts():
    problem = tiny_problem(cluster=tiny_cluster(2, 4))
    assert starts_of(problem, seed=3) == starts_of(problem, seed=3)
    assert starts_of(problem, seed=3) != starts_of(problem, seed=4)


def test_limits_are_kept_by_idle_groups():
    problem = tiny_problem(cluster=tiny_cluster(2, 4), max_gpus=3, max_replicas=2)
    grouping = starts_of(problem)[0]
    active = [group for group in grouping if group.phase is not None]
    assert sum(len(group.gpus) for group in active) <= 3
    assert sum(group.phase is DECODE for group in active) <= 2


def test_one_gpu_and_no_usable_type_give_none():
    assert starts_of(tiny_problem(cluster=tiny_cluster(1, 1))) == []
    assert starts_of(tiny_problem(tp=(3,))) == []
