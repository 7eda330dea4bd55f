"""Guided and random swaps: never worse than their start, never above the optimum."""

import itertools

import numpy as np
import pytest

from planner.objective import Goal
from planner.search.hexgen2.swaps import at_random, guided, proposals
from planner.simulator.system import Phase
from tests.planner.search.hexgen2.hexgen2_parts import (
    DECODE,
    PREFILL,
    groups,
    parts_of,
)
from tests.planner.tiny_problems import mixed_cluster, tiny_cluster, tiny_problem

CLUSTERS = {
    "one node": tiny_cluster(1, 4),
    "slow network": tiny_cluster(2, 2, nic_bytes_per_s=1e4),
    "two types": mixed_cluster(),
}


def set_partitions(gpus):
    """Every way to put GPUs in groups."""
    if not gpus:
        yield []
        return
    first, rest = gpus[0], gpus[1:]
    for parts in set_partitions(rest):
        yield [(first,), *parts]
        for i in range(len(parts)):
            yield [*parts[:i], (first, *parts[i]), *parts[i + 1 :]]


def best_rank(parts, cluster):
    """Best rank of all groupings of up to four GPUs within their types."""
    names = parts.moves.gpu_types
    ranks = []
    for partition in set_partitions(list(range(cluster.num_gpus))):
        if any(len({names[gpu] for gpu in part}) > 1 for part in partition):
            continue
        for phases in itertools.product((*Phase, None), repeat=len(partition)):
            if Phase.AGGREGATED in phases:
                continue
            grouping = groups(*zip(partition, phases, strict=True))
            judged = parts.judge.judge(grouping)
            if judged is not None:
                ranks.append(judged.rank)
    return min(ranks)


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("goal", [Goal.MAX_GOODPUT, Goal.MIN_COST])
def test_swaps_end_between_their_start_and_the_best_grouping(name, goal):
    cluster = CLUSTERS[name]
    problem = tiny_problem(cluster=cluster, goal=goal, rate_rps=30.0)
    everything = parts_of(problem)
    limit = best_rank(everything, cluster)
    for first, second in (((0, 1), (2, 3)), ((2, 3), (0, 1))):
        parts = parts_of(problem)
        start = parts.judge.judge(groups((first, PREFILL), (second, DECODE)))
        rng = np.random.default_rng(0)
        for found in (
            guided(parts.judge, parts.moves, start, lambda: False),
            at_random(parts.judge, parts.moves, start, lambda: False, rng),
        ):
            assert limit <= found.rank <= start.rank


def test_guided_swaps_find_the_best_of_one_node():
    problem = tiny_problem(goal=Goal.MAX_GOODPUT)
    parts = parts_of(problem)
    start = parts.judge.judge(groups(((0,), PREFILL), ((1, 2, 3), DECODE)))
    found = guided(parts.judge, parts.moves, start, lambda: False)
    assert found.rank[0] == best_rank(parts_of(problem), problem.cluster)[0]


def test_nothing_is_tried_when_the_search_has_to_end():
    parts = parts_of(tiny_problem(goal=Goal.MAX_GOODPUT))
    start = parts.judge.judge(groups(((0,), PREFILL), ((1,), DECODE)))
    assert guided(parts.judge, parts.moves, start, lambda: True) is start
    rng = np.random.default_rng(0)
    assert at_random(parts.judge, parts.moves, start, lambda: True, rng) is start
    stay = guided(parts.judge, parts.moves, start, lambda: False, max_tried=0)
    assert stay is start


def test_no_proposal_comes_twice_or_changes_nothing():
    parts = parts_of(tiny_problem(cluster=tiny_cluster(2, 4)))
    start = parts.judge.judge(
        groups(((0, 1), PREFILL), ((2, 3), DECODE), ((4, 5), PREFILL), ((6, 7), DECODE))
    )
    found = list(proposals(parts.moves, start))
    assert len(found) == len(set(found)) > 20
    assert start.grouping not in found


def test_idle_gpus_come_first():
    parts = parts_of(tiny_problem(goal=Goal.MAX_GOODPUT))
    start = parts.judge.judge(groups(((0,), PREFILL), ((1,), DECODE), ((2, 3), None)))
    first = next(iter(proposals(parts.moves, start)))
    assert first in (
        groups(((0,), PREFILL), ((1,), DECODE), ((2, 3), PREFILL)),
        groups(((0,), PREFILL), ((1,), DECODE), ((2, 3), DECODE)),
    )
