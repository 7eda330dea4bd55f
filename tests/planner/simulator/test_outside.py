"""Events from outside, by hand and under Hypothesis."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, Phase, Routing
from planner.simulator.transfer_settings import LinkSharing
from tests.planner.simulator.disturbances import (
    BOTH,
    DECODE,
    DRAIN,
    FAIL,
    FLIP,
    IN_TURN,
    PREFILL,
    RECOVER,
    SCALE_UP,
    TABLE,
    disturbed,
    down_intervals,
    event,
    link,
    serve,
)
from tests.planner.simulator.reference_outside import ReferenceWithEvents
from tests.planner.simulator.systems import (
    CHUNKED,
    TIMES,
    many_requests,
    tiny_replica,
    tiny_requests,
    tiny_system,
)


def test_a_failed_replica_loses_what_it_decodes_and_another_goes_on():
    """Prefilled at 4, tokens at 5, 6 and 7; the failure at 7 comes after the third.

    The prompt of 10 and 4 tokens are prefilled on the other replica from 7 to 11, which
    is the fifth token; the sixth comes at 12. The step under way yields none.
    """
    system = tiny_system(BOTH, BOTH, routing=IN_TURN)
    result = serve(system, tiny_requests((0.0, 10, 6)), event(7.0, FAIL, 0))
    assert result.first_token_ms.tolist() == [4.0]
    assert result.finish_ms.tolist() == [12.0]
    assert result.num_recomputed == 1
    assert result.num_recomputed_tokens == 10 + 4
    assert result.input_tokens.tolist() == [10]
    assert result.output_tokens.tolist() == [6]
    assert result.tpot_ms.tolist() == [8.0 / 5]
    assert [r.num_decode_tokens for r in result.replicas] == [3, 1]
    assert result.decode_replica.tolist() == [1]


def test_a_step_that_a_failure_cuts_yields_no_token():
    # At 6.5: tokens at 4, 5 and 6; three more after the prefill, at 10.5, 11.5, 12.5.
    system = tiny_system(BOTH, BOTH, routing=IN_TURN)
    result = serve(system, tiny_requests((0.0, 10, 6)), event(6.5, FAIL, 0))
    assert result.finish_ms.tolist() == [12.5]
    assert result.num_recomputed_tokens == 10 + 3
    assert result.replicas[0].decode_busy_frac * result.end_ms == pytest.approx(2.5)
    assert result.replicas[0].active_frac * result.end_ms == pytest.approx(6.5)


def test_requests_that_only_waited_are_rerouted():
    """Prompts one at a time: the second has not begun, so nothing of it is lost."""
    alone = tiny_replica(Phase.AGGREGATED, TABLE, max_batch_tokens=1)
    system = tiny_system(alone, alone, routing=IN_TURN)
    requests = tiny_requests((0.0, 9, 1), (0.0, 9, 1), (0.0, 9, 1))
    result = serve(system, requests, event(2.0, FAIL, 0))
    assert result.num_recomputed == 1
    assert result.num_recomputed_tokens == 9
    assert result.num_rerouted == 1
    assert result.finish_ms.tolist() == [8.0, 4.0, 12.0]


def test_requests_wait_for_a_replica_to_come_back():
    """Nothing serves from 1 on; loading takes 10 ms from 5."""
    system = tiny_system(BOTH)
    requests = tiny_requests((0.0, 3, 1), (2.0, 3, 1))
    events = (event(1.0, FAIL, 0), event(5.0, RECOVER, 0, 10.0))
    result = serve(system, requests, *events)
    assert result.finish_ms.tolist() == [19.0, 19.0]
    assert result.num_recomputed == 1
    never = serve(system, requests, event(1.0, FAIL, 0))
    assert never.num_unfinished == 2
    assert np.isnan(never.finish_ms).all()


def test_a_drained_replica_ends_what_it_has():
    system = tiny_system(BOTH, BOTH, routing=IN_TURN)
    requests = tiny_requests((0.0, 3, 5), (1.0, 3, 1), (2.0, 3, 1))
    result = serve(system, requests, event(0.5, DRAIN, 0))
    assert result.decode_replica.tolist() == [0, 1, 1]
    assert result.finish_ms.tolist() == [8.0, 5.0, 9.0]
    assert result.num_recomputed == result.num_rerouted == 0


def test_a_replica_that_scales_up_serves_when_it_is_loaded():
    system = tiny_system(BOTH, BOTH, routing=IN_TURN)
    requests = tiny_requests((0.0, 3, 1), (3.0, 3, 1), (6.0, 3, 1), (6.5, 3, 1))
    result = serve(system, requests, event(1.0, SCALE_UP, 1, 5.0))
    assert result.prefill_replica.tolist() == [0, 0, 0, 1]


def test_a_flip_drains_switches_and_serves_the_other_phase():
    """The first is prefilled until 4 and fetched at once; empty, it switches until 9.

    The second arrives meanwhile and is prefilled by the other from 5 to 9. The third
    goes from replica 1 to replica 0, which decodes now; in turn after replica 2.
    """
    system = tiny_system(
        PREFILL,
        PREFILL,
        DECODE,
        routing=IN_TURN,
        switch_routes=(link(0, 1), link(1, 0), link(2, 0), link(2, 1)),
    )
    system_one = tiny_system(
        PREFILL, PREFILL, DECODE, routing=IN_TURN, switch_routes=(link(1, 0),)
    )
    requests = tiny_requests((0.0, 3, 2), (5.0, 3, 2), (20.0, 3, 2), (30.0, 3, 2))
    flip = event(1.0, FLIP, 0, 5.0)
    for each in (system, system_one):
        result = serve(each, requests, flip)
        assert result.prefill_replica.tolist() == [0, 1, 1, 1]
        assert sorted(result.decode_replica.tolist()[1:]) == [0, 2, 2]
        assert result.finish_ms.tolist() == [5.0, 10.0, 25.0, 35.0]
    # Replica 0 does nothing from 4 until it serves again at 4 + 5.
    assert result.replicas[0].num_decode_tokens == 1


def test_a_failed_source_takes_its_transfers_with_it():
    """On the way from 4 to 6; the prompt is prefilled again from 5 to 9 elsewhere.

    Its first token was streamed, so 9 brings the second and 9 + 2 + 1 the third.
    """
    routes = (link(0, 2, 2.0), link(1, 2, 2.0))
    system = tiny_system(PREFILL, PREFILL, DECODE, routes=routes, routing=IN_TURN)
    result = serve(system, tiny_requests((0.0, 3, 3)), event(5.0, FAIL, 0))
    assert result.finish_ms.tolist() == [12.0]
    assert result.first_token_ms.tolist() == [4.0]
    assert result.num_recomputed_tokens == 4
    assert result.replicas[2].kv_peak_frac > 0.0
    assert result.transfer_start_ms.tolist() == [9.0]


def test_a_failed_target_loses_a_transfer_under_way_and_no_other():
    """One place: the second waits on the prefill replica, whole, and goes elsewhere.

    The first is on its way from 4 to 6 and fails at 5: prefilled again from 5 to 9 with
    its first token, then 2 ms to replica 2, where its third token comes at 12. The
    second is sent to replica 2 at 5 and has its last token at 5 + 2 + 2 = 9.
    """
    one = tiny_replica(Phase.DECODE, TABLE, max_num_seqs=1)
    routes = (link(0, 1, 2.0), link(0, 2, 2.0))
    system = tiny_system(
        PREFILL, one, DECODE, routes=routes, routing=Routing.SHORTEST_QUEUE
    )
    requests = tiny_requests((0.0, 3, 3), (0.0, 3, 3))
    events = (event(0.5, SCALE_UP, 2, 4.0), event(5.0, FAIL, 1))
    result = serve(system, requests, *events)
    assert result.decode_replica.tolist() == [2, 2]
    assert result.finish_ms.tolist() == [12.0, 9.0]
    assert result.num_recomputed == 1
    assert result.num_recomputed_tokens == 4


def test_a_request_that_waits_for_its_batch_ends_with_the_failure():
    """Request level: 0 and 2 in a batch, tokens at 4, 5 and 6; 2 has all of them at 5.

    It is returned at 6.5. Of the first, the prompt of 10 and 3 tokens are computed on
    the other replica until 10.5; two more tokens follow.
    """
    whole = tiny_replica(Phase.AGGREGATED, TABLE, policy=Batching.REQUEST_LEVEL)
    system = tiny_system(whole, whole, routing=IN_TURN)
    requests = tiny_requests((0.0, 10, 6), (0.0, 8, 1), (0.0, 5, 2))
    result = serve(system, requests, event(6.5, FAIL, 0))
    assert result.decode_replica.tolist() == [1, 1, 0]
    assert result.finish_ms.tolist() == [12.5, 4.0, 6.5]
    assert result.num_recomputed == 1
    assert result.num_recomputed_tokens == 10 + 3


def test_pools_do_without_a_machine_that_has_failed():
    """Prompts at 0 and 1; the token machine of both fails at 5, machine 2 is left.

    The first prompt is being fetched (from 4 to 6): it begins again at 5, behind the
    second, which is computed until 8 and goes to machine 2 by 10. The first is computed
    again with its token by 12, is there at 14, and has two more tokens by 16; with the
    second token from the prefill at 12 that makes four.
    """
    routes = (link(0, 1, 2.0), link(0, 2, 2.0), link(1, 2, 2.0), link(2, 1, 2.0))
    one = replace(PREFILL, limits=replace(PREFILL.limits, max_batch_tokens=1))
    system = tiny_system(one, DECODE, DECODE, routes=routes, routing=Routing.SPLITWISE)
    requests = tiny_requests((0.0, 3, 4), (1.0, 3, 3))
    forced = replace(system.replicas[2], kv_capacity_tokens=20)
    system = replace(system, replicas=(*system.replicas[:2], forced))
    result = serve(system, requests, event(5.0, FAIL, 1))
    assert result.decode_replica.tolist() == [2, 2]
    assert result.num_recomputed == 1
    assert result.num_recomputed_tokens == 4
    assert result.finish_ms.tolist() == [16.0, 12.0]


def test_a_pool_of_one_machine_serves_alone():
    """The token machine fails at 2 and stays away: the prompt machine does both.

    The prompt under way has its first token at 4, nowhere to go, and begins again.
    """
    system = tiny_system(PREFILL, DECODE, routing=Routing.SPLITWISE)
    result = serve(system, tiny_requests((0.0, 3, 3)), event(2.0, FAIL, 1))
    assert result.first_token_ms.tolist() == [4.0]
    assert result.decode_replica.tolist() == [0]
    assert result.finish_ms.tolist() == [9.0]
    assert result.num_recomputed_tokens == 4


def test_prefilled_requests_wait_for_a_replica_that_decodes():
    system = tiny_system(PREFILL, DECODE)
    requests = tiny_requests((0.0, 3, 2), (1.0, 3, 1))
    events = (event(0.0, FAIL, 1), event(6.0, RECOVER, 1, 4.0))
    result = serve(system, requests, *events)
    assert result.finish_ms.tolist() == [11.0, 8.0]
    assert result.transfer_start_ms.tolist()[0] == 10.0


def test_the_simulation_ends_with_the_last_request():
    system = tiny_system(BOTH)
    result = serve(system, tiny_requests((0.0, 3, 1)), event(1e6, DRAIN, 0))
    assert result.end_ms == 4.0
    assert result.num_done == 1


def assert_as_reference(system, events, requests) -> None:
    result = serve(system, requests, *events)
    reference = ReferenceWithEvents(system, requests, events)
    reference.run()
    for name in ("arrival_ms", *TIMES):
        expected = [getattr(job, name.removesuffix("_ms")) for job in reference.jobs]
        np.testing.assert_allclose(
            getattr(result, name), expected, rtol=1e-9, atol=1e-9, err_msg=name
        )
    rejected = [job.is_rejected for job in reference.jobs]
    np.testing.assert_array_equal(result.is_rejected, rejected)
    assert result.num_preemptions == reference.num_preemptions
    assert result.num_recomputed == reference.num_recomputed
    assert result.num_recomputed_tokens == reference.num_recomputed_tokens
    assert result.num_rerouted == reference.num_rerouted


@given(disturbed(), many_requests())
@settings(max_examples=80, deadline=None)
def test_every_policy_under_events_matches_the_reference(drawn, requests):
    assert_as_reference(*drawn, requests)


@given(disturbed(routings=(Routing.SPLITWISE,)), many_requests())
@settings(max_examples=40, deadline=None)
def test_pools_under_events_match_the_reference(drawn, requests):
    assert_as_reference(*drawn, requests)


@given(disturbed(policies=(Batching.REQUEST_LEVEL,)), many_requests())
@settings(max_examples=20, deadline=None)
def test_request_level_batches_under_events_match_the_reference(drawn, requests):
    assert_as_reference(*drawn, requests)


@given(disturbed(is_capped=True), many_requests())
@settings(max_examples=40, deadline=None)
def test_capped_decode_steps_under_events_match_the_reference(drawn, requests):
    assert_as_reference(*drawn, requests)


@given(disturbed(), many_requests())
@settings(max_examples=50, deadline=None)
def test_nothing_is_lost_twice_invented_or_done_by_a_replica_that_is_down(
    drawn, requests
):
    system, events = drawn
    sharing = LinkSharing.FAIR if len(requests) % 2 else LinkSharing.FIRST_COME
    transfer = replace(system.kv_transfer, sharing=sharing)
    system = replace(system, kv_transfer=transfer)
    options = {"is_itl_counted": True, "max_spans": 1 << 14}
    result = serve(system, requests, *events, **options)
    assert result.is_complete
    ended = result.num_done + result.num_rejected
    assert ended + result.num_unfinished == result.num_arrived == len(requests)
    np.testing.assert_array_equal(result.input_tokens, requests.input_tokens)
    np.testing.assert_array_equal(result.output_tokens, requests.output_tokens)
    # Who had a token and has ended had them all, and each of them once.
    if ended == result.num_done == len(requests):
        does_decode = any(r.phase is not Phase.PREFILL for r in system.replicas)
        later = int((requests.output_tokens - 1).sum()) if does_decode else 0
        assert result.token_gaps.num_gaps == later
    for stats in result.replicas:
        assert 0.0 <= stats.kv_mean_frac <= stats.kv_peak_frac + 1e-9 <= 1.0 + 1e-9
        busy = stats.prefill_busy_frac + stats.decode_busy_frac + stats.mixed_busy_frac
        assert busy <= 1.0 + 1e-9
    for earlier, later in (
        (result.arrival_ms, result.prefill_start_ms),
        (result.prefill_start_ms, result.first_token_ms),
        (result.transfer_start_ms, result.decode_ready_ms),
        (result.first_token_ms, result.finish_ms),
        (result.decode_ready_ms, result.finish_ms),
    ):
        known = ~np.isnan(earlier) & ~np.isnan(later)
        assert (earlier[known] <= later[known]).all()
    spans = result.timeline
    assert spans.num_left_out == 0
    for replica, start_ms, end_ms in down_intervals(system, events):
        mine = spans.replica == replica
        inside = (spans.end_ms > start_ms) & (spans.start_ms < end_ms)
        assert not (mine & inside).any()


@given(disturbed(), many_requests())
@settings(max_examples=40, deadline=None)
def test_jumping_over_steps_changes_nothing(drawn, requests):
    system, events = drawn
    one = serve(system, requests, *events)
    two = serve(system, requests, *events, is_fast_forward=False)
    for name in TIMES:
        np.testing.assert_allclose(
            getattr(one, name), getattr(two, name), rtol=1e-9, atol=1e-9, err_msg=name
        )
    assert one.num_recomputed == two.num_recomputed
    assert one.num_recomputed_tokens == two.num_recomputed_tokens
    again = serve(system, requests, *events)
    for name in (*TIMES, "prefill_replica", "decode_replica"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert again.num_events == one.num_events


@given(disturbed(policies=CHUNKED), many_requests())
@settings(max_examples=40, deadline=None)
def test_events_beyond_the_end_change_nothing(drawn, requests):
    system, events = drawn
    calm = simulate(replace(system, switch_routes=()), requests)
    late = tuple(
        replace(e, at_ms=e.at_ms + calm.end_ms + 1.0)
        for e in events
        if not any(o.kind is SCALE_UP and o.replica == e.replica for o in events)
    )
    result = serve(system, requests, *late)
    for name in TIMES:
        np.testing.assert_array_equal(getattr(result, name), getattr(calm, name))
    assert result.end_ms == calm.end_ms
    assert result.replicas == calm.replicas
