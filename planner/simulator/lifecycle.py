"""What happens to one request: arrival, first token, decode, finish."""

import math
from typing import Any

from planner.simulator.cache_routing import expect_alone, join_queue, leave_queue
from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.early_rejection import (
    begin_decode,
    expect_decode,
    expect_no_more,
    is_refused,
)
from planner.simulator.events import schedule, schedule_in_order
from planner.simulator.gaps import count_token
from planner.simulator.kv import allocate, blocks_for, num_blocks, stays
from planner.simulator.prefix_cache import (
    store_on_release,
    store_output,
    store_prompt,
)
from planner.simulator.promises import (
    has_pools,
    keeps_books,
    promise_decode,
    promise_prompt,
    strike_departure,
    strike_prompt,
)
from planner.simulator.queues import (
    mark_dirty,
    push_join,
    push_prompt,
    push_unsent,
    push_waiting,
)
from planner.simulator.routing import choose_decode, choose_prefill
from planner.simulator.splitwise import choose_pair, choose_target
from planner.simulator.state import (
    ARRIVED,
    CACHE_AWARE,
    DONE,
    NONE,
    REJECTED,
    TO_BE_CHOSEN,
    TURN_DUE,
)
from planner.simulator.streams import drop_stream, end_stream, queue_pull


@compiled
def release_next_client(w: Any) -> None:
    """In a closed loop, a client whose request ended sends its next one now.

    It may be held back; those that follow it meanwhile are let go with it. Or the
    engine polls at fixed instants.
    """
    clock = w.clock[0]
    if clock.concurrency > 0:
        released = clock.num_done + clock.num_rejected + clock.concurrency - 1
        if released < w.request.shape[0]:
            if clock.poll_ms > 0.0:
                polls = math.floor(clock.now_ms / clock.poll_ms) + 1.0
                clock.release_ms = polls * clock.poll_ms
            elif clock.now_ms > clock.release_ms:
                clock.release_ms = clock.now_ms + clock.hold_ms
            w.request[released].arrival_ms = clock.release_ms
            if clock.is_ramped:  # others who have not begun may come later
                schedule(w, w.stage.shape[0] + released, clock.release_ms, TURN_DUE)


@compiled
def release_next_turn(w: Any, request: int) -> None:
    """A session goes on: its next turn comes a think time after this one has ended."""
    if w.turn.shape[0] == 0:
        return
    following = w.turn[request].next
    if following != NONE:
        due = w.clock[0].now_ms + w.turn[following].think_ms
        w.request[following].arrival_ms = due
        # Turns due at one instant come in the order of their numbers.
        slot = w.stage.shape[0] + following
        schedule_in_order(w, slot, due, TURN_DUE, following)


@inlined
def missed_ttft(w: Any, request: int) -> bool:
    """Whether the first token came too late; False when there is none yet."""
    req = w.request[request]
    return bool(req.first_token_ms - req.arrival_ms > w.clock[0].ttft_limit_ms)


@compiled
def reject(w: Any, request: int) -> None:
    """Refuse a request; it counts as a miss of every limit."""
    clock = w.clock[0]
    w.request[request].status = REJECTED
    clock.num_rejected += 1
    if not missed_ttft(w, request):  # else it was counted with its first token
        clock.ttft_misses += 1
    clock.tpot_misses += 1
    clock.e2e_misses += 1
    clock.joint_misses += 1
    release_next_client(w)
    release_next_turn(w, request)


@inlined
def arrive(w: Any, request: int) -> None:
    """A request enters: to a prefill queue, or to decode when nothing prefills."""
    clock = w.clock[0]
    req = w.request[request]
    clock.now_ms = max(clock.now_ms, req.arrival_ms)
    req.status = ARRIVED
    if w.prefill_replicas.shape[0] == 0:
        first_token(w, request)
        return
    route_prompt(w, request)


@inlined
def takes_prompts(w: Any) -> bool:
    """Whether there is a replica that an arrival can be sent to."""
    clock = w.clock[0]
    return bool(clock.num_prefills > 0 or (has_pools(w) and clock.num_decodes > 0))


