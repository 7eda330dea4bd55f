"""Rating a phase alone."""

import pytest

from planner.search.contract import Ledger
from planner.search.phases import phase_slo, rate_alone
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.tiny_problems import context_of, tiny_problem


def rates_of(phase, slo, **problem):
    context = context_of(tiny_problem(slo=slo, tp=(1,), max_pp=1, **problem))
    usable = usable_shapes(context.evaluator.planner, phase, Ledger())
    ledger = Ledger()
    rated = rate_alone(context, usable, phase, ledger)
    assert ledger.evaluated == len(usable) == 1
    return rated[0]


def test_a_phase_answers_for_its_own_limits():
    slo = Slo(ttft_ms=1, tpot_ms=2, e2e_ms=3)
    assert phase_slo(slo, Phase.PREFILL).limits_ms == {"ttft": 1}
    assert phase_slo(slo, Phase.DECODE).limits_ms == {"tpot": 2}
    assert phase_slo(slo, Phase.AGGREGATED) is slo
    assert phase_slo(Slo(e2e_ms=3), Phase.DECODE).limits_ms == {"e2e": 3}
    assert phase_slo(Slo(ttft_ms=1), Phase.DECODE) is None


def test_a_phase_without_a_limit_is_rated_by_its_capacity():
    # Ten steps of 256 requests, 10 + 128 ms each.
    rated = rates_of(Phase.DECODE, Slo(ttft_ms=60))
    assert rated.rate_rps == pytest.approx(256 / 1.38, rel=1e-6)


def test_a_phase_is_not_held_back_by_the_other():
    # The prefill replica alone, whatever the limit on TPOT.
    strict, loose = (
        rates_of(Phase.PREFILL, Slo(ttft_ms=60, tpot_ms=tpot)) for tpot in (1, 100)
    )
    assert strict.rate_rps == loose.rate_rps > 0
    assert strict.usd_per_hour == pytest.approx(2.5)


def test_an_impossible_limit_is_told_from_a_missed_one():
    missed = rates_of(Phase.PREFILL, Slo(ttft_ms=1))
    assert (missed.rate_rps, missed.light_load_frac) == (0.0, 0.0)


def test_answers_of_one_token_leave_decode_unlimited():
    assert rates_of(Phase.DECODE, Slo(ttft_ms=60), lengths="100x1").rate_rps > 1e9
