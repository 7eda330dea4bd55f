"""KV blocks: admission, growth, preemption, and that all come back."""

import numpy as np
import pytest
from hypothesis import given, settings

from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from tests.planner.simulator.disturbances import FAIL, IN_TURN, event, serve
from tests.planner.simulator.systems import (
    any_system,
    many_requests,
    step_by_step,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

UNIT_STEPS = tiny_table(prefill_ms=1.0, decode_ms=1.0)


@given(any_system(), many_requests())
@settings(max_examples=120, deadline=None)
def test_all_blocks_and_places_are_returned(system, requests):
    from planner.simulator.handle import WorldHandle
    from planner.simulator.kernel import run

    world = build_world(system, requests, SimulationOptions())
    assert run(WorldHandle(world))
    for rep in world.replica:
        assert rep["free_blocks"] == rep["capacity_blocks"]
        assert rep["kv_peak_blocks"] <= rep["capacity_blocks"]
        assert rep["work_tokens"] == 0.0
        assert rep["num_running"] == rep["num_joining"] == rep["num_flying"] == 0
        assert rep["num_partial"] == 0


def test_the_last_admitted_request_is_preempted_and_recomputed():
    """10 blocks of one token; two requests of 3 + 5 tokens, every step 1 ms.

    At 1 both have a token and 4 blocks, at 2 they take 5 each, at 3 they would need 12:
    r1 gives way. r0 ends at 5; r1 needs 7 blocks for its 6 tokens and the next one, so
    it is recomputed from 5 to 6 (its fourth token) and ends at 7.
    """
    both = tiny_replica(Phase.AGGREGATED, UNIT_STEPS, kv_capacity_tokens=10)
    requests = tiny_requests((0.0, 3, 5), (0.0, 3, 5))
    for run in (simulate, step_by_step):
        result = run(tiny_system(both), requests)
        assert result.finish_ms == pytest.approx([5.0, 7.0])
        assert result.num_preemptions == 1
        assert result.replicas[0].kv_peak_frac == 1.0


def test_recomputing_a_context_is_not_the_start_of_a_prefill():
    """Decode only, 10 blocks: r1 is preempted at 1, recomputed from 3 to 4."""
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS, kv_capacity_tokens=10)
    result = simulate(tiny_system(decode), tiny_requests((0.0, 4, 4), (0.0, 4, 3)))
    assert result.num_preemptions == 1
    assert result.finish_ms.tolist() == [3.0, 4.0]
    assert np.isnan(result.prefill_start_ms).all()


def test_pulls_go_on_as_soon_as_preempted_prompts_are_recomputing():
    """Three prefill replicas and a decode replica of 44 blocks, every step 1 ms.

    At 2 the pull of r3 (25 blocks) leaves 2, fewer than r0, r1 and r2 need for their
    next step: r2 gives way, and r4 has to wait for it. At 3 r0, r1 and r3 end and the
    recomputation of r2 starts; nothing then keeps r4 from being pulled.
    """
    prefill = tiny_replica(
        Phase.PREFILL, UNIT_STEPS, max_num_seqs=1, kv_capacity_tokens=44
    )
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS, kv_capacity_tokens=44)
    system = tiny_system(
        prefill, prefill, prefill, decode, kv_bytes_per_token=0.0, routing="round_robin"
    )
    requests = tiny_requests(
        (0.0, 1, 3), (0.0, 1, 3), (0.0, 12, 3), (0.0, 24, 2), (0.0, 2, 2)
    )
    result = simulate(system, requests)
    assert result.transfer_start_ms.tolist() == [1.0, 1.0, 1.0, 2.0, 3.0]
    assert result.finish_ms.tolist() == [3.0, 3.0, 4.0, 3.0, 5.0]
    assert result.num_preemptions == 1


