"""What must hold for any system and any requests (Hypothesis)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.latency.step_table import StepTable
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, Phase, Routing
from planner.simulator.transfer_settings import TransferMode
from tests.planner.simulator.systems import (
    CHUNKED,
    TIMES,
    any_system,
    eighths,
    many_requests,
    step_tables,
    systems,
    tiny_replica,
    tiny_requests,
    tiny_system,
)


def assert_in_order(*times: np.ndarray) -> None:
    """Each not before the one before it, where both exist."""
    for earlier, later in pairwise(times):
        known = ~np.isnan(earlier) & ~np.isnan(later)
        assert (earlier[known] <= later[known]).all()


@given(any_system(), many_requests())
@settings(max_examples=120, deadline=None)
def test_every_feasible_request_is_served_and_accounted_for(system, requests):
    """No request is left behind with nothing to happen any more."""
    result = simulate(system, requests)
    assert result.is_complete
    assert result.num_rejected == 0  # every drawn replica can hold any request alone
    assert result.num_unfinished == 0
    assert result.num_done == result.num_arrived == len(requests)
    prefills = [r.phase is not Phase.DECODE for r in system.replicas]
    if system.routing is Routing.SPLITWISE:  # replicas serve the other phase too
        routed = sum(stats.num_requests for stats in result.replicas)
        # Where nothing prefills, an answer of one token needs no replica.
        longer = int((requests.output_tokens > 1).sum())
        least = len(requests) if any(prefills) else longer
        assert least <= routed <= 2 * len(requests)
        return
    per_phase = [
        sum(r.num_requests for r, p in zip(result.replicas, prefills, strict=True) if p)
    ]
    assert per_phase == [len(requests) if any(prefills) else 0]


@given(any_system(), many_requests())
@settings(max_examples=120, deadline=None)
def test_times_of_a_request_are_in_order(system, requests):
    result = simulate(system, requests)
    assert_in_order(
        result.arrival_ms,
        result.prefill_start_ms,
        result.transfer_start_ms,
        result.decode_ready_ms,
        result.finish_ms,
    )
    assert_in_order(result.prefill_start_ms, result.first_token_ms)
    assert_in_order(result.first_token_ms, result.decode_ready_ms)
    if system.kv_transfer.mode is TransferMode.SERIALIZED:
        assert_in_order(result.first_token_ms, result.transfer_start_ms)
    assert_in_order(result.first_token_ms, result.finish_ms)
    assert result.end_ms == result.finish_ms.max()


@given(any_system(), many_requests())
@settings(max_examples=120, deadline=None)
def test_no_replica_works_or_stores_more_than_it_can(system, requests):
    result = simulate(system, requests)
    for given_replica, stats in zip(system.replicas, result.replicas, strict=True):
        busy = stats.prefill_busy_frac + stats.decode_busy_frac + stats.mixed_busy_frac
        assert busy <= 1.0 + 1e-9
        assert 0.0 <= stats.kv_mean_frac <= stats.kv_peak_frac + 1e-9 <= 1.0 + 1e-9
        assert all(0.0 <= share <= 1.0 for share in stats.kv_curve_frac)
        is_lent = system.routing is Routing.SPLITWISE
        if given_replica.phase is Phase.PREFILL and not is_lent:
            assert stats.num_decode_tokens == 0
    # Every token but the first comes from a decode step, or from a recomputation. A
    # prompt that is half prefilled may be preempted too, and that costs no token.
    if any(r.phase is not Phase.PREFILL for r in system.replicas):
        decoded = sum(stats.num_decode_tokens for stats in result.replicas)
        later_tokens = int((requests.output_tokens - 1).sum())
        assert later_tokens - result.num_preemptions <= decoded <= later_tokens
        if not any(r.limits.policy in CHUNKED for r in system.replicas):
            assert decoded == later_tokens - result.num_preemptions


def union_ms(starts: np.ndarray, ends: np.ndarray) -> float:
    """Length of the union of intervals that are sorted by their starts."""
    total, until = 0.0, -np.inf
    for start, end in zip(starts, ends, strict=True):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


@given(systems(policies=tuple(Batching), shapes=("both",)), many_requests())
@settings(max_examples=100, deadline=None)
def test_a_replica_with_requests_is_never_idle(system, requests):
    """Work conservation: some stage works just while somebody is there."""
    result = simulate(system, requests)
    for index, stats in enumerate(result.replicas):
        mine = result.prefill_replica == index
        present_ms = union_ms(result.arrival_ms[mine], result.finish_ms[mine])
        assert stats.active_frac * result.end_ms == pytest.approx(present_ms)


@given(any_system(), many_requests())
@settings(max_examples=50, deadline=None)
def test_the_same_inputs_give_the_same_arrays(system, requests):
    one, two = simulate(system, requests), simulate(system, requests)
    for name in ("arrival_ms", *TIMES, "prefill_replica", "decode_replica"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.replicas == two.replicas
    assert one.num_events == two.num_events


@given(
    st.lists(step_tables(), min_size=1, max_size=2),
    st.lists(st.tuples(eighths(80), st.integers(1, 24)), min_size=2, max_size=20),
    st.floats(1.0, 4.0),
)
@settings(max_examples=100, deadline=None)
def test_more_load_never_serves_a_request_earlier_without_batching(
    tables, rows, factor
):
    """The same prompts with every gap divided by `factor`."""
    system = tiny_system(tiny_replica(Phase.PREFILL, *tables, max_num_seqs=1))
    arrivals = np.cumsum([gap for gap, _ in rows])
    lengths = [tokens for _, tokens in rows]
    ttft = [
        simulate(
            system,
            tiny_requests(*((at, n, 1) for at, n in zip(times, lengths, strict=True))),
        ).ttft_ms
        for times in (arrivals, arrivals / factor)
    ]
    assert (ttft[1] >= ttft[0] - 1e-9).all()


@given(
    st.lists(step_tables(), min_size=1, max_size=2),
    many_requests(),
    st.floats(0.1, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_a_faster_table_never_finishes_later_without_batching(tables, requests, factor):
    slow = tiny_system(tiny_replica(Phase.PREFILL, *tables, max_num_seqs=1))
    faster = [table.scaled(factor) for table in tables]
    fast = tiny_system(tiny_replica(Phase.PREFILL, *faster, max_num_seqs=1))
    slow_ms = simulate(slow, requests).finish_ms
    assert (simulate(fast, requests).finish_ms <= slow_ms + 1e-9).all()


def test_with_batching_a_faster_table_may_serve_one_request_later():
    """Why the claim above needs batches of one; arrivals at 0, 0.5 and 0.95.

    Steps of 1 ms: r1 and r2 go together at 1 and end at 2. Steps of 0.9 ms: r1 starts
    alone at 0.9, so r2 starts at 1.8 and ends at 2.7.
    """

    def finish_ms(step_ms: float) -> list[float]:
        table = StepTable(
            prefill_tokens=(0.0,),
            prefill_ms=(step_ms,),
            decode_batch=(0.0,),
            decode_ms=(0.0,),
            decode_per_kv_token_ms=(0.0,),
        )
        requests = tiny_requests((0.0, 1, 1), (0.5, 1, 1), (0.95, 1, 1))
        system = tiny_system(tiny_replica(Phase.PREFILL, table))
        return simulate(system, requests).finish_ms.tolist()

    assert finish_ms(1.0) == pytest.approx([1.0, 2.0, 2.0])
    assert finish_ms(0.9) == pytest.approx([0.9, 1.8, 2.7])
