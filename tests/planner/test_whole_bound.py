"""Whole replicas on whole hosts: by hand, and that no search beats the bound."""

import math

import pytest

from planner.bound import ShapeRate, gpu_rates, objective_bound, shape_rates
from planner.objective import Goal
from planner.search.exhaustive import Exhaustive
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.whole_bound import whole_bound
from tests.planner.tiny_problems import (
    context_of,
    mixed_cluster,
    planner_of,
    shape,
    tiny_cluster,
    tiny_problem,
)


def rate(phase, rate_rps, tp=1, pp=1):
    return ShapeRate(shape=shape(phase, tp, pp), rate_rps=rate_rps)


PREFILL, DECODE = rate(Phase.PREFILL, 4.0), rate(Phase.DECODE, 12.0, tp=2)


def bounds_of(goal, rates=(PREFILL, DECODE), rate_rps=6.0, nodes=1, gpus=4, **space):
    problem = tiny_problem(
        goal=goal, cluster=tiny_cluster(nodes, gpus), rate_rps=rate_rps, **space
    )
    gpus_alone = gpu_rates(planner_of(problem), shapes=rates)
    relaxed = objective_bound(problem, gpus_alone)
    return whole_bound(problem, gpus_alone, rates), relaxed


def test_a_decode_replica_takes_two_gpus_or_none():
    # 2 + 2 GPUs prefill 8 and decode 12; in parts 4 * 24 / 10.
    assert bounds_of(Goal.MAX_GOODPUT) == pytest.approx((8.0, 9.6))
    # 2 + 1 groups serve 8 on 4 GPUs; on one host of three GPUs 1 + 1 serve 4 on 3.
    found = bounds_of(Goal.MAX_GOODPUT_PER_GPU)
    assert found == pytest.approx((2.0, 2.4), rel=1e-5)


def test_fewest_gpus_and_least_price_of_whole_replicas():
    # 6 requests/s: two prefill GPUs and a group of two; in parts 1.5 + 1.
    assert bounds_of(Goal.MIN_GPUS) == (4.0, 3.0)
    whole, relaxed = bounds_of(Goal.MIN_COST)
    assert whole == pytest.approx(4 * 2.5)
    assert relaxed == pytest.approx(2.5 * 2.5)
    assert math.isinf(bounds_of(Goal.MIN_GPUS, rate_rps=8.1)[0])


def test_groups_stay_on_a_host():
    # Hosts of three GPUs: each holds one group of two, so two groups serve 2 * 5.
    wide = (rate(Phase.AGGREGATED, 5.0, tp=2),)
    assert bounds_of(Goal.MAX_GOODPUT, wide, nodes=2, gpus=3)[0] == pytest.approx(10.0)
    # The stages of a pipeline may go to different hosts.
    long = (rate(Phase.AGGREGATED, 5.0, pp=2),)
    assert bounds_of(Goal.MAX_GOODPUT, long, nodes=2, gpus=3)[0] == pytest.approx(15.0)


def test_limits_of_the_plan_hold():
    assert bounds_of(Goal.MAX_GOODPUT, max_gpus=3)[0] == pytest.approx(4.0)
    assert bounds_of(Goal.MAX_GOODPUT, max_replicas=1)[0] == pytest.approx(4.0)


@pytest.mark.parametrize("goal", [Goal.MAX_GOODPUT, Goal.MAX_GOODPUT_PER_GPU])
@pytest.mark.parametrize("limits", [(40.0, 12.0), (1000.0, 100.0)])
def test_no_plan_is_better(goal, limits):
    slo = Slo(ttft_ms=limits[0], tpot_ms=limits[1])
    problem = tiny_problem(goal=goal, cluster=mixed_cluster(), slo=slo)
    rates = shape_rates(planner_of(problem))
    gpus = gpu_rates(planner_of(problem), shapes=rates)
    bound = whole_bound(problem, gpus, rates)
    assert bound <= objective_bound(problem, gpus)
    assert whole_bound(problem, gpus, ()) == objective_bound(problem, gpus)
    best = Exhaustive().search(context_of(problem)).candidates[0]
    value = best.goodput.rate_rps
    if goal is Goal.MAX_GOODPUT_PER_GPU:
        value = best.goodput_per_gpu_rps
    assert value <= bound


def test_a_phase_without_work_still_takes_a_replica():
    # Answers of one token: prefill takes two GPUs for 6 requests/s, decode its group.
    idle = rate(Phase.DECODE, 1e12, tp=2)
    assert bounds_of(Goal.MIN_GPUS, (PREFILL, idle))[0] == 4.0
    assert bounds_of(Goal.MAX_GOODPUT, (PREFILL, idle))[0] == pytest.approx(8.0)
    # Whatever the solver makes of such numbers, a rate in reach is not infeasible.
    rates = (
        rate(Phase.AGGREGATED, 1e12, tp=2),
        rate(Phase.PREFILL, 8.74, tp=2),
        rate(Phase.DECODE, 1.01, pp=2),
    )
    assert bounds_of(Goal.MIN_GPUS, rates, rate_rps=4.14, max_gpus=3)[0] == 2.0
