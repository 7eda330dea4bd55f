"""What a result says: metrics, verdicts, accounting, and stopping early."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.simulator.build import SimulationOptions, StopLimits
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from tests.planner.simulator.systems import (
    TIMES,
    eighths,
    many_requests,
    systems,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

UNIT_STEPS = tiny_table(prefill_ms=1.0, decode_ms=1.0)
PER_TOKEN = tiny_table(per_prompt_token_ms=1.0, decode_ms=1.0)


def two_requests() -> SimulationResult:
    """Aggregated, steps of 1 ms: 4 tokens from 0 to 4, and 1 token from 10 to 11."""
    both = tiny_replica(Phase.AGGREGATED, UNIT_STEPS)
    return simulate(tiny_system(both), tiny_requests((0.0, 2, 4), (10.0, 2, 1)))


def test_metrics_of_a_request():
    result = two_requests()
    assert result.ttft_ms.tolist() == [1.0, 1.0]
    assert result.e2e_ms.tolist() == [4.0, 1.0]
    assert result.tpot_ms[0] == 1.0  # (4 - 1) / (4 - 1)
    assert np.isnan(result.tpot_ms[1])
    assert result.percentile_ms("tpot", 99) == 1.0
    assert result.served_rps() == pytest.approx(2 / 0.011)


def test_a_one_token_request_meets_any_tpot_limit():
    assert two_requests().meets({"tpot": 0.5}).tolist() == [False, True]
    assert two_requests().meets({"tpot": 1.0, "e2e": 3.0}).tolist() == [False, True]


def test_an_unknown_metric_is_named():
    with pytest.raises(InputError, match=r"metric = 'ttfb'.*ttft, tpot, e2e"):
        two_requests().percentile_ms("ttfb", 50)


def test_warm_up_requests_are_left_out():
    assert two_requests().after(5.0).arrival_ms.tolist() == [10.0]
    with pytest.raises(InputError, match="at most 10"):
        two_requests().after(11.0)


def misses(result: SimulationResult, limits: StopLimits) -> int:
    """Requests that miss: any limit when joint, else of the worst limit."""
    limits_ms = {
        name: getattr(limits, f"{name}_ms")
        for name in ("ttft", "tpot", "e2e")
        if getattr(limits, f"{name}_ms") is not None
    }
    sets = [limits_ms] if limits.is_joint else [{k: v} for k, v in limits_ms.items()]
    return max(int((~result.meets(each)).sum()) for each in sets)


@st.composite
def stop_limits(draw: st.DrawFn) -> StopLimits:
    """At least one limit, somewhere in the range of the drawn systems."""
    ranges = {"ttft_ms": eighths(400, least=1), "tpot_ms": eighths(120, least=1)}
    ranges["e2e_ms"] = eighths(2000, least=1)
    named = draw(st.sets(st.sampled_from(sorted(ranges)), min_size=1))
    return StopLimits(
        **{name: draw(ranges[name]) for name in sorted(named)},
        max_misses=draw(st.integers(0, 6)),
        is_joint=draw(st.booleans()),
    )


@given(systems(), many_requests(), stop_limits(), st.booleans())
@settings(max_examples=250, deadline=None)
def test_stopping_early_gives_the_verdict_of_the_full_run(
    system, requests, limits, is_tight
):
    """Also where requests are rejected, before or after their first token."""
    if is_tight:
        small = [replace(r, kv_capacity_tokens=24) for r in system.replicas]
        system = replace(system, replicas=tuple(small))
    full = simulate(system, requests)
    stopped = simulate(system, requests, options=SimulationOptions(stop_limits=limits))
    assert stopped.num_unfinished >= 0
    if stopped.is_complete:
        for name in TIMES:
            np.testing.assert_array_equal(getattr(full, name), getattr(stopped, name))
    else:
        assert misses(full, limits) > limits.max_misses
    for stats in stopped.replicas:
        assert stats.prefill_busy_frac + stats.decode_busy_frac <= 1.0 + 1e-9


def test_a_run_stops_at_the_first_miss_too_many():
    """One prompt a millisecond, one served every 2 ms, TTFT limit 4 ms.

    TTFT is 2, 3, 4, 5, …: the fourth request misses, at 8 ms.
    """
    prefill = tiny_replica(Phase.PREFILL, tiny_table(prefill_ms=2.0), max_num_seqs=1)
    requests = tiny_requests(*[(float(i), 1, 1) for i in range(100)])
    limits = StopLimits(ttft_ms=4.0, max_misses=0, is_joint=False)
    result = simulate(
        tiny_system(prefill), requests, options=SimulationOptions(stop_limits=limits)
    )
    assert not result.is_complete
    assert result.num_done == 4
    assert result.end_ms == 8.0
    assert result.num_unfinished == 96


def test_a_late_request_that_is_then_rejected_misses_ttft_once():
    """r0 takes 4 ms of a limit of 2.5 and is too long for the decode replica."""
    prefill = tiny_replica(Phase.PREFILL, PER_TOKEN)
    decode = tiny_replica(Phase.DECODE, PER_TOKEN, kv_capacity_tokens=5)
    limits = StopLimits(ttft_ms=2.5, max_misses=1, is_joint=False)
    result = simulate(
        tiny_system(prefill, decode),
        tiny_requests((0.0, 4, 4), (10.0, 1, 2)),
        options=SimulationOptions(stop_limits=limits),
    )
    assert result.is_complete
    assert result.is_done.tolist() == [False, True]
