"""Requests of a unit: arrival, prefill batches under quotas, preemption, the end."""

import math
from typing import Any

from planner.multiplexing.stretch_kernel import set_prefill_demand
from planner.multiplexing.unit_decode_kernel import limit_run, settle_decode
from planner.multiplexing.unit_state import DONE, NONE, REJECTED
from planner.simulator.compiled import compiled, inlined


@inlined
def arrive(w: Any, request: int) -> None:
    """Queue a request, or refuse one that is longer than the quota of its LLM."""
    req = w.request[request]
    model = w.llm[req.llm]
    if req.input_tokens + req.output_tokens > model.quota_tokens:
        req.status = REJECTED
        w.clock[0].num_rejected += 1
        return
    req.next = NONE
    if model.prompt_head == NONE:
        model.prompt_head = request
    else:
        w.request[model.prompt_tail].next = request
    model.prompt_tail = request


@compiled
def can_admit(w: Any, llm: int) -> bool:
    """Whether the first prompt has a place, and KV room beside the step under way."""
    model = w.llm[llm]
    if model.prompt_head == NONE or model.num_running >= model.max_num_seqs:
        return False
    if model.is_decoding:
        settle_decode(w, llm)
    req = w.request[model.prompt_head]
    needed = req.input_tokens + req.done_tokens + 1
    if model.is_decoding:
        needed += model.num_members
    return bool(model.held_tokens + needed <= model.quota_tokens)


@compiled
def has_prefilled(w: Any, llm: int) -> bool:
    """Whether the first of the queue was prefilled elsewhere."""
    head = w.llm[llm].prompt_head
    return bool(head != NONE and w.request[head].is_prefilled)


@compiled
def admit_prefilled(w: Any, llm: int) -> None:
    """KV caches that came from elsewhere join the decodes, in order, with room."""
    clock, model = w.clock[0], w.llm[llm]
    num = 0
    while has_prefilled(w, llm) and can_admit(w, llm):
        request = model.prompt_head
        req = w.request[request]
        model.prompt_head = req.next
        if model.prompt_head == NONE:
            model.prompt_tail = NONE
        model.held_tokens += req.input_tokens + req.done_tokens
        model.num_running += 1
        req.is_prefilled = 0
        req.admission = clock.admissions
        clock.admissions += 1
        join(w, request)
        num += 1
    if num > 0:
        count_usage(w, llm)
        if model.is_decoding:
            limit_run(w, llm)


@inlined
def join(w: Any, request: int) -> None:
    """Let a request decode from the next step of its LLM on."""
    req = w.request[request]
    model = w.llm[req.llm]
    req.next = NONE
    if model.join_head == NONE:
        model.join_head = request
    else:
        w.request[model.join_tail].next = request
    model.join_tail = request


@compiled
def form_prefill(w: Any, llm: int) -> None:
    """Take prompts in order, under the token budget (the first may exceed it)."""
    clock, model, job = w.clock[0], w.llm[llm], w.prefill[0]
    total, squares, last = 0.0, 0.0, NONE
    job.llm, job.head = llm, NONE
    while can_admit(w, llm) and not has_prefilled(w, llm):
        request = model.prompt_head
        req = w.request[request]
        tokens = float(req.input_tokens + req.done_tokens)
        if last != NONE and total + tokens > model.max_batch_tokens:
            break
        model.prompt_head = req.next
        if model.prompt_head == NONE:
            model.prompt_tail = NONE
        req.next = NONE
        if last == NONE:
            job.head = request
        else:
            w.request[last].next = request
        last = request
        total += tokens
        squares += tokens * tokens
        model.held_tokens += req.input_tokens + req.done_tokens + 1
        model.num_running += 1
        req.admission = clock.admissions
        clock.admissions += 1
        if math.isnan(req.prefill_start_ms):
            req.prefill_start_ms = clock.now_ms
    count_usage(w, llm)
    if model.is_decoding:
        limit_run(w, llm)
    set_prefill_demand(w, llm, total, squares)
    job.start_ms = clock.now_ms
    job.settled_ms = clock.now_ms
    job.left_frac = 1.0
    job.duration_ms = job.alone_ms
    clock.is_changed = 1


@inlined
def count_usage(w: Any, llm: int) -> None:
    """Note how full the quota is as prompts are admitted; 1: the next has no room."""
    model = w.llm[llm]
    usage = model.held_tokens / model.quota_tokens
    if model.prompt_head != NONE and model.num_running < model.max_num_seqs:
        req = w.request[model.prompt_head]
        if model.held_tokens + req.input_tokens + req.done_tokens >= model.quota_tokens:
            usage = 1.0
    model.usage_sum += usage
    model.num_usages += 1
    model.peak_held_tokens = max(model.peak_held_tokens, model.held_tokens)


