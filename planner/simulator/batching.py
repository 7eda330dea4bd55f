"""Which requests make the next batch of an idle replica, and what it leaves behind.

Prefill first (vLLM): prompts are batched in order under a token budget whenever blocks
and places allow; otherwise the resident requests take a decode step together
(iteration-level batching, Orca). Steps that mix prompt chunks with decodes are made in
`chunks`, from the parts here. At request level (FasterTransformer) a batch is admitted
when the one before has ended. When a decode step needs blocks that are not there,
the one admitted last among the members of the next micro-batch and the prompts that
are half prefilled is preempted, and its context recomputed later.

References
----------
    Yu et al., "Orca", OSDI 2022; Kwon et al., "Efficient Memory Management for Large
    Language Model Serving with PagedAttention", SOSP 2023, section 4.5.
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.gaps import count_token, detach, push_late
from planner.simulator.groups import (
    add_member,
    context_tokens,
    latest_member,
    release_group,
    remove_member,
    take_group,
)
from planner.simulator.kv import (
    allocate,
    blocks_for,
    can_allocate,
    grow_to_now,
    growth,
    num_blocks,
    stays,
)
from planner.simulator.lifecycle import end_request, enter_decode, first_token
from planner.simulator.prefix_cache import find_prefix, use_prefix
from planner.simulator.prompt_order import take_window
from planner.simulator.queues import mark_dirty, push_prompt_front, remove_partial
from planner.simulator.state import NONE
from planner.simulator.streams import begin_stream


@compiled
def prompt_blocks(w: Any, replica: int, request: int) -> int:
    """Blocks a prompt needs here: its context, and the new token if it stays."""
    req = w.request[request]
    context = req.input_tokens + req.done_tokens + int(stays(w, replica, request))
    return int(blocks_for(w, replica, request, context))


@compiled
def can_prefill(w: Any, replica: int) -> bool:
    """Whether the first waiting prompt has blocks and a place."""
    rep = w.replica[replica]
    if rep.prompt_head == NONE or rep.num_running >= rep.max_num_seqs:
        return False
    blocks = prompt_blocks(w, replica, rep.prompt_head)
    return bool(can_allocate(w, replica, blocks))


@inlined
def admit(w: Any, replica: int) -> int:
    """Take the first waiting prompt, with its blocks and a place; returns it."""
    clock = w.clock[0]
    rep = w.replica[replica]
    request = rep.prompt_head
    req = w.request[request]
    rep.prompt_head = req.next
    if rep.prompt_head == NONE:
        rep.prompt_tail = NONE
    if rep.window_left > 0:
        rep.window_left -= 1
        take_window(w, replica)
    req.next = NONE
    if rep.cache != NONE:
        use_prefix(w, replica, request)
    allocate(w, replica, prompt_blocks(w, replica, request))
    rep.num_running += int(stays(w, replica, request))
    req.admission = clock.admissions
    clock.admissions += 1
    # A context that is recomputed has started before, or came from elsewhere.
    if req.done_tokens == 0 and math.isnan(req.prefill_start_ms):
        req.prefill_start_ms = clock.now_ms
    if req.input_tokens >= clock.least_layer_wise and rep.decodes == 0:
        begin_stream(w, request)
    return int(request)


@inlined
def form_prefill(w: Any, replica: int) -> int:
    """Take prompts in order under the token budget; returns the batch, or NONE.

    The first prompt may exceed the budget: it then runs alone. A padded batch is
    computed as if every prompt were as long as the longest.
    """
    rep = w.replica[replica]
    if not can_prefill(w, replica):
        return NONE
    batch = rep.prompt_head
    first = w.request[batch]
    first.batch_count = 0
    first.batch_tokens = 0.0
    first.batch_squares = 0.0
    longest = 0.0
    while can_prefill(w, replica) and first.batch_count < rep.max_step_prompts:
        request = rep.prompt_head
        req = w.request[request]
        if rep.cache != NONE:
            find_prefix(w, replica, request)
        past = req.cached_tokens
        tokens = req.input_tokens + req.done_tokens - past
        total = first.batch_tokens + tokens
        squares = first.batch_squares + float(tokens) * (tokens + 2 * past)
        longest = max(longest, float(tokens))
        if rep.is_batch_padded:
            total = (first.batch_count + 1) * longest
            squares = total * longest
        if first.batch_count > 0 and total > rep.max_batch_tokens:
            break
        admit(w, replica)
        if rep.cache != NONE:
            load_with_batch(w, batch, request)
        if first.batch_count > 0:
            w.request[first.batch_tail].next = request
        first.batch_tail = request
        first.batch_count += 1
        first.batch_tokens = total
        first.batch_squares = squares
    return int(batch)


@inlined
def load_with_batch(w: Any, batch: int, request: int) -> None:
    """Cached blocks of a batch are loaded one after the other, copies at once."""
    one, all_of = w.reuse[request], w.reuse[batch]
    if request == batch:
        all_of.batch_load_ms = 0.0
        all_of.batch_ready_ms = 0.0
    all_of.batch_load_ms += one.load_ms
    all_of.batch_ready_ms = max(all_of.batch_ready_ms, one.ready_ms)


@compiled
def end_prefill(w: Any, replica: int, batch: int) -> None:
    """Every request of a prefilled batch has one more token."""
    request = batch
    while request != NONE:
        req = w.request[request]
        following = req.next
        req.next = NONE
        if req.done_tokens == 0:
            first_token(w, request)
        else:
            req.done_tokens += 1
            if w.clock[0].counts_gaps:
                count_token(w, request, w.clock[0].now_ms)
            enter_decode(w, request)
        request = following
    mark_dirty(w, replica)


@inlined
def preempt(w: Any, group: int, position: int) -> None:
    """Drop a member's KV cache; its whole context waits to be prefilled again."""
    grp = w.group[group]
    context = context_tokens(w, group, position)
    covered = context - (grp.step - grp.covered_step)
    request = remove_member(w, group, position)
    if w.clock[0].counts_gaps:
        detach(w, group, request)
    req = w.request[request]
    req.done_tokens = context - req.input_tokens
    blocks = num_blocks(covered, w.replica[grp.replica].block_tokens)
    wait_again(w, grp.replica, request, blocks)