@compiled
def route_prompt(w: Any, request: int) -> None:
    """Send a request to a prefill queue; it waits while no replica prefills."""
    req = w.request[request]
    if not takes_prompts(w):
        push_waiting(w, request)
        return
    if has_pools(w):
        choose_pair(w, request)
        replica = req.prefill_replica
        if not can_hold(w, req.decode_replica, request):
            req.prefill_replica = req.decode_replica = NONE
            reject(w, request)
            return
    else:
        replica = choose_prefill(w, request)
    rep = w.replica[replica]
    kept = req.input_tokens
    if stays(w, replica, request):
        kept += req.output_tokens
    if blocks_for(w, replica, request, kept) > rep.capacity_blocks:
        req.prefill_replica = req.decode_replica = NONE
        reject(w, request)
        return
    if w.forecast.shape[0] > 0:
        if w.clock[0].routing != CACHE_AWARE:
            expect_alone(w, replica, request)
        if is_refused(w, request):
            req.prefill_replica = req.decode_replica = NONE
            reject(w, request)
            return
        expect_decode(w, request)
        join_queue(w, replica, request)
    req.prefill_replica = replica
    if has_pools(w):
        promise_prompt(w, request)
        promise_decode(w, req.decode_replica, request, 1)
    rep.work_tokens += req.input_tokens
    rep.pending_tokens += req.input_tokens
    rep.num_requests += 1
    push_prompt(w, replica, request)
    mark_dirty(w, replica)


@compiled
def first_token(w: Any, request: int) -> None:
    """The prefill step has produced the first token; the decode phase is next."""
    clock = w.clock[0]
    req = w.request[request]
    replica = req.prefill_replica
    req.done_tokens = 1
    if replica != NONE:
        end_forecast(w, replica, request)
        if w.replica[replica].cache != NONE:
            store_prompt(w, replica, request)
    if math.isnan(req.first_token_ms):
        req.first_token_ms = clock.now_ms
        req.last_token_ms = clock.now_ms
        if missed_ttft(w, request):
            clock.ttft_misses += 1
    elif clock.counts_gaps:  # lost and computed again: not the first one
        count_token(w, request, clock.now_ms)
    if replica != NONE:
        w.replica[replica].pending_tokens -= req.input_tokens
        if has_pools(w):
            strike_prompt(w, request)
    if replica != NONE and stays(w, replica, request):
        req.decode_replica = replica
        enter_decode(w, request)
        return
    if replica != NONE:
        w.replica[replica].work_tokens -= req.input_tokens
    if w.decode_replicas.shape[0] == 0 or req.output_tokens == 1:
        if not math.isnan(req.begun_ms):
            drop_stream(w, request)
        if replica != NONE:
            leave_prefill(w, request)
        if has_pools(w) and req.decode_replica != TO_BE_CHOSEN:
            promise_decode(w, req.decode_replica, request, -1)
        finish(w, request)
        return
    if not math.isnan(req.begun_ms):
        if not math.isnan(req.transfer_start_ms):
            end_stream(w, request)
        return
    send_to_decode(w, request)


@compiled
def send_to_decode(w: Any, request: int) -> None:
    """A prefilled request gets a decode replica; it waits while there is none."""
    req = w.request[request]
    replica = req.prefill_replica
    if has_pools(w):
        send_to_promised(w, request)
        return
    target = choose_decode(w, replica, request)
    if target == NONE:
        push_unsent(w, request)
        return
    if not can_hold(w, target, request):
        if replica != NONE:
            leave_prefill(w, request)
        reject(w, request)
        return
    queue_pull(w, request, target)


@optional
def send_to_promised(w: Any, request: int) -> None:
    """A prefilled request of the pools goes where it was promised to.

    If that machine has failed, to another; with none in reach, it begins again.
    """
    req = w.request[request]
    if req.decode_replica == TO_BE_CHOSEN:
        target = choose_target(w, request)
        if target == NONE or not can_hold(w, target, request):
            leave_prefill(w, request)
            start_again(w, request)
            return
        promise_decode(w, target, request, 1)
        req.decode_replica = target
    queue_pull(w, request, req.decode_replica)


@optional
def start_again(w: Any, request: int) -> None:
    """The prompt and the tokens that the user has are a new prompt."""
    clock = w.clock[0]
    req = w.request[request]
    if req.admission == NONE:
        clock.num_rerouted += 1
    else:
        clock.num_recomputed += 1
        clock.num_recomputed_tokens += req.input_tokens + req.done_tokens
    req.input_tokens += req.done_tokens
    req.output_tokens -= req.done_tokens
    req.streamed_tokens += req.done_tokens
    req.done_tokens = 0
    req.cached_tokens = 0
    req.admission = NONE
    req.prefill_replica = NONE
    req.decode_replica = NONE
    req.begun_ms = math.nan
    req.transfer_start_ms = math.nan
    req.decode_ready_ms = math.nan
    if w.forecast.shape[0] > 0:
        expect_no_more(w, request)
    if w.reuse.shape[0] > 0:
        w.reuse[request].fetched_blocks = 0
        w.reuse[request].ready_ms = 0.0
    route_prompt(w, request)


