"""KV caches on their way: admission at the target, the links they take, their end."""

from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.decode_admission import has_forecast_room
from planner.simulator.events import schedule
from planner.simulator.kv import allocate, blocks_for, can_allocate
from planner.simulator.lifecycle import enter_decode, leave_prefill
from planner.simulator.state import NONE, TRANSFER_DONE


@inlined
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
        rep.pull_head = req.next
        if rep.pull_head == NONE:
            rep.pull_tail = NONE
        allocate(w, replica, blocks)
        rep.num_running += 1
        req.admission = clock.admissions
        clock.admissions += 1
        req.transfer_start_ms = clock.now_ms
        end = reserve_route(w, request, replica)
        if end <= clock.now_ms:
            end_transfer(w, request)
        else:
            schedule(w, w.stage.shape[0] + request, end, TRANSFER_DONE)


@inlined
def is_preempted_waiting(w: Any, replica: int) -> bool:
    """Whether a request that lost its KV cache here is to be computed again first."""
    request = w.replica[replica].prompt_head
    return bool(request != NONE and w.request[request].done_tokens > 0)


@inlined
def reserve_route(w: Any, request: int, target: int) -> float:
    """Book the transfer on every edge of its route, first come first served.

    Returns the time it ends. Each shared edge carries its part of the bytes and is
    taken for that long; the transfer starts when all its edges are free.
    """
    clock = w.clock[0]
    req = w.request[request]
    if req.prefill_replica == NONE:
        return float(clock.now_ms)
    route = req.prefill_replica * w.replica.shape[0] + target
    size = clock.kv_bytes_per_token * req.input_tokens
    start = clock.now_ms
    first, last = w.route[route].first_edge, w.route[route + 1].first_edge
    for i in range(first, last):
        start = max(start, w.edge_free_ms[w.edge_share[i].edge])
    for i in range(first, last):
        w.edge_free_ms[w.edge_share[i].edge] = (
            start + size * w.edge_share[i].ms_per_byte
        )
    duration = w.route[route].latency_ms + size * w.route[route].ms_per_byte
    return float(start + duration)


@compiled
def end_transfer(w: Any, request: int) -> None:
    """The KV cache has arrived: the source frees it, the target may decode."""
    req = w.request[request]
    if req.prefill_replica != NONE:
        leave_prefill(w, request)
    enter_decode(w, request)