@compiled
def wait_again(w: Any, replica: int, request: int, blocks: int) -> None:
    """Give back all `blocks` of `request`, which waits in front of the prompts."""
    clock = w.clock[0]
    rep = w.replica[replica]
    req = w.request[request]
    req.cached_tokens = 0
    req.num_preemptions += 1
    clock.num_preemptions += 1
    allocate(w, replica, -blocks)
    rep.num_running -= int(stays(w, replica, request))
    push_prompt_front(w, replica, request)


@inlined
def preempt_latest(w: Any, group: int) -> None:
    """Drop the request admitted last: a member, or a prompt that is half prefilled.

    What a step under way computes stays.
    """
    grp = w.group[group]
    rep = w.replica[grp.replica]
    position = latest_member(w, group)
    admission = w.request[w.member[grp.offset + position].request].admission
    chosen, before, previous = NONE, NONE, NONE
    request = rep.partial_head
    while request != NONE:
        req = w.request[request]
        if req.admission > admission and req.last_batch <= rep.batches_ended:
            chosen, before, admission = request, previous, req.admission
        previous, request = request, req.next
    if chosen == NONE:
        preempt(w, group, position)
    else:
        remove_partial(w, grp.replica, chosen, before)
        wait_again(w, grp.replica, chosen, prompt_blocks(w, grp.replica, chosen))


@compiled
def cover_next_step(w: Any, group: int) -> bool:
    """Take the blocks of the next step, preempting until they fit; False if empty."""
    grp = w.group[group]
    rep = w.replica[grp.replica]
    while grp.num_members > 0:
        needed = growth(w, group, grp.covered_step, grp.step, rep.block_tokens)
        if needed <= rep.free_blocks:
            if needed > 0:
                allocate(w, grp.replica, needed)
            grp.covered_step = grp.step
            return True
        preempt_latest(w, group)
    grp.covered_step = grp.step
    return False


@inlined
def pad_with_ended(w: Any, replica: int, group: int) -> None:
    """Requests that ended with their prompt are computed on with a padded batch."""
    grp = w.group[group]
    request = w.replica[replica].ended_head
    while request != NONE:
        req = w.request[request]
        grp.kv_tokens += req.input_tokens + req.output_tokens
        grp.num_padded += 1
        request = req.next


