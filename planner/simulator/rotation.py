"""Decode batches under a cap on the context of one step: requests take turns.

A server that limits the context tokens of a decode step (DistServe's) keeps a queue of
requests before every pipeline stage, serves the head of it up to the cap, and puts
survivors at the tail of the first queue. Batches change at every step and every stage,
so there is nothing to fast-forward: members are plain lists, step by step.
"""

from typing import Any

from planner.simulator.compiled import inlined, optional
from planner.simulator.gaps import count_token
from planner.simulator.groups import release_group, take_group
from planner.simulator.kv import allocate, num_blocks
from planner.simulator.lifecycle import leave_decode
from planner.simulator.queues import mark_dirty, push_join, push_prompt_front
from planner.simulator.state import NONE


@optional
def form_capped(w: Any, stage: int) -> int:
    """The head of the stage's queue, up to the cap on context; the group, or NONE."""
    st = w.stage[stage]
    rep = w.replica[st.replica]
    is_first = stage == rep.first_stage
    waiting = rep.join_head if is_first else st.decode_head
    if waiting == NONE:
        return NONE
    group = take_group(w, st.replica)
    grp = w.group[group]
    grp.head = waiting
    while waiting != NONE:
        req = w.request[waiting]
        context = req.input_tokens + req.done_tokens
        if grp.num_members > 0 and grp.kv_tokens + context > rep.max_step_context:
            break
        grp.num_members += 1
        grp.kv_tokens += context
        grp.tail = waiting
        waiting = req.next
    w.request[grp.tail].next = NONE
    if is_first:
        rep.num_joining -= grp.num_members
        rep.join_head = waiting
        if waiting == NONE:
            rep.join_tail = NONE
    else:
        st.decode_head = waiting
    return int(group)


@optional
def pass_on_capped(w: Any, stage: int, group: int) -> None:
    """The members queue for the next stage."""
    following = w.stage[stage + 1]
    grp = w.group[group]
    if following.decode_head == NONE:
        following.decode_head = grp.head
    else:
        w.request[following.decode_tail].next = grp.head
    following.decode_tail = grp.tail
    grp.num_members = 0
    release_group(w, group)
    mark_dirty(w, grp.replica)


@optional
def end_capped(w: Any, group: int) -> None:
    """One token each; those that end give back their blocks before others take some."""
    grp = w.group[group]
    rep = w.replica[grp.replica]
    request = grp.head
    while request != NONE:
        req = w.request[request]
        held = num_blocks(req.input_tokens + req.done_tokens, rep.block_tokens)
        req.done_tokens += 1
        if w.clock[0].counts_gaps:
            count_token(w, request, w.clock[0].now_ms)
        if req.done_tokens == req.output_tokens:
            allocate(w, grp.replica, -held)
            leave_decode(w, request)
        request = req.next
    request = grp.head
    while request != NONE:
        req = w.request[request]
        following = req.next
        if req.done_tokens < req.output_tokens:
            queue_again(w, grp.replica, request)
        request = following
    grp.num_members = 0
    release_group(w, group)
    mark_dirty(w, grp.replica)


@inlined
def queue_again(w: Any, replica: int, request: int) -> None:
    """Take the block of the next step and wait for it; preempted if there is none."""
    rep = w.replica[replica]
    req = w.request[request]
    context = req.input_tokens + req.done_tokens
    held = num_blocks(context - 1, rep.block_tokens)
    more = num_blocks(context, rep.block_tokens) - held
    if more > rep.free_blocks:
        allocate(w, replica, -held)
        rep.num_running -= 1
        req.num_preemptions += 1
        w.clock[0].num_preemptions += 1
        push_prompt_front(w, replica, request)
        return
    if more > 0:
        allocate(w, replica, more)
    push_join(w, replica, request)