@inlined
def end_forecast(w: Any, replica: int, request: int) -> None:
    """The prefill that the router expected has ended."""
    if w.forecast.shape[0] > 0:
        leave_queue(w, replica, request)
        begin_decode(w, request)


@compiled
def can_hold(w: Any, replica: int, request: int) -> bool:
    """Whether the whole of `request` fits a decode replica that has nothing else."""
    req = w.request[request]
    blocks = blocks_for(w, replica, request, req.input_tokens + req.output_tokens)
    return bool(blocks <= w.replica[replica].capacity_blocks)


@compiled
def leave_prefill(w: Any, request: int) -> None:
    """The prefill replica drops the request's KV cache."""
    req = w.request[request]
    if has_pools(w):
        strike_departure(w, request)
    rep = w.replica[req.prefill_replica]
    allocate(w, req.prefill_replica, -num_blocks(req.input_tokens, rep.block_tokens))
    store_on_release(w, req.prefill_replica, request)
    mark_dirty(w, req.prefill_replica)


@compiled
def enter_decode(w: Any, request: int) -> None:
    """The KV cache is on the decode replica: join its next step (or end)."""
    clock = w.clock[0]
    req = w.request[request]
    replica = req.decode_replica
    if math.isnan(req.decode_ready_ms):
        req.decode_ready_ms = clock.now_ms
    if req.done_tokens == req.output_tokens:
        end_request(w, request, req.input_tokens + req.done_tokens)
        return
    push_join(w, replica, request)
    mark_dirty(w, replica)


@compiled
def end_request(w: Any, request: int, context: int) -> None:
    """All tokens are out: give back the blocks of `context` tokens and leave.

    At request level, it is returned with the last of its batch.
    """
    replica = w.request[request].decode_replica
    rep = w.replica[replica]
    if not rep.is_request_level:
        allocate(w, replica, -blocks_for(w, replica, request, context))
        leave_decode(w, request)
        return
    w.request[request].next = rep.ended_head
    rep.ended_head = request
    rep.num_ended += 1
    if rep.num_ended == rep.num_running:
        return_batch(w, replica)


@inlined
def return_batch(w: Any, replica: int) -> None:
    """Every request of the batch has ended: they leave together."""
    rep = w.replica[replica]
    request = rep.ended_head
    while request != NONE:
        following = w.request[request].next
        allocate(w, replica, -blocks_for(w, replica, request, 0))
        leave_decode(w, request)
        request = following
    rep.ended_head = NONE
    rep.num_ended = 0


@compiled
def leave_decode(w: Any, request: int) -> None:
    """The last token is out; the replica forgets the request."""
    req = w.request[request]
    rep = w.replica[req.decode_replica]
    rep.work_tokens -= req.input_tokens
    rep.num_running -= 1
    store_on_release(w, req.decode_replica, request)
    if keeps_books(w):
        promise_decode(w, req.decode_replica, request, -1)
    mark_dirty(w, req.decode_replica)
    finish(w, request)


@compiled
def finish(w: Any, request: int) -> None:
    """Record the end of a request and count it against the limits."""
    clock = w.clock[0]
    req = w.request[request]
    req.finish_ms = clock.now_ms
    req.status = DONE
    clock.num_done += 1
    missed = missed_ttft(w, request)
    if req.streamed_tokens + req.output_tokens > 1:
        gaps = float(req.streamed_tokens + req.output_tokens - 1)
        if (req.finish_ms - req.first_token_ms) / gaps > clock.tpot_limit_ms:
            clock.tpot_misses += 1
            missed = True
    if req.finish_ms - req.arrival_ms > clock.e2e_limit_ms:
        clock.e2e_misses += 1
        missed = True
    if missed:
        clock.joint_misses += 1
    if w.turn.shape[0] > 0:
        store_output(w, request)
    release_next_client(w)
    release_next_turn(w, request)
