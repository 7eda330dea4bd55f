"""What happens to single requests, with every time worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.build import SimulationOptions
from planner.simulator.simulate import simulate
from planner.simulator.system import EdgeShare, KvRoute, Phase, Routing
from tests.planner.simulator.systems import (
    many_requests,
    systems,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

UNIT_STEPS = tiny_table(prefill_ms=1.0, decode_ms=1.0)
PER_TOKEN = tiny_table(per_prompt_token_ms=1.0, decode_ms=1.0)


def test_a_one_token_request_ends_with_its_prefill_and_is_not_transferred():
    system = tiny_system(
        tiny_replica(Phase.PREFILL, UNIT_STEPS), tiny_replica(Phase.DECODE, UNIT_STEPS)
    )
    result = simulate(system, tiny_requests((2.0, 5, 1)))
    assert result.finish_ms.tolist() == result.first_token_ms.tolist() == [3.0]
    assert np.isnan(result.transfer_start_ms).all()
    assert np.isnan(result.tpot_ms).all()
    assert result.decode_replica.tolist() == [-1]


def test_a_request_longer_than_the_kv_cache_is_rejected_and_the_rest_served():
    both = tiny_replica(Phase.AGGREGATED, UNIT_STEPS, kv_capacity_tokens=10)
    result = simulate(tiny_system(both), tiny_requests((0.0, 6, 5), (0.0, 6, 4)))
    assert result.is_rejected.tolist() == [True, False]
    assert result.is_done.tolist() == [False, True]
    assert np.isnan(result.finish_ms[0])
    assert result.num_unfinished == 0


def test_a_request_too_long_for_the_decode_side_frees_its_prefill_blocks():
    prefill = tiny_replica(Phase.PREFILL, UNIT_STEPS, kv_capacity_tokens=6)
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS, kv_capacity_tokens=8)
    requests = tiny_requests((0.0, 6, 5), (0.0, 6, 2))
    result = simulate(tiny_system(prefill, decode), requests)
    assert result.is_rejected.tolist() == [True, False]
    # r1 is prefilled from 1 to 2 in the place of r0, and decodes one step.
    assert result.finish_ms[1] == 3.0


def test_prompts_are_batched_in_order_under_the_token_budget():
    """Budget 8: (5, 3) together for 8 ms, then (9) alone although it is larger."""
    prefill = tiny_replica(Phase.PREFILL, PER_TOKEN, max_batch_tokens=8)
    result = simulate(
        tiny_system(prefill), tiny_requests((0.0, 5, 1), (0.0, 3, 1), (0.0, 9, 1))
    )
    assert result.first_token_ms.tolist() == [8.0, 8.0, 17.0]


def test_pipeline_stages_work_on_different_batches():
    """Two stages of 1 ms: a prompt leaves every millisecond."""
    prefill = tiny_replica(Phase.PREFILL, UNIT_STEPS, UNIT_STEPS, max_num_seqs=1)
    result = simulate(tiny_system(prefill), tiny_requests(*[(0.0, 1, 1)] * 3))
    assert result.first_token_ms.tolist() == [2.0, 3.0, 4.0]
    assert result.replicas[0].prefill_busy_frac == pytest.approx(3 / 4)


def test_a_newcomer_joins_the_batch_at_the_next_step_boundary():
    """Steps of 1 ms from 0: r1 comes at 1.5 and joins at 2 for two steps."""
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS)
    result = simulate(tiny_system(decode), tiny_requests((0.0, 1, 6), (1.5, 1, 3)))
    assert result.finish_ms.tolist() == [5.0, 4.0]
    assert result.replicas[0].num_decode_steps == 5
    assert result.replicas[0].num_decode_tokens == 7


def test_prefill_interrupts_decoding_on_an_aggregated_replica():
    """r0 decodes from 1; r1 comes at 1.5 and is prefilled from 2 to 3."""
    both = tiny_replica(Phase.AGGREGATED, UNIT_STEPS)
    result = simulate(tiny_system(both), tiny_requests((0.0, 1, 4), (1.5, 1, 2)))
    assert result.first_token_ms.tolist() == [1.0, 3.0]
    assert result.finish_ms.tolist() == [5.0, 4.0]


def test_transfers_on_one_link_go_one_after_the_other():
    """4 bytes at 0.5 ms each plus 0.25 ms of latency; all three are asked for at 1.

    The link is taken from 1 to 3, to 5 and to 7; the caches are there 0.25 ms later and
    decode one step of 1 ms.
    """
    prefill = tiny_replica(Phase.PREFILL, UNIT_STEPS)
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS)
    edges = (EdgeShare(edge="nic", ms_per_byte=0.5),)
    routes = tuple(
        KvRoute(source=s, target=3, latency_ms=0.25, ms_per_byte=0.5, edges=edges)
        for s in range(3)
    )
    system = tiny_system(prefill, prefill, prefill, decode, routes=routes)
    result = simulate(system, tiny_requests(*[(0.0, 4, 2)] * 3))
    assert result.transfer_start_ms.tolist() == [1.0, 1.0, 1.0]
    assert result.decode_ready_ms.tolist() == [3.25, 5.25, 7.25]
    assert result.transfer_ms.tolist() == [2.25, 4.25, 6.25]
    assert result.finish_ms.tolist() == [4.25, 6.25, 8.25]


@pytest.mark.parametrize(
    ("routing", "replica", "first_token_ms"),
    [(Routing.ROUND_ROBIN, 0, 11.0), (Routing.SHORTEST_QUEUE, 1, 2.5)],
)
def test_the_shortest_queue_avoids_a_long_prompt(routing, replica, first_token_ms):
    """10 and 1 tokens at 0, 1 token at 1.5, 1 ms a token, two replicas.

    In turn, r2 follows r0 and starts at 10; by work in the system it finds replica 1
    idle since 1.
    """
    prefill = tiny_replica(Phase.PREFILL, PER_TOKEN)
    result = simulate(
        tiny_system(prefill, prefill, routing=routing),
        tiny_requests((0.0, 10, 1), (0.0, 1, 1), (1.5, 1, 1)),
    )
    assert result.prefill_replica.tolist() == [0, 1, replica]
    assert result.first_token_ms[2] == first_token_ms


def test_kv_caches_stay_in_the_slice_of_their_prefill_replica():
    replicas = [
        tiny_replica(phase, UNIT_STEPS, slice=index)
        for index in (0, 1)
        for phase in (Phase.PREFILL, Phase.DECODE)
    ]
    for routing in Routing:
        system = tiny_system(*replicas, routing=routing)
        result = simulate(system, tiny_requests(*[(0.0, 1, 3)] * 4))
        assert (result.decode_replica // 2 == result.prefill_replica // 2).all()
        if routing in (Routing.RANDOM, Routing.POWER_OF_TWO):
            continue
        assert result.prefill_replica.tolist() == [0, 2, 0, 2]
        assert result.decode_replica.tolist() == [1, 3, 1, 3]


def test_capped_decode_steps_take_turns():
    """Cap 10; three requests that attend to 5, 6, then end; steps of 1 ms.

    (r0, r1) have 10 tokens; then r2 and r0 would have 11, so r2 goes alone; then each
    has 6 and goes alone, in the order of the queue.
    """
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS, max_step_context_tokens=10)
    result = simulate(tiny_system(decode), tiny_requests(*[(0.0, 4, 3)] * 3))
    assert result.finish_ms.tolist() == [3.0, 4.0, 5.0]


def test_blocks_of_ended_requests_serve_the_others_of_a_capped_step():
    """10 blocks, both hold 5; r1 ends at 1, so r0 has a block and is not preempted."""
    decode = tiny_replica(
        Phase.DECODE, UNIT_STEPS, max_step_context_tokens=100, kv_capacity_tokens=10
    )
    result = simulate(tiny_system(decode), tiny_requests((0.0, 4, 5), (0.0, 4, 2)))
    assert result.finish_ms.tolist() == [4.0, 1.0]
    assert result.num_preemptions == 0


def test_a_closed_loop_sends_the_next_request_when_one_ends():
    """Two clients, one server of 1 ms: the arrival times given are not used."""
    prefill = tiny_replica(Phase.PREFILL, UNIT_STEPS, max_num_seqs=1)
    requests = tiny_requests(*[(7.0, 1, 1)] * 5)
    result = simulate(
        tiny_system(prefill), requests, options=SimulationOptions(concurrency=2)
    )
    assert result.arrival_ms.tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert result.finish_ms.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_an_engine_that_polls_takes_all_that_came_since():
    """Three clients, one server of 1 ms, polls at multiples of 2.5 ms.

    The requests of 0 end at 1, 2 and 3; those of the first two wait for 2.5, that of
    the third for 5.
    """
    prefill = tiny_replica(Phase.PREFILL, UNIT_STEPS, max_num_seqs=1)
    requests = tiny_requests(*[(7.0, 1, 1)] * 6)
    options = SimulationOptions(concurrency=3, poll_ms=2.5)
    result = simulate(tiny_system(prefill), requests, options=options)
    assert result.arrival_ms.tolist() == [0.0, 0.0, 0.0, 2.5, 2.5, 5.0]
    assert result.finish_ms.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@given(systems(), many_requests(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_closed_loop_never_has_more_requests_than_clients(system, requests, clients):
    options = SimulationOptions(concurrency=clients)
    result = simulate(system, requests, options=options)
    assert result.num_done == result.num_arrived
    for at in np.unique(result.arrival_ms):
        inside = (result.arrival_ms <= at) & (result.finish_ms > at)
        assert inside.sum() <= clients


LONGEST = 100_000_000  # tokens: what a file may say at most


def test_absurd_lengths_take_their_closed_form_time():
    """One step of 1e8 prompt tokens, then k = 1e8 - 1 decode steps in one jump.

    The first decode step attends to 1e8 + 1 tokens, so T(k) = k + H (k (1e8 + 1) +
    k (k - 1) / 2) with H = 2^-20 ms.
    """
    table = tiny_table(1.0, 0.5, 1.0, 2.0**-20)
    both = tiny_replica(Phase.AGGREGATED, table, kv_block_tokens=16)
    result = simulate(tiny_system(both), tiny_requests((0.0, LONGEST, LONGEST)))
    k = LONGEST - 1
    decode_ms = k + 2.0**-20 * (k * (LONGEST + 1) + k * (k - 1) // 2)
    assert result.first_token_ms[0] == 1.0 + 0.5 * LONGEST
    assert result.finish_ms[0] - result.first_token_ms[0] == pytest.approx(
        decode_ms, rel=1e-9
    )


def test_a_thousand_absurd_requests_neither_overflow_nor_hang():
    table = tiny_table(1.0, 0.5, 1.0, 2.0**-20)
    rows = [(float(i), LONGEST, LONGEST) for i in range(1000)]
    ample = tiny_replica(Phase.AGGREGATED, table, kv_block_tokens=16)
    result = simulate(tiny_system(ample), tiny_requests(*rows))
    assert result.num_done == 1000
    assert (np.diff(result.first_token_ms) > 0).all()
    assert np.isfinite(result.finish_ms).all()
    scarce = tiny_replica(Phase.AGGREGATED, table, kv_capacity_tokens=LONGEST)
    assert simulate(tiny_system(scarce), tiny_requests(*rows)).num_rejected == 1000