def test_a_full_decode_replica_holds_prefilled_requests_back():
    """10 blocks on the decode side: the second request of 5 + 3 tokens waits there.

    r0 decodes from 1 to 3. r1 is prefilled at 2, pulled at 3, and ends at 5. Its prompt
    stays on the prefill replica until then: 5 of 100 blocks from 0 to 3.
    """
    prefill = tiny_replica(
        Phase.PREFILL, UNIT_STEPS, max_num_seqs=1, kv_capacity_tokens=50
    )
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS, kv_capacity_tokens=10)
    requests = tiny_requests((0.0, 5, 3), (0.0, 5, 3))
    result = simulate(tiny_system(prefill, decode), requests)
    assert result.transfer_start_ms.tolist() == [1.0, 3.0]
    assert result.finish_ms.tolist() == [3.0, 5.0]
    # 5 blocks for 1 ms (r0), then 5 for 2 ms (r1), of 50 over 5 ms.
    assert result.replicas[0].kv_mean_frac == pytest.approx(15.0 / 250.0)


def test_a_pull_in_the_middle_of_a_run_sees_the_blocks_the_run_has_filled():
    """20 blocks; r0 holds 5 at 0, one more a step of 1 ms, and ends at 11.

    At 8.5 it attends to 13 tokens: 7 blocks are free, r1 needs 10 and waits for the end
    of r0, though 15 were free when the run began. r2 comes at 8.75 and waits behind it.
    """
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS, kv_capacity_tokens=20)
    requests = tiny_requests((0.0, 4, 12), (8.5, 9, 2), (8.75, 1, 2))
    for run in (simulate, step_by_step):
        result = run(tiny_system(decode), requests)
        assert result.transfer_start_ms.tolist() == [0.0, 11.0, 11.0]
        assert result.finish_ms.tolist() == [11.0, 12.0, 12.0]
        assert result.replicas[0].kv_peak_frac == 15 / 20


def test_admission_leaves_the_watermark_free_unless_the_replica_is_empty():
    """200 blocks, of which 1 % = 2 stay free: 198 may be taken, or 200 when empty."""
    both = tiny_replica(Phase.PREFILL, UNIT_STEPS, kv_capacity_tokens=200)
    fits = simulate(tiny_system(both), tiny_requests((0.0, 100, 1), (0.0, 98, 1)))
    assert fits.first_token_ms.tolist() == [1.0, 1.0]
    waits = simulate(tiny_system(both), tiny_requests((0.0, 100, 1), (0.0, 99, 1)))
    assert waits.first_token_ms.tolist() == [1.0, 2.0]
    alone = simulate(tiny_system(both), tiny_requests((0.0, 200, 1)))
    assert alone.num_done == 1


def test_occupancy_of_a_run_rises_with_its_context():
    """A prompt of 4 and 4 more tokens: 5 to 7 blocks of 8 while it decodes for 3 ms.

    The blocks of a jump are counted as a straight line from 5 to 7: 6 of 8 on average.
    """
    decode = tiny_replica(Phase.DECODE, UNIT_STEPS, kv_capacity_tokens=8)
    result = simulate(tiny_system(decode), tiny_requests((0.0, 4, 4)))
    assert result.end_ms == 3.0
    assert result.replicas[0].kv_peak_frac == 7 / 8
    assert result.replicas[0].kv_mean_frac == pytest.approx(6 / 8)


def test_tokens_that_a_failure_puts_into_the_prompt_are_not_reserved_again():
    """12 of 14 blocks for 4 + 8 tokens; three are out when the replica fails at 3.

    The prompt of 7 and 5 more tokens need 12 blocks on the other replica too. It has
    the fourth token at 4, the last at 6.
    """
    both = tiny_replica(
        Phase.AGGREGATED,
        UNIT_STEPS,
        kv_capacity_tokens=14,
        is_output_reserved=True,
        reserved_output_tokens=8,
    )
    system = tiny_system(both, both, routing=IN_TURN)
    result = serve(system, tiny_requests((0.0, 4, 6)), event(3.0, FAIL, 0))
    assert result.finish_ms.tolist() == [6.0]
    assert result.num_recomputed_tokens == 4 + 3
