"""Linked-list queues of requests: waiting prompts, pulls, and joins of a replica."""

from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.state import FCFS, NONE


@inlined
def push_prompt(w: Any, replica: int, request: int) -> None:
    """Append `request` to the prompts waiting at `replica`."""
    rep = w.replica[replica]
    w.request[request].next = NONE
    if rep.prompt_head == NONE:
        rep.prompt_head = request
    else:
        w.request[rep.prompt_tail].next = request
    rep.prompt_tail = request


@compiled
def push_prompt_front(w: Any, replica: int, request: int) -> None:
    """Put a preempted `request` ahead of the prompts waiting at `replica`."""
    rep = w.replica[replica]
    w.request[request].next = rep.prompt_head
    rep.prompt_head = request
    if rep.prompt_order != FCFS:
        rep.window_left += 1
    if rep.prompt_tail == NONE or w.request[request].next == NONE:
        rep.prompt_tail = request


@compiled
def push_pull(w: Any, replica: int, request: int) -> None:
    """Append `request` to those whose KV cache `replica` is to fetch."""
    rep = w.replica[replica]
    w.request[request].pull_next = NONE
    if rep.pull_head == NONE:
        rep.pull_head = request
    else:
        w.request[rep.pull_tail].pull_next = request
    rep.pull_tail = request


@compiled
def remove_pull(w: Any, replica: int, request: int) -> None:
    """Take `request` from those whose KV cache `replica` is to fetch."""
    rep = w.replica[replica]
    previous = NONE
    if rep.pull_head != request:
        previous = rep.pull_head
        while w.request[previous].pull_next != request:
            previous = w.request[previous].pull_next
    following = w.request[request].pull_next
    if previous == NONE:
        rep.pull_head = following
    else:
        w.request[previous].pull_next = following
    if rep.pull_tail == request:
        rep.pull_tail = previous


@compiled
def push_join(w: Any, replica: int, request: int) -> None:
    """Append `request` to those that join the next decode step of `replica`."""
    rep = w.replica[replica]
    w.request[request].next = NONE
    if rep.join_head == NONE:
        rep.join_head = request
    else:
        w.request[rep.join_tail].next = request
    rep.join_tail = request
    rep.num_joining += 1


@inlined
def push_partial(w: Any, replica: int, request: int) -> None:
    """Append `request` to the prompts of `replica` that are half prefilled."""
    rep = w.replica[replica]
    w.request[request].next = NONE
    if rep.partial_head == NONE:
        rep.partial_head = request
    else:
        w.request[rep.partial_tail].next = request
    rep.partial_tail = request
    rep.num_partial += 1


@compiled
def remove_partial(w: Any, replica: int, request: int, previous: int) -> None:
    """Take `request`, which follows `previous`, from the half prefilled prompts."""
    rep = w.replica[replica]
    following = w.request[request].next
    if previous == NONE:
        rep.partial_head = following
    else:
        w.request[previous].next = following
    if rep.partial_tail == request:
        rep.partial_tail = previous
    rep.num_partial -= 1


@compiled
def push_waiting(w: Any, request: int) -> None:
    """Append `request` to the arrivals that wait for a replica that prefills."""
    clock = w.clock[0]
    w.request[request].next = NONE
    if clock.wait_head == NONE:
        clock.wait_head = request
    else:
        w.request[clock.wait_tail].next = request
    clock.wait_tail = request


@compiled
def push_unsent(w: Any, request: int) -> None:
    """Append `request` to the prefilled ones that wait for a replica that decodes."""
    clock = w.clock[0]
    w.request[request].pull_next = NONE
    if clock.unsent_head == NONE:
        clock.unsent_head = request
    else:
        w.request[clock.unsent_tail].pull_next = request
    clock.unsent_tail = request


@compiled
def remove_unsent(w: Any, request: int) -> None:
    """Take `request` from the prefilled ones that wait for a replica that decodes."""
    clock = w.clock[0]
    previous, waiting = NONE, clock.unsent_head
    while waiting != request:
        previous, waiting = waiting, w.request[waiting].pull_next
    following = w.request[request].pull_next
    if previous == NONE:
        clock.unsent_head = following
    else:
        w.request[previous].pull_next = following
    if clock.unsent_tail == request:
        clock.unsent_tail = previous


@inlined
def push_batch(w: Any, stage: int, batch: int) -> None:
    """Append a prefill batch to the queue of a later pipeline stage."""
    st = w.stage[stage]
    w.request[batch].batch_next = NONE
    if st.prefill_head == NONE:
        st.prefill_head = batch
    else:
        w.request[st.prefill_tail].batch_next = batch
    st.prefill_tail = batch


@inlined
def push_group(w: Any, stage: int, group: int) -> None:
    """Append a decode group to the queue of a later pipeline stage."""
    st = w.stage[stage]
    w.group[group].next = NONE
    if st.decode_head == NONE:
        st.decode_head = group
    else:
        w.group[st.decode_tail].next = group
    st.decode_tail = group


@compiled
def mark_dirty(w: Any, replica: int) -> None:
    """Ask for `replica` to start what it can before the clock moves on.

    The list is kept in falling order (it is short), so that replicas start in the order
    of their indices whatever marked them.
    """
    rep = w.replica[replica]
    if rep.dirty == 0:
        rep.dirty = 1
        clock = w.clock[0]
        place = clock.num_dirty
        while place > 0 and w.dirty[place - 1] < replica:
            w.dirty[place] = w.dirty[place - 1]
            place -= 1
        w.dirty[place] = replica
        clock.num_dirty += 1
