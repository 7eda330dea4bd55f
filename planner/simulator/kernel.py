"""The event loop: one clock, one heap, arrivals merged in from their sorted array.

Everything that happens at one instant is handled first (ends of decode steps, then of
prefill steps, then transfers, events from outside, arrivals); only then do replicas
start new work, in the order of their indices. So what arrives together is batched
together, and jumping over decode steps cannot change who comes first.
"""

import math
from typing import Any

from planner.simulator.compiled import entry_point, inlined
from planner.simulator.events import pop
from planner.simulator.lifecycle import arrive
from planner.simulator.outside import flip_if_empty, happen
from planner.simulator.stages import end_stage, pump, settle_run
from planner.simulator.state import NONE
from planner.simulator.transfers import end_flows, end_transfer


@entry_point
def run(w: Any) -> bool:
    """Run until every request has ended; False as soon as the limits are missed."""
    clock = w.clock[0]
    num_stages, num_requests = w.stage.shape[0], w.request.shape[0]
    while True:
        arrival_ms = next_arrival_ms(w)
        event_ms = math.inf
        if clock.heap_size > 0:
            event_ms = w.slot[w.heap[0]].time_ms
        upcoming = min(arrival_ms, event_ms)
        if upcoming > clock.now_ms and clock.num_dirty > 0:
            pump_dirty(w)
            continue
        if misses_exceeded(w):
            return False
        if upcoming == math.inf:
            return True
        before_ms = clock.now_ms
        clock.now_ms = max(clock.now_ms, upcoming)
        clock.num_events += 1
        if event_ms <= arrival_ms:
            which = pop(w)
            if which < num_stages:
                end_stage(w, which)
            elif which < num_stages + num_requests:
                settle_source(w, which - num_stages)
                end_transfer(w, which - num_stages)
            elif which == num_stages + num_requests:
                end_flows(w)
            elif clock.num_done + clock.num_rejected == num_requests:
                clock.now_ms = before_ms  # nobody is left to see it
                return True
            else:
                happen(w, which - num_stages - num_requests - 1)
        else:
            request = clock.next_arrival
            clock.next_arrival += 1
            arrive(w, request)


@inlined
def settle_source(w: Any, request: int) -> None:
    """A replica that decodes beside what it sends: its blocks are true at the end."""
    source = w.request[request].prefill_replica
    if source != NONE:
        settle_run(w, w.replica[source].first_stage)


@inlined
def next_arrival_ms(w: Any) -> float:
    """Time of the next arrival; infinity when none is due yet or none is left."""
    clock = w.clock[0]
    if clock.next_arrival >= w.request.shape[0]:
        return math.inf
    return float(w.request[clock.next_arrival].arrival_ms)


@inlined
def pump_dirty(w: Any) -> None:
    """Let every replica that changed start what it can, lowest index first.

    Work that takes no time ends before the next replica starts: whoever waits for it
    must not find that a step has begun without it.
    """
    clock = w.clock[0]
    while clock.num_dirty > 0:
        clock.num_dirty -= 1
        replica = w.dirty[clock.num_dirty]
        w.replica[replica].dirty = 0
        pump(w, replica)
        if w.replica[replica].is_flipping:
            flip_if_empty(w, replica)
        if clock.heap_size > 0 and w.slot[w.heap[0]].time_ms <= clock.now_ms:
            return


@inlined
def misses_exceeded(w: Any) -> bool:
    """Whether the limits can no longer be met, whatever happens next."""
    clock = w.clock[0]
    return bool(
        clock.ttft_misses > clock.max_ttft_misses
        or clock.tpot_misses > clock.max_tpot_misses
        or clock.e2e_misses > clock.max_e2e_misses
        or clock.joint_misses > clock.max_joint_misses
    )