@inlined
def end_prefill(w: Any) -> None:
    """Every prompt of the batch has one more token and goes on to decode."""
    clock, job = w.clock[0], w.prefill[0]
    model = w.llm[job.llm]
    model.prefill_busy_ms += clock.now_ms - job.start_ms
    request = job.head
    job.llm, job.head = NONE, NONE
    clock.is_changed = 1
    while request != NONE:
        req = w.request[request]
        following = req.next
        req.next = NONE
        req.done_tokens += 1
        if req.done_tokens == 1:
            req.first_token_ms = clock.now_ms
        if req.done_tokens == req.output_tokens:
            finish(w, request)
        else:
            join(w, request)
        request = following


@compiled
def finish(w: Any, request: int) -> None:
    """All tokens are out: give the KV cache and the place back."""
    clock = w.clock[0]
    req = w.request[request]
    model = w.llm[req.llm]
    req.finish_ms = clock.now_ms
    req.status = DONE
    clock.num_done += 1
    model.held_tokens -= req.input_tokens + req.output_tokens
    model.num_running -= 1


@compiled
def preempt_latest(w: Any, llm: int) -> None:
    """Drop the KV cache of the member admitted last; its context is computed again."""
    clock, model = w.clock[0], w.llm[llm]
    first, latest = model.first_member, 0
    for i in range(1, model.num_members):
        admission = w.request[w.member[first + i]].admission
        if admission > w.request[w.member[first + latest]].admission:
            latest = i
    request = w.member[first + latest]
    model.num_members -= 1
    w.member[first + latest] = w.member[first + model.num_members]
    req = w.request[request]
    req.done_tokens = req.output_tokens - (req.finish_step - model.step)
    context = req.input_tokens + req.done_tokens
    model.kv_tokens -= context
    model.held_tokens -= context
    model.num_running -= 1
    req.num_preemptions += 1
    clock.num_preemptions += 1
    req.next = model.prompt_head
    model.prompt_head = request
    if model.prompt_tail == NONE:
        model.prompt_tail = request


@compiled
def gather(w: Any, llm: int) -> bool:
    """Everyone of `llm` that is ready decodes next, as far as the quota goes."""
    model = w.llm[llm]
    while model.join_head != NONE:
        request = model.join_head
        req = w.request[request]
        model.join_head = req.next
        req.next = NONE
        w.member[model.first_member + model.num_members] = request
        model.num_members += 1
        model.kv_tokens += req.input_tokens + req.done_tokens
        req.finish_step = model.step + req.output_tokens - req.done_tokens
    model.join_tail = NONE
    while (
        model.num_members > 0
        and model.held_tokens + model.num_members > model.quota_tokens
    ):
        preempt_latest(w, llm)
    return bool(model.num_members > 0)


@compiled
def begin_run(w: Any, llm: int) -> None:
    """Decode until the first member ends or the quota is full."""
    clock, model = w.clock[0], w.llm[llm]
    first = model.first_member
    earliest = w.request[w.member[first]].finish_step
    for i in range(1, model.num_members):
        earliest = min(earliest, w.request[w.member[first + i]].finish_step)
    model.is_decoding = 1
    model.run_start_ms = clock.now_ms
    model.fixed_ms, model.slope_ms = 0.0, 0.0
    model.run_steps = earliest - model.step
    limit_run(w, llm)
    clock.is_changed = 1


@compiled
def end_run(w: Any, llm: int) -> None:
    """The run's steps are over: members with all their tokens leave."""
    clock, model = w.clock[0], w.llm[llm]
    steps = model.run_steps
    model.step += steps
    model.kv_tokens += model.num_members * steps
    model.held_tokens += model.num_members * steps
    model.num_decode_tokens += model.num_members * steps
    model.decode_busy_ms += clock.now_ms - model.run_start_ms
    model.peak_held_tokens = max(model.peak_held_tokens, model.held_tokens)
    model.is_decoding = 0
    clock.is_changed = 1
    first, i = model.first_member, 0
    while i < model.num_members:
        request = w.member[first + i]
        req = w.request[request]
        if req.finish_step > model.step:
            i += 1
            continue
        req.done_tokens = req.output_tokens
        model.kv_tokens -= req.input_tokens + req.output_tokens
        model.num_members -= 1
        w.member[first + i] = w.member[first + model.num_members]
        finish(w, request)
