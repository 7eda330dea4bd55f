"""Chunked prefill, with every step worked out by hand.

A prompt token costs 1 ms, a decode step 1 ms whatever its batch. So a step of L prompt
tokens and B >= 1 decodes takes L + B ms, and the decodes add nothing beside.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.fields import InputError
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
CHUNKED = Batching.CHUNKED


def test_decodes_go_on_while_a_prompt_is_prefilled_in_chunks():
    """Budget 4. r0 has its first token at 2; r1 (6 tokens) comes at 0.5.

    Two steps of 3 + 1 tokens to 6 and 10: r1 has its first token, r0 its third. A
    decode step of both ends them at 11.
    """
    both = tiny_replica(Phase.AGGREGATED, PER_TOKEN, policy=CHUNKED, max_batch_tokens=4)
    requests = tiny_requests((0.0, 2, 4), (0.5, 6, 2))
    for run in (simulate, step_by_step):
        result = run(tiny_system(both), requests)
        assert result.first_token_ms.tolist() == [2.0, 10.0]
        assert result.finish_ms.tolist() == [11.0, 11.0]
    stats = result.replicas[0]
    assert (stats.num_prefill_steps, stats.num_prefill_tokens) == (1, 8)
    assert (stats.num_mixed_steps, stats.num_mixed_tokens) == (2, 8)
    assert (stats.num_decode_steps, stats.num_decode_tokens) == (1, 4)
    assert stats.mixed_busy_frac == pytest.approx(8 / 11)


def test_chunks_without_decodes_come_before_any_decode_step():
    """The same, but steps of chunks alone: 4 tokens to 6, 2 to 8; then both decode.

    r1 ends with the step to 9, r0 has two more to go.
    """
    both = tiny_replica(
        Phase.AGGREGATED,
        PER_TOKEN,
        policy=Batching.PREFILL_FIRST_CHUNKED,
        max_batch_tokens=4,
    )
    result = simulate(tiny_system(both), tiny_requests((0.0, 2, 4), (0.5, 6, 2)))
    assert result.first_token_ms.tolist() == [2.0, 8.0]
    assert result.finish_ms.tolist() == [11.0, 9.0]
    assert result.replicas[0].num_mixed_steps == 0


def test_chunks_of_one_prompt_follow_each_other_through_a_pipeline():
    """Two stages, 2 + 2 tokens: stage 1 from 0 to 2 to 4, stage 2 from 2 to 4 to 6.

    The whole prompt in one step takes 4 ms on each stage and ends at 8.
    """
    requests = tiny_requests((0.0, 4, 1))
    for budget, first_token_ms in ((2, 6.0), (4, 8.0)):
        prefill = tiny_replica(
            Phase.PREFILL, PER_TOKEN, PER_TOKEN, policy=CHUNKED, max_batch_tokens=budget
        )
        result = simulate(tiny_system(prefill), requests)
        assert result.first_token_ms.tolist() == [first_token_ms]


def test_chunks_in_turn_leave_the_pipeline_one_after_the_other():
    """The same 2 + 2 tokens: the second chunk starts at 4, when the first is through.

    Another prompt fills the gap: its chunk is on stage 1 from 2 to 4.
    """
    prefill = tiny_replica(
        Phase.PREFILL,
        PER_TOKEN,
        PER_TOKEN,
        policy=CHUNKED,
        max_batch_tokens=2,
        has_chunks_in_turn=True,
    )
    alone = simulate(tiny_system(prefill), tiny_requests((0.0, 4, 1)))
    assert alone.first_token_ms.tolist() == [8.0]
    two = simulate(tiny_system(prefill), tiny_requests((0.0, 4, 1), (0.0, 2, 1)))
    assert two.first_token_ms.tolist() == [8.0, 6.0]


def test_a_step_has_tokens_of_so_many_prompts_at_most():
    """Prompts of 2 tokens under a budget of 4: together to 4, or one each step."""
    requests = tiny_requests((0.0, 2, 1), (0.0, 2, 1))
    for most, first_token_ms in ((None, [4.0, 4.0]), (1, [2.0, 4.0])):
        for policy in (CHUNKED, Batching.PREFILL_FIRST):
            prefill = tiny_replica(
                Phase.PREFILL,
                PER_TOKEN,
                policy=policy,
                max_batch_tokens=4,
                max_step_prompts=most,
            )
            result = simulate(tiny_system(prefill), requests)
            assert result.first_token_ms.tolist() == first_token_ms


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.AGGREGATED])
@pytest.mark.parametrize("policy", [CHUNKED, Batching.PREFILL_FIRST_CHUNKED])
@given(st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_n_chunks_on_p_equal_stages_take_n_plus_p_minus_1_chunk_times(
    policy, phase, num_chunks, num_stages
):
    # Chunked pipeline parallelism: 4 ms a chunk of 4 tokens on every stage.
    stages = [tiny_table(per_prompt_token_ms=1.0)] * num_stages
    replica = tiny_replica(phase, *stages, policy=policy, max_batch_tokens=4)
    result = simulate(tiny_system(replica), tiny_requests((0.0, 4 * num_chunks, 1)))
    assert result.first_token_ms.tolist() == [4.0 * (num_chunks + num_stages - 1)]


def test_attention_of_the_chunks_adds_up_to_that_of_the_prompt():
    """c = 1: chunks of 2, 2 and 1 cost 4 + (4 + 8) + (1 + 8) = 25 = 5 squared."""
    table = tiny_table()
    square = type(table)(
        prefill_tokens=(0.0,),
        prefill_ms=(0.0,),
        prefill_per_sq_token_ms=1.0,
        decode_batch=(0.0,),
        decode_ms=(0.0,),
        decode_per_kv_token_ms=(0.0,),
    )
    prefill = tiny_replica(Phase.PREFILL, square, policy=CHUNKED, max_batch_tokens=2)
    result = simulate(tiny_system(prefill), tiny_requests((0.0, 5, 1)))
    assert result.first_token_ms.tolist() == [25.0]


def test_a_cut_chunk_ends_at_a_tile_of_the_step():
    """Budget 10, tiles of 4: beside the decode of r0, r1 has 8 - 1 = 7 of 10 tokens.

    Steps: r0 to 1; 8 tokens to 9; 3 + 1 tokens to 13. A prompt of 9 fits beside r0, so
    nothing is cut: 10 tokens to 11.
    """
    both = tiny_replica(
        Phase.AGGREGATED,
        PER_TOKEN,
        policy=CHUNKED,
        max_batch_tokens=10,
        chunk_tile_tokens=4,
    )
    for tokens, first_token_ms in ((10, 13.0), (9, 11.0)):
        requests = tiny_requests((0.0, 1, 9), (0.5, tokens, 2))
        result = simulate(tiny_system(both), requests)
        assert result.first_token_ms.tolist() == [1.0, first_token_ms]


def test_prompts_share_a_step_when_a_chunk_is_capped():
    """3 + 3 tokens in chunks of at most 2: (2 + 2) to 4, then (1 + 1) to 6.

    One prompt half prefilled at a time: r0 has 2, then 1 beside 2 of r1 (to 5), then r1
    has its last (to 6).
    """
    requests = tiny_requests((0.0, 3, 1), (0.0, 3, 1))
    for most, times in ((None, [6.0, 6.0]), (1, [5.0, 6.0])):
        prefill = tiny_replica(
            Phase.PREFILL,
            PER_TOKEN,
            policy=CHUNKED,
            max_chunk_tokens=2,
            max_partial_prompts=most,
        )
        result = simulate(tiny_system(prefill), requests)
        assert result.first_token_ms.tolist() == times


def test_a_half_prefilled_prompt_gives_way_to_decodes_admitted_before():
    """9 blocks of one token, budget 2. r0 (2 + 4 tokens) has its first token at 2.

    r1 (5 tokens, 6 blocks) comes at 0.5 and is admitted at 2, when r0 holds 3 blocks: a
    chunk of one beside r0 to 4. The next token of r0 finds no block, so r1 gives way,
    and r0 runs alone to 5 and 6. Then r1 starts again: chunks of 2, 2 and 1.
    """
    both = tiny_replica(
        Phase.AGGREGATED,
        PER_TOKEN,
        policy=CHUNKED,
        max_batch_tokens=2,
        kv_capacity_tokens=9,
    )
    requests = tiny_requests((0.0, 2, 4), (0.5, 5, 1))
    for run in (simulate, step_by_step):
        result = run(tiny_system(both), requests)
        assert result.num_preemptions == 1
        assert result.prefill_start_ms.tolist() == [0.0, 2.0]
        assert result.finish_ms.tolist() == [6.0, 11.0]


def test_more_decodes_than_budget_leave_no_room_for_chunks():
    """Budget 2, two decodes from 2 on: r2 waits until one of them has ended, at 4."""
    both = tiny_replica(Phase.AGGREGATED, PER_TOKEN, policy=CHUNKED, max_batch_tokens=2)
    requests = tiny_requests((0.0, 1, 3), (0.0, 1, 9), (2.5, 1, 1))
    result = simulate(tiny_system(both), requests)
    assert result.finish_ms.tolist()[0] == 4.0
    assert result.prefill_start_ms.tolist()[2] == 4.0


def test_a_tile_larger_than_the_budget_is_refused():
    with pytest.raises(InputError, match=r"chunk_tile_tokens = 8.*max_batch_tokens"):
        BatchLimits(policy=CHUNKED, max_batch_tokens=7, chunk_tile_tokens=8)
