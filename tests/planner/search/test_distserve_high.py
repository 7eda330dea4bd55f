"""DistServe, high affinity: phases apart, ratio free."""

import pytest

from planner.objective import Goal
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.search.tiny_searches import search
from tests.planner.tiny_problems import context_of, tiny_cluster, tiny_problem


def best_of(**problem):
    context = context_of(tiny_problem(**problem))
    return search("distserve-high", context).candidates[0]


@pytest.mark.parametrize(
    ("lengths", "more"),
    [("400x2", Phase.PREFILL), ("10x200", Phase.DECODE)],
)
def test_the_ratio_follows_the_work(lengths, more):
    # 50 ms of prefill and one step, or 11 ms and 199 steps that are shared.
    slo = Slo(ttft_ms=150.0, tpot_ms=16.0)
    best = best_of(
        goal=Goal.MAX_GOODPUT, lengths=lengths, slo=slo, cluster=tiny_cluster(1, 8)
    ).deployment
    gpus = {
        phase: sum(replica.parallelism.num_gpus for replica in best.of_phase(phase))
        for phase in (Phase.PREFILL, Phase.DECODE)
    }
    assert max(gpus, key=lambda phase: gpus[phase]) is more
    assert gpus[Phase.PREFILL] != gpus[Phase.DECODE]


def test_a_tight_ttft_needs_tensor_parallel_prefill():
    # One GPU takes 20 ms, two 10 ms, four 5 ms.
    best = best_of(slo=Slo(ttft_ms=15.0, tpot_ms=16.0))
    assert {r.parallelism.tp for r in best.deployment.of_phase(Phase.PREFILL)} == {2}


@pytest.mark.parametrize("target", [10.0, 40.0, 60.0])
def test_replicas_are_added_to_the_target(target):
    best = best_of(goal=Goal.MIN_GPUS, rate_rps=target, cluster=tiny_cluster(2))
    assert best.goodput.rate_rps >= target


def test_more_traffic_needs_no_fewer_gpus():
    sizes = [
        best_of(
            goal=Goal.MIN_GPUS, rate_rps=rate, cluster=tiny_cluster(2)
        ).deployment.num_gpus
        for rate in (10.0, 40.0, 80.0)
    ]
    assert sizes == sorted(sizes)
