"""Goodput: the rate search on known functions and small systems."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.goodput import Effort, bisect_rate, goodput, meets
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, ServingSystem
from planner.slo import Slo, SloRule
from planner.workload.workload import Workload
from tests.planner.simulator.systems import tiny_replica, tiny_table

TABLE = tiny_table(prefill_ms=10.0, decode_ms=5.0)
BOTH = ServingSystem(
    replicas=(tiny_replica(Phase.AGGREGATED, TABLE),), kv_bytes_per_token=0.0
)
SLO = Slo(ttft_ms=40, tpot_ms=12)
WORKLOAD = Workload.poisson(rate_rps=1.0, lengths="100x11")
QUICK = Effort(min_requests=100, max_requests=200, span_s=5.0)


@given(st.floats(1e-5, 1.0), st.sampled_from([0.2, 0.02, 0.001]))
def test_bisection_finds_a_step_to_its_tolerance(share, tolerance_frac):
    bound = 100.0
    found = bisect_rate(lambda rate: rate <= share * bound, bound, tolerance_frac)
    assert found <= share * bound
    assert found >= share * bound * (1 - tolerance_frac) - 1e-9


@given(
    st.floats(1e-7, 1.1),
    st.floats(1e-9, 2.0),
    st.sampled_from([0.2, 0.01]),
    st.sampled_from([0.0, 7.0]),
)
def test_a_guess_saves_runs_and_changes_nothing(share, guess, tolerance_frac, floor):
    bound = 100.0

    def is_met(rate):
        return rate <= share * bound

    found = bisect_rate(is_met, bound, tolerance_frac, floor)
    near = bisect_rate(is_met, bound, tolerance_frac, floor, guess * bound)
    assert near == found


def test_the_right_guess_takes_two_runs():
    tried = []

    def is_met(rate):
        tried.append(rate)
        return rate <= 61.8

    found = bisect_rate(is_met, 100.0, 0.01, near_rps=61.8)
    assert len(tried) == 2
    assert found == bisect_rate(is_met, 100.0, 0.01)
    assert len(tried) > 2 + 6


def test_a_rate_is_never_above_the_bound():
    assert 99.0 <= bisect_rate(lambda _: True, 100.0, 0.01) <= 100.0


def test_a_condition_never_met_gives_zero():
    tried = []
    assert bisect_rate(lambda rate: tried.append(rate), 100.0, 0.01) == 0.0
    assert min(tried) >= 100.0 * 1e-6


def test_a_missed_floor_ends_the_search():
    tried = []

    def is_met(rate):
        tried.append(rate)
        return rate <= 10.0

    assert bisect_rate(is_met, 100.0, 0.01, floor_rps=20.0) == 0.0
    assert tried == [20.0]
    assert bisect_rate(is_met, 100.0, 0.01, floor_rps=5.0) == pytest.approx(
        10, rel=0.01
    )
    assert bisect_rate(is_met, 100.0, 0.01, floor_rps=200.0) == 0.0


def test_equal_seeds_give_equal_answers_and_others_differ():
    first, again, other = (
        goodput(BOTH, WORKLOAD, SLO, effort=QUICK, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.rate_rps != other.rate_rps


def test_a_system_twice_as_fast_serves_twice_as_much():
    # Common random numbers: time is scaled by two, and nothing else changes.
    twice = ServingSystem(
        replicas=(tiny_replica(Phase.AGGREGATED, TABLE.scaled(0.5)),),
        kv_bytes_per_token=0.0,
    )
    effort = Effort(min_requests=100, max_requests=100)
    slow = goodput(BOTH, WORKLOAD, SLO, effort=effort)
    fast = goodput(twice, WORKLOAD, SLO.scaled(0.5), effort=effort)
    assert fast.rate_rps == pytest.approx(2 * slow.rate_rps)


def test_several_seeds_give_a_mean_and_its_interval():
    effort = Effort(min_requests=100, max_requests=100, num_seeds=3)
    found = goodput(BOTH, WORKLOAD, SLO, effort=effort)
    alone = [
        goodput(
            BOTH,
            WORKLOAD,
            SLO,
            effort=Effort(min_requests=100, max_requests=100),
            seed=seed,
        ).rate_rps
        for seed in range(3)
    ]
    mean = sum(alone) / 3
    deviation = math.sqrt(sum((rate - mean) ** 2 for rate in alone) / 2)
    assert found.rate_rps == pytest.approx(mean)
    # Student's t at 97.5 % with two degrees of freedom is 4.3027.
    assert found.high_rps - mean == pytest.approx(
        4.3027 * deviation / math.sqrt(3), rel=1e-4
    )
    assert (found.num_seeds, found.confidence_frac) == (3, 0.95)


def test_an_impossible_slo_gives_zero_and_how_nearly_it_is_met():
    missed = goodput(BOTH, WORKLOAD, Slo(ttft_ms=5, tpot_ms=12), effort=QUICK)
    assert (missed.rate_rps, missed.light_load_frac) == (0.0, 0.0)
    alone = Slo(ttft_ms=5, tpot_ms=12, rule=SloRule.EACH)
    assert goodput(BOTH, WORKLOAD, alone, effort=QUICK).light_load_frac == 0.0
    met = goodput(BOTH, WORKLOAD, SLO, effort=QUICK)
    assert met.light_load_frac == 1.0


def test_a_decode_replica_without_work_takes_any_rate():
    decode = ServingSystem(
        replicas=(tiny_replica(Phase.DECODE, TABLE),), kv_bytes_per_token=0.0
    )
    one_token = Workload.poisson(rate_rps=1.0, lengths="100x1")
    found = goodput(decode, one_token, Slo(tpot_ms=12), effort=QUICK)
    assert found.rate_rps > 1e9


def test_goodput_stays_below_the_capacity():
    found = goodput(BOTH, WORKLOAD, Slo(ttft_ms=1e6), effort=QUICK)
    # 10 ms of prefill for up to 81 prompts of 100 tokens and 256 in a decode step.
    assert found.rate_rps <= found.capacity_rps
    assert found.rate_rps == pytest.approx(found.capacity_rps, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(
    rate=st.floats(1.0, 120.0),
    ttft=st.floats(8.0, 200.0),
    tpot=st.floats(3.0, 40.0),
    e2e=st.one_of(st.none(), st.floats(50.0, 500.0)),
    attainment=st.sampled_from([0.5, 0.9, 1.0]),
    rule=st.sampled_from(SloRule),
    lengths=st.sampled_from(["100x11", "100x1", "30x2"]),
)
def test_the_early_verdict_is_that_of_the_whole_simulation(
    rate, ttft, tpot, e2e, attainment, rule, lengths
):
    slo = Slo(
        ttft_ms=ttft, tpot_ms=tpot, e2e_ms=e2e, attainment_frac=attainment, rule=rule
    )
    requests = Workload.poisson(rate_rps=rate, lengths=lengths).draw(60, seed=0)
    assert meets(BOTH, requests, slo) == slo.judge(simulate(BOTH, requests)).is_met


def test_runs_are_longer_at_higher_rates_within_limits():
    effort = Effort(min_requests=10, max_requests=50, span_s=2.0)
    assert [effort.num_requests(rate) for rate in (1.0, 10.0, 100.0)] == [10, 20, 50]


def test_an_effort_with_its_limits_crossed_is_refused():
    with pytest.raises(InputError, match="max_requests"):
        Effort(min_requests=10, max_requests=5)
