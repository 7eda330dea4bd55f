"""Bound: the linear programme by hand, and that no search beats it."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.bound import GpuRates, gpu_rates, objective_bound, rate_bound
from planner.objective import Goal
from planner.search.exhaustive import Exhaustive
from planner.slo import Slo
from tests.planner.tiny_problems import (
    context_of,
    mixed_cluster,
    planner_of,
    tiny_cluster,
    tiny_problem,
)


def rates_of(name="tiny", num=4, prefill=4.0, decode=12.0, usd=2.0):
    return GpuRates(
        gpu_type=name,
        num_gpus=num,
        prefill_rps=prefill,
        decode_rps=decode,
        usd_per_hour=usd,
    )


def bound_of(goal, *rates, rate_rps=6.0, **space):
    problem = tiny_problem(goal=goal, rate_rps=rate_rps, **space)
    return objective_bound(problem, rates)


def test_gpus_are_split_so_that_both_phases_keep_up():
    # 3 GPUs prefill 12 requests/s, 1 decodes 12.
    assert bound_of(Goal.MAX_GOODPUT, rates_of()) == pytest.approx(12.0)
    assert bound_of(Goal.MAX_GOODPUT_PER_GPU, rates_of()) == pytest.approx(3.0)


def test_a_limit_on_gpus_bounds_the_rate():
    assert bound_of(Goal.MAX_GOODPUT, rates_of(), max_gpus=2) == pytest.approx(6.0)


def test_fewest_gpus_are_rounded_up():
    # 6 requests/s take 1.5 + 0.5 GPUs, 7 take 1.75 + 0.58.
    assert bound_of(Goal.MIN_GPUS, rates_of()) == 2.0
    assert bound_of(Goal.MIN_GPUS, rates_of(), rate_rps=7.0) == 3.0


def test_least_cost_uses_each_type_for_what_it_is_good_at():
    # Prefill costs 2/4 $ a request on one, decode 1/12 $ on the other.
    strong, cheap = rates_of(), rates_of("other", 4, 1.0, 12.0, 1.0)
    cost = bound_of(Goal.MIN_COST, strong, cheap)
    assert cost == pytest.approx(6 * 2 / 4 + 6 * 1 / 12)


def test_a_rate_beyond_the_cluster_has_no_bound_that_is_finite():
    assert math.isinf(bound_of(Goal.MIN_GPUS, rates_of(), rate_rps=12.1))
    limited = bound_of(Goal.MIN_GPUS, rates_of(), rate_rps=7.0, max_gpus=2)
    assert math.isinf(limited)


def test_an_unknown_price_gives_no_bound():
    assert bound_of(Goal.MIN_COST, rates_of(usd=None)) is None


def test_a_phase_that_nothing_can_run_bounds_at_zero():
    assert bound_of(Goal.MAX_GOODPUT, rates_of(decode=0.0)) == 0.0
    assert bound_of(Goal.MAX_GOODPUT_PER_GPU, rates_of(decode=0.0)) == 0.0


def test_prices_are_those_of_a_gpu():
    rates = gpu_rates(planner_of(tiny_problem(cluster=mixed_cluster())))
    assert [(r.gpu_type, r.num_gpus, r.usd_per_hour) for r in rates] == [
        ("tiny", 2, 2.5),
        ("other", 2, 0.5),
    ]


def test_rates_are_those_of_the_best_shape():
    (rates,) = gpu_rates(planner_of(tiny_problem(slo=Slo(ttft_ms=60))))
    # Good prompts share at most 60 ms: on four GPUs (10 + 230) / 4 ms for 2300 tokens,
    # so 240 / 23 ms of a GPU each. One in ten may miss, in steps of 8192 tokens.
    good_ms, bad_ms = 240 / 23, 829.2 / 81.92
    prompt_ms = 0.9 * good_ms + 0.1 * bad_ms
    assert rates.prefill_rps == pytest.approx(1000 / prompt_ms, rel=1e-6)
    # Ten steps; of 256 requests each 10 + 128 ms.
    assert rates.decode_rps == pytest.approx(256 / 1.38, rel=1e-6)


@settings(max_examples=8, deadline=None)
@given(
    goal=st.sampled_from([Goal.MAX_GOODPUT, Goal.MAX_GOODPUT_PER_GPU]),
    ttft=st.floats(25.0, 200.0),
    tpot=st.floats(11.0, 60.0),
)
def test_no_deployment_beats_the_bound(goal, ttft, tpot):
    slo = Slo(ttft_ms=ttft, tpot_ms=tpot)
    problem = tiny_problem(goal=goal, cluster=tiny_cluster(1, 3), slo=slo)
    context = context_of(problem)
    best = Exhaustive().search(context).candidates[0]
    rates = gpu_rates(planner_of(problem))
    bound = objective_bound(problem, rates)
    value = best.score(problem) or 0.0
    assert value <= bound * (1 + 1e-9)
    assert best.goodput.rate_rps <= rate_bound(problem, rates) * (1 + 1e-9)


def test_an_unlimited_phase_leaves_the_other_to_decide():
    problem = tiny_problem(goal=Goal.MAX_GOODPUT, lengths="100x1")
    (rates,) = gpu_rates(planner_of(problem))
    bound = objective_bound(problem, (replace(rates, num_gpus=1),))
    # Where decodes could share the steps of prompts, a step is taken to hold more.
    assert rates.prefill_rps <= rates.aggregated_rps < 1.05 * rates.prefill_rps
    assert bound == pytest.approx(rates.aggregated_rps, rel=1e-6)


def test_nothing_runs_without_a_gpu():
    unlimited = rates_of(prefill=1e12, decode=1e12)
    assert bound_of(Goal.MIN_GPUS, unlimited) == 1.0