@compiled
def gather_decodes(w: Any, replica: int) -> int:
    """The next micro-batch ready to decode, with newcomers; the group, or NONE.

    It is the one that has waited longest, with blocks for its next step, and a new one
    when none waits. With one pipeline stage there is only one.
    """
    rep = w.replica[replica]
    group = next_idle_group(w, replica)
    if group == NONE:
        if rep.join_head == NONE:
            return NONE
        group = take_group(w, replica)
        if rep.is_batch_padded:
            pad_with_ended(w, replica, group)
    add_joining(w, replica, group)
    return int(group)


@compiled
def next_idle_group(w: Any, replica: int) -> int:
    """Take the first idle group whose members are not all preempted, or NONE."""
    rep = w.replica[replica]
    while rep.idle_group != NONE:
        group = rep.idle_group
        rep.idle_group = w.group[group].next
        w.group[group].next = NONE
        if cover_next_step(w, group):
            return int(group)
        release_group(w, group)
    return NONE


@inlined
def add_joining(w: Any, replica: int, group: int) -> None:
    """Newcomers take the places that are left in a micro-batch, in order."""
    rep = w.replica[replica]
    most = rep.max_micro_batch
    while rep.join_head != NONE and w.group[group].num_members < most:
        request = rep.join_head
        req = w.request[request]
        rep.join_head = req.next
        if w.clock[0].counts_gaps:
            push_late(w, group, request)
        rep.num_joining -= 1
        left = req.output_tokens - req.done_tokens
        add_member(w, group, request, w.group[group].step + left)
    if rep.join_head == NONE:
        rep.join_tail = NONE


@inlined
def form_decode(w: Any, replica: int) -> int:
    """The next micro-batch takes a decode step; the group, or NONE.

    At most one group a pipeline stage is under way.
    """
    rep = w.replica[replica]
    if rep.num_flying >= rep.num_stages:
        return NONE
    group = gather_decodes(w, replica)
    if group != NONE:
        rep.num_flying += 1
    return int(group)


@compiled
def advance_group(w: Any, group: int, steps: int, covered_step: int) -> None:
    """Count `steps` decode steps; take the blocks filled up to `covered_step`."""
    grp = w.group[group]
    rep = w.replica[grp.replica]
    grp.kv_tokens += grp.width * steps
    grp.step += steps
    blocks = growth(w, group, grp.covered_step, covered_step, rep.block_tokens)
    grow_to_now(w, grp.replica, blocks)
    grp.covered_step = covered_step


@inlined
def end_decode(w: Any, group: int, steps: int) -> None:
    """A run of steps is over: finished requests leave, the others wait for the next.

    Prompts whose last chunk was in the step have their first token.
    """
    grp = w.group[group]
    replica = grp.replica
    rep = w.replica[replica]
    rep.num_flying -= 1
    rep.batches_ended += 1
    advance_group(w, group, steps, grp.step + steps - 1)
    while grp.num_members > 0 and w.member[grp.offset].finish <= grp.step:
        request = remove_member(w, group, 0)
        req = w.request[request]
        req.done_tokens = req.output_tokens
        if rep.is_batch_padded:  # computed on, with one more token each step
            grp.kv_tokens += req.input_tokens + req.output_tokens
            grp.num_padded += 1
        end_request(w, request, req.input_tokens + req.output_tokens - 1)
    if grp.head != NONE:
        end_prefill(w, replica, grp.head)
        grp.head = NONE
    grp.chunk_tokens = 0
    if grp.num_members == 0:
        release_group(w, group)
    else:
        push_idle_group(w, group)
    mark_dirty(w, replica)


@inlined
def push_idle_group(w: Any, group: int) -> None:
    """The micro-batch waits for its next step behind those that wait already."""
    rep = w.replica[w.group[group].replica]
    w.group[group].next = NONE
    if rep.idle_group == NONE:
        rep.idle_group = group
        return
    last = rep.idle_group
    while w.group[last].next != NONE:
        last = w.group[last].next
    w.group[last].next = group
