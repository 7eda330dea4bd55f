"""Orca, request-level batching, reserved outputs, captured batches: steps by hand.

A prompt token costs 1 ms, a decode step 1 ms whatever its batch.
"""

import pytest

from clusters.fields import InputError
from models.latency.step_table import StepTable
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, BatchLimits, Phase
from tests.planner.simulator.systems import (
    step_by_step,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

PER_TOKEN = tiny_table(per_prompt_token_ms=1.0, decode_ms=1.0)


def test_orca_puts_whole_prompts_beside_the_decodes():
    """r0 (2 tokens) to 2; r1 (6, came at 0.5) beside its decode, 7 tokens, to 9.

    Then both decode: r1 ends at 10, r0 at 11.
    """
    both = tiny_replica(Phase.AGGREGATED, PER_TOKEN, policy=Batching.ORCA)
    requests = tiny_requests((0.0, 2, 4), (0.5, 6, 2))
    for run in (simulate, step_by_step):
        result = run(tiny_system(both), requests)
        assert result.first_token_ms.tolist() == [2.0, 9.0]
        assert result.finish_ms.tolist() == [11.0, 10.0]
        assert result.replicas[0].num_mixed_steps == 1


def test_orca_keeps_prompts_together_under_the_budget_but_takes_one_in_any_case():
    """Budget 5: (6) alone to 6, then r0's decode with (3) to 10, then both with (2)."""
    both = tiny_replica(
        Phase.AGGREGATED, PER_TOKEN, policy=Batching.ORCA, max_batch_tokens=5
    )
    requests = tiny_requests((0.0, 6, 9), (0.0, 3, 9), (0.0, 2, 1))
    result = simulate(tiny_system(both), requests)
    assert result.first_token_ms.tolist() == [6.0, 10.0, 14.0]


@pytest.mark.parametrize(
    ("limits", "starts_ms", "num_preemptions"),
    [
        ({"policy": Batching.ORCA}, [0.0, 6.0], 0),
        ({"is_output_reserved": True}, [0.0, 6.0], 0),
        ({}, [0.0, 0.0], 1),
    ],
)
def test_reserved_blocks_admit_fewer_and_preempt_nobody(
    limits, starts_ms, num_preemptions
):
    """10 blocks of one token, two requests of 2 + 5 tokens: 7 blocks each reserved.

    Otherwise both have 3 blocks, and at 10 one of them gives way. Prompts together
    take 4 ms, alone 2 ms, then four decode steps.
    """
    both = tiny_replica(Phase.AGGREGATED, PER_TOKEN, kv_capacity_tokens=10, **limits)
    result = simulate(tiny_system(both), tiny_requests((0.0, 2, 5), (0.0, 2, 5)))
    assert result.prefill_start_ms.tolist() == starts_ms
    assert result.num_preemptions == num_preemptions


def test_a_reservation_may_exceed_the_output_and_never_falls_short_of_it():
    """20 blocks; prompts of 2; outputs of 2 (5 reserved, so 7) and 9 (its own, so 11).

    18 of 20 blocks are taken from the start to the end of r0 at 1.
    """
    both = tiny_replica(
        Phase.AGGREGATED,
        tiny_table(decode_ms=1.0),
        kv_capacity_tokens=20,
        is_output_reserved=True,
        reserved_output_tokens=5,
    )
    result = simulate(tiny_system(both), tiny_requests((0.0, 2, 2), (0.0, 2, 9)))
    assert result.finish_ms.tolist() == [1.0, 8.0]
    stats = result.replicas[0]
    assert stats.kv_peak_frac == 18 / 20
    assert stats.kv_mean_frac == pytest.approx((18 + 7 * 11) / 8 / 20)


def test_a_request_level_batch_returns_together_and_then_admits_the_next():
    """Both prompts (2 + 3 tokens) to 5, tokens to 6 and 8: both return at 8.

    r2 came at 1 and starts at 8.
    """
    both = tiny_replica(Phase.AGGREGATED, PER_TOKEN, policy=Batching.REQUEST_LEVEL)
    requests = tiny_requests((0.0, 2, 2), (0.0, 3, 4), (1.0, 1, 1))
    result = simulate(tiny_system(both), requests)
    assert result.first_token_ms.tolist() == [5.0, 5.0, 9.0]
    assert result.finish_ms.tolist() == [8.0, 8.0, 9.0]


def test_a_padded_batch_computes_the_longest_prompt_and_ended_requests_too():
    """Steps of B + 0.25 S ms. Prompts of 2, 3 and 1 tokens at 3 each: to 9 ms.

    Outputs of 2, 3 and 1. They attend to 3, 4 and 2 tokens: 3 + 9/4 ms; then to 4, 5
    and 3: 3 + 12/4 ms; r2 ended with its prompt, r0 with the first of these steps.
    """
    table = StepTable(
        prefill_tokens=(0.0, 1.0),
        prefill_ms=(0.0, 1.0),
        decode_batch=(0.0, 1.0),
        decode_ms=(0.0, 1.0),
        decode_per_kv_token_ms=(0.25, 0.25),
    )
    padded = {"policy": Batching.REQUEST_LEVEL, "is_batch_padded": True}
    both = tiny_replica(Phase.AGGREGATED, table, **padded)
    requests = tiny_requests((0.0, 2, 2), (0.0, 3, 3), (0.0, 1, 1))
    for run in (simulate, step_by_step):
        result = run(tiny_system(both), requests)
        assert result.first_token_ms.tolist() == [9.0, 9.0, 9.0]
        assert result.finish_ms.tolist() == [20.25, 20.25, 20.25]


def test_a_step_takes_the_time_of_the_next_captured_batch():
    """G(B) = B: three requests run as 4, two and one as 2; five have no graph: 5."""
    table = StepTable(
        prefill_tokens=(0.0,),
        prefill_ms=(0.0,),
        decode_batch=(0.0, 1.0),
        decode_ms=(0.0, 1.0),
        decode_per_kv_token_ms=(0.0, 0.0),
    )
    decode = tiny_replica(Phase.DECODE, table, graph_batch_sizes=(2, 4))
    result = simulate(
        tiny_system(decode), tiny_requests(*[(0.0, 1, n) for n in (2, 3, 4)])
    )
    assert result.finish_ms.tolist() == [4.0, 6.0, 8.0]
    result = simulate(tiny_system(decode), tiny_requests(*[(0.0, 1, 2)] * 5))
    assert result.finish_ms.tolist() == [5.0] * 5


@pytest.mark.parametrize(
    "limits",
    [
        {"graph_batch_sizes": (4, 2)},
        {"graph_batch_sizes": (0, 2)},
        {"chunk_tile_tokens": 8},
        {"max_chunk_tokens": 8},
        {"policy": Batching.ORCA, "max_partial_prompts": 1},
        {"reserved_output_tokens": 8},
        {"is_batch_padded": True},
        {"policy": Batching.CHUNKED, "max_step_context_tokens": 8},
        {"is_output_reserved": True, "max_step_context_tokens": 8},
    ],
)
def test_settings_that_the_policy_would_not_read_are_refused(limits):
    with pytest.raises(InputError, match=f"^{list(limits)[-1]} = "):
        BatchLimits(**limits)


def test_request_level_batches_need_both_phases_in_one_place():
    with pytest.raises(InputError, match="aggregated with the policy request_level"):
        tiny_replica(Phase.DECODE, PER_TOKEN, policy=Batching.REQUEST_LEVEL)
