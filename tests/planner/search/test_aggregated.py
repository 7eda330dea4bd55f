"""The aggregated baseline."""

from planner.objective import Goal
from planner.simulator.system import Phase
from tests.planner.search.tiny_searches import search
from tests.planner.tiny_problems import context_of, tiny_cluster, tiny_problem


def test_every_replica_does_both_phases():
    for found in search("aggregated", context_of(tiny_problem())).candidates:
        assert {r.phase for r in found.deployment.replicas} == {Phase.AGGREGATED}
        assert found.deployment.routes == ()


def test_all_gpus_are_used_for_the_most_goodput():
    problem = tiny_problem(goal=Goal.MAX_GOODPUT, cluster=tiny_cluster(2))
    best = search("aggregated", context_of(problem)).candidates[0]
    assert best.deployment.num_gpus == 8


def test_no_more_gpus_are_used_than_the_target_needs():
    problem = tiny_problem(goal=Goal.MIN_GPUS, rate_rps=1.0)
    best = search("aggregated", context_of(problem)).candidates[0]
    assert best.deployment.num_gpus == 1
