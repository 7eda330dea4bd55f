"""Event heap ordered by (time, priority, sequence), with one entry a slot.

A slot (a pipeline stage, or a request's transfer) has at most one pending event, so an
event can be moved in place: that is how a fast-forwarded run is cut short when a
request joins, and why there are no stale events.
"""

from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.state import NONE


@inlined
def is_before(slot: Any, a: int, b: int) -> bool:
    """Whether the event of slot `a` comes before that of slot `b`."""
    first, second = slot[a], slot[b]
    if first.time_ms != second.time_ms:
        return bool(first.time_ms < second.time_ms)
    if first.priority != second.priority:
        return bool(first.priority < second.priority)
    return bool(first.sequence < second.sequence)


@compiled
def sift_up(heap: Any, slot: Any, position: int) -> None:
    """Move the entry at `position` up to its place."""
    moving = heap[position]
    while position > 0:
        parent = (position - 1) >> 1
        if not is_before(slot, moving, heap[parent]):
            break
        heap[position] = heap[parent]
        slot[heap[position]].position = position
        position = parent
    heap[position] = moving
    slot[moving].position = position


@compiled
def sift_down(heap: Any, slot: Any, size: int, position: int) -> None:
    """Move the entry at `position` down to its place."""
    moving = heap[position]
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size and is_before(slot, heap[child + 1], heap[child]):
            child += 1
        if not is_before(slot, heap[child], moving):
            break
        heap[position] = heap[child]
        slot[heap[position]].position = position
        position = child
    heap[position] = moving
    slot[moving].position = position


@compiled
def schedule(w: Any, which: int, time_ms: float, priority: int) -> None:
    """Set the event of slot `which`, moving it if it is pending already."""
    clock = w.clock[0]
    clock.sequence += 1
    schedule_in_order(w, which, time_ms, priority, clock.sequence)


@compiled
def schedule_in_order(
    w: Any, which: int, time_ms: float, priority: int, sequence: int
) -> None:
    """The same, with its place among events of one time and priority."""
    clock = w.clock[0]
    entry = w.slot[which]
    entry.time_ms = time_ms
    entry.priority = priority
    entry.sequence = sequence
    if entry.position == NONE:
        size = clock.heap_size
        w.heap[size] = which
        entry.position = size
        clock.heap_size = size + 1
        sift_up(w.heap, w.slot, size)
    else:
        sift_up(w.heap, w.slot, entry.position)
        sift_down(w.heap, w.slot, clock.heap_size, entry.position)


@compiled
def cancel(w: Any, which: int) -> None:
    """Take the event of slot `which` back, if it is pending."""
    clock = w.clock[0]
    position = w.slot[which].position
    if position == NONE:
        return
    w.slot[which].position = NONE
    size = clock.heap_size - 1
    clock.heap_size = size
    if position < size:
        w.heap[position] = w.heap[size]
        moved = w.heap[position]
        w.slot[moved].position = position
        sift_up(w.heap, w.slot, position)
        sift_down(w.heap, w.slot, size, w.slot[moved].position)


@inlined
def pop(w: Any) -> int:
    """Remove the first event and return its slot."""
    clock = w.clock[0]
    first = w.heap[0]
    size = clock.heap_size - 1
    clock.heap_size = size
    w.slot[first].position = NONE
    if size > 0:
        w.heap[0] = w.heap[size]
        sift_down(w.heap, w.slot, size, 0)
    return int(first)
