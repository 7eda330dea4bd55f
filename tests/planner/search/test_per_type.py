"""A system for each GPU type: types are kept apart, and side by side they add up."""

import pytest

from planner.objective import Goal
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.search.tiny_searches import search
from tests.planner.tiny_problems import (
    context_of,
    mixed_cluster,
    tiny_cluster,
    tiny_problem,
)

MOST = Goal.MAX_GOODPUT


def types_by_slice(deployment):
    found = {}
    for replica in deployment.replicas:
        found.setdefault(replica.slice, set()).add(replica.gpu_type)
    return found


def test_caches_stay_within_a_type():
    problem = tiny_problem(cluster=mixed_cluster(), goal=MOST)
    for candidate in search("per-type", context_of(problem)).candidates:
        types = types_by_slice(candidate.deployment)
        if candidate.deployment.is_disaggregated:
            assert all(len(names) == 1 for names in types.values())
            ends = {r.name: r.gpu_type for r in candidate.deployment.replicas}
            for route in candidate.deployment.routes:
                assert ends[route.source] == ends[route.target]


@pytest.mark.parametrize("is_split", [True, False])
def test_both_types_serve_more_than_one(is_split):
    problem = tiny_problem(cluster=mixed_cluster(), goal=MOST)
    best = {}
    for candidate in search("per-type", context_of(problem)).candidates:
        deployment = candidate.deployment
        if deployment.is_disaggregated is is_split:
            names = frozenset(r.gpu_type for r in deployment.replicas)
            rate = candidate.goodput.rate_rps
            best[names] = max(rate, best.get(names, 0.0))
    both = best.pop(frozenset({"tiny", "other"}))
    assert len(best) == 2
    assert both > max(best.values())


def test_gpus_of_one_type_are_one_system():
    found = search("per-type", context_of(tiny_problem(goal=MOST))).candidates
    assert {replica.slice for c in found for replica in c.deployment.replicas} == {0}
    assert {c.deployment.is_disaggregated for c in found} == {True, False}


def test_limits_are_kept_side_by_side():
    problem = tiny_problem(cluster=mixed_cluster(), goal=MOST, max_gpus=2)
    outcome = search("per-type", context_of(problem))
    assert all(c.deployment.num_gpus <= 2 for c in outcome.candidates)
    assert outcome.ledger.rejected["needs more GPUs or replicas than the plan may use"]


def test_an_slo_out_of_reach_gives_the_nearest():
    problem = tiny_problem(cluster=tiny_cluster(1, 2), slo=Slo(ttft_ms=1.0))
    best = search("per-type", context_of(problem)).candidates[0]
    assert best.goodput.rate_rps == 0.0
    assert set(Phase) >= {replica.phase for replica in best.deployment.replicas}


def test_homogeneous_is_the_best_type_alone():
    problem = tiny_problem(cluster=mixed_cluster(), goal=MOST)
    alone = search("homogeneous", context_of(problem)).candidates
    for candidate in alone:
        assert len({r.gpu_type for r in candidate.deployment.replicas}) == 1
    together = search("per-type", context_of(problem)).candidates
    assert alone[0].goodput.rate_rps <= together[0].goodput.rate_rps
    assert {c.deployment for c in alone} <= {c.deployment for c in together}
