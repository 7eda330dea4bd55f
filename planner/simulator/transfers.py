"""KV caches on their way: admission at the target, the links they take, their end."""

from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.decode_admission import has_forecast_room
from planner.simulator.events import schedule
from planner.simulator.flows import (
    ROUNDING,
    route_of,
    send_until_now,
    share_links,
    start_flow,
)
from planner.simulator.kv import allocate, blocks_for, can_allocate
from planner.simulator.lifecycle import enter_decode, leave_prefill
from planner.simulator.state import NONE, TRANSFER_DONE
from planner.simulator.streams import blocks_ms, schedule_stream_end, transfer_ms


@compiled
def start_pulls(w: Any, replica: int) -> None:
    """Fetch KV caches in order while this replica has blocks and places for them."""
    clock = w.clock[0]
    rep = w.replica[replica]
    while rep.pull_head != NONE and not is_preempted_waiting(w, replica):
        request = rep.pull_head
        req = w.request[request]
        blocks = blocks_for(w, replica, request, req.input_tokens + 1)
        if rep.num_running >= rep.max_num_seqs or not can_allocate(w, replica, blocks):
            break
        if not has_forecast_room(w, replica, request):
            break
        rep.pull_head = req.pull_next
        if rep.pull_head == NONE:
            rep.pull_tail = NONE
        allocate(w, replica, blocks)
        rep.num_running += 1
        req.admission = clock.admissions
        clock.admissions += 1
        req.transfer_start_ms = clock.now_ms
        if req.prefill_replica == NONE:
            end_transfer(w, request)
            continue
        req.is_streamed = int(req.done_tokens == 0)
        if clock.is_fair:
            start_flow(w, request, clock.kv_bytes_per_token * req.input_tokens)
            continue
        req.link_ms = reserve_route(w, request, replica)
        if req.is_streamed:
            continue  # its layers follow as they are prefilled: `streams`
        latency_ms = w.route[route_of(w, request)].latency_ms
        end = req.link_ms + latency_ms + transfer_ms(w, request)
        if end <= clock.now_ms:
            end_transfer(w, request)
        else:
            schedule(w, w.stage.shape[0] + request, end, TRANSFER_DONE)


@optional
def end_flows(w: Any) -> None:
    """The bytes of the first fairly shared transfer are there, and of those with it."""
    clock = w.clock[0]
    send_until_now(w)
    w.request[clock.first_flow].left_bytes = 0.0
    num_left = 0
    for place in range(clock.num_flows):
        request = w.flow[place]
        req = w.request[request]
        size = clock.kv_bytes_per_token * req.input_tokens
        if req.left_bytes > ROUNDING * size:
            w.flow[num_left] = request
            num_left += 1
            continue
        req.link_ms = clock.now_ms
        if req.is_streamed == 0:
            latency_ms = w.route[route_of(w, request)].latency_ms
            end = clock.now_ms + latency_ms + blocks_ms(w, request)
            schedule(w, w.stage.shape[0] + request, end, TRANSFER_DONE)
        elif req.done_tokens > 0:
            schedule_stream_end(w, request)
    clock.num_flows = num_left
    share_links(w)


@inlined
def is_preempted_waiting(w: Any, replica: int) -> bool:
    """Whether a request that lost its KV cache here is to be computed again first.

    The preempted are in front; one that was half prefilled has no token yet.
    """
    request = w.replica[replica].prompt_head
    while request != NONE and w.request[request].num_preemptions > 0:
        if w.request[request].done_tokens > 0:
            return True
        request = w.request[request].next
    return False


@inlined
def reserve_route(w: Any, request: int, target: int) -> float:
    """Book the transfer on every edge of its route, first come first served.

    Returns the time it starts: when all its edges are free. Each carries its part of
    the bytes and is taken for that long.
    """
    clock = w.clock[0]
    req = w.request[request]
    route = req.prefill_replica * w.replica.shape[0] + target
    size = clock.kv_bytes_per_token * req.input_tokens
    start = clock.now_ms
    first, last = w.route[route].first_edge, w.route[route + 1].first_edge
    for i in range(first, last):
        start = max(start, w.edge[w.edge_share[i].edge].free_ms)
    for i in range(first, last):
        taken_ms = size * w.edge_share[i].ms_per_byte
        w.edge[w.edge_share[i].edge].free_ms = start + taken_ms
    return float(start)


@compiled
def end_transfer(w: Any, request: int) -> None:
    """The KV cache has arrived: the source frees it, the target may decode."""
    req = w.request[request]
    if req.prefill_replica != NONE:
        leave_prefill(w, request)
    enter_decode(w, request)
