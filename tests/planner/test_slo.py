"""Slo: what must hold of how many requests."""

import numpy as np
import pytest

from clusters.fields import InputError
from planner.simulator.outcome import SimulationResult
from planner.slo import Slo, SloRule, margin_ms


def result_of(ttft_ms, tpot_ms, output_tokens=None, *, refused=(), complete=True):
    """Requests that arrive at 0 and have these latencies (3 tokens unless given)."""
    first = np.array(ttft_ms, dtype=np.float64)
    outputs = np.array(output_tokens or [3] * len(first))
    finish = first + np.array(tpot_ms) * (outputs - 1)
    is_refused = np.isin(np.arange(len(first)), refused)
    first[is_refused] = finish[is_refused] = np.nan
    nothing = np.full(len(first), np.nan)
    return SimulationResult(
        arrival_ms=np.zeros(len(first)),
        input_tokens=np.ones(len(first), dtype=np.int64),
        output_tokens=outputs,
        prefill_start_ms=nothing,
        first_token_ms=first,
        transfer_start_ms=nothing,
        decode_ready_ms=nothing,
        finish_ms=finish,
        prefill_replica=np.zeros(len(first), dtype=np.int64),
        decode_replica=np.zeros(len(first), dtype=np.int64),
        is_done=~is_refused,
        is_rejected=is_refused,
        num_preemptions=0,
        num_events=0,
        end_ms=1.0,
        sample_ms=1.0,
        replicas=(),
        is_complete=complete,
    )


# The first request misses TPOT, the last one TTFT.
CROSSED = result_of([1, 1, 1, 5], [9, 1, 1, 1])


def test_joint_rule_counts_requests_that_meet_every_limit():
    met = Slo(ttft_ms=2, tpot_ms=2, attainment_frac=0.75).judge(CROSSED)
    assert (met.joint_frac, met.ttft_frac, met.tpot_frac) == (0.5, 0.75, 0.75)
    assert not met.is_met


def test_each_rule_holds_every_limit_alone():
    slo = Slo(ttft_ms=2, tpot_ms=2, attainment_frac=0.75, rule=SloRule.EACH)
    assert slo.judge(CROSSED).is_met
    assert slo.binding_frac(slo.judge(CROSSED)) == 0.75


def test_joint_rule_binds_at_the_joint_share():
    slo = Slo(ttft_ms=2, tpot_ms=2)
    assert slo.binding_frac(slo.judge(CROSSED)) == 0.5


def test_a_limit_includes_its_value():
    assert Slo(ttft_ms=5, attainment_frac=1.0).judge(CROSSED).is_met


def test_one_token_requests_meet_any_tpot_limit():
    one = result_of([1, 1], [0, 9], [1, 3])
    assert Slo(tpot_ms=2).judge(one).tpot_frac == 0.5


def test_refused_requests_miss_every_limit():
    half = result_of([1, 1], [1, 1], refused=[1])
    met = Slo(ttft_ms=2, tpot_ms=2, e2e_ms=100).judge(half)
    assert (met.ttft_frac, met.tpot_frac, met.e2e_frac) == (0.5, 0.5, 0.5)


def test_an_interrupted_simulation_is_not_judged():
    with pytest.raises(InputError, match="a complete simulation"):
        Slo(ttft_ms=2).judge(result_of([1], [1], complete=False))


@pytest.mark.parametrize(
    ("attainment_frac", "num_requests", "misses"),
    [(0.9, 300, 30), (0.9, 9, 0), (0.99, 100, 1), (1.0, 1000, 0), (0.95, 20, 1)],
)
def test_max_misses_is_not_one_short_by_rounding(attainment_frac, num_requests, misses):
    slo = Slo(ttft_ms=1, attainment_frac=attainment_frac)
    assert slo.max_misses(num_requests) == misses
    assert slo.stop_limits(num_requests).max_misses == misses


def test_without_limits_those_of_chat_hold():
    assert Slo().limits_ms == {"ttft": 2000.0, "tpot": 30.0}
    assert Slo(e2e_ms=5).limits_ms == {"e2e": 5}


def test_only_keeps_the_limits_named():
    slo = Slo(ttft_ms=1, tpot_ms=2, attainment_frac=0.8, rule=SloRule.EACH)
    assert slo.only("tpot") == Slo(tpot_ms=2, attainment_frac=0.8, rule=SloRule.EACH)
    assert slo.only("e2e") is None


def test_scaled_multiplies_every_limit():
    assert Slo(ttft_ms=100, tpot_ms=20).scaled(0.5).limits_ms == {
        "ttft": 50.0,
        "tpot": 10.0,
    }


def test_margin_is_the_room_under_the_limit_at_the_percentile():
    # Linear interpolation: the median of 1, 1, 1, 5 is 1.
    assert margin_ms(Slo(ttft_ms=2, attainment_frac=0.5), CROSSED) == {"ttft": 1.0}


def test_description_names_limits_share_and_rule():
    text = Slo(ttft_ms=400, tpot_ms=40).describe()
    assert text == "TTFT <= 400 ms, TPOT <= 40 ms for 90 % of requests (joint)"


@pytest.mark.parametrize("bad", [{"ttft_ms": 0}, {"attainment_frac": 1.5}])
def test_impossible_limits_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Slo(**bad)
