"""The event loop of a unit: LLMs that share GPUs in space, or in turns.

Reference
    Duan et al., "MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM
    Serving", ICML 2024, arXiv 2404.02015, Algorithm 3: adaptive batch scheduling.

Idea
    In space, one prefill runs at a time on the SMs kept for prefills, and the decodes
    of every LLM run beside it on SMs of their own; whose prompts come next goes round.
    KV quotas keep one LLM from taking all memory. An LLM that fills its quota and has
    a queue takes from those that do not.
    In turns, one step has the whole unit: prefills first, then decodes, going round.
    A decode-only unit gets its requests with their KV caches; only those that lose it
    are prefilled here.

Steps
    1. Everything that ends or arrives at one instant is handled.
    2. Adaptation, every few seconds: quotas move.
    3. What can start does; a run whose batch can grow ends with its step.
    4. If anything began or ended, everything under way gets its new speed.

Differences from the paper
    - SM shares add up to 1 and are kept, so prefills need not hold decodes back
    - steps that run together slow each other down (`models.latency.contention`)
    - quotas are tokens of each LLM; the released code keeps numbers of requests, which
      it works out from blocks. A quota is full where the next prompt finds no room
"""

import math
from typing import Any

from planner.multiplexing.unit_decode_kernel import (
    cut_run,
    limit_run,
    retime,
    settle_decode,
)
from planner.multiplexing.unit_requests_kernel import (
    admit_prefilled,
    arrive,
    begin_run,
    can_admit,
    end_prefill,
    end_run,
    form_prefill,
    gather,
    has_prefilled,
)
from planner.multiplexing.unit_state import NONE
from planner.simulator.compiled import compiled, entry_point, inlined

FULL_FRAC = 0.9
"""Mean use of a quota from which an LLM asks for more, as released."""
MORE_FRAC = 0.1
"""Part of its quota that it may get each time, as released."""


@entry_point
def run(w: Any) -> None:
    """Run until every request has ended."""
    clock = w.clock[0]
    while True:
        arrival_ms = math.inf
        if clock.next_arrival < w.request.shape[0]:
            arrival_ms = float(w.request[clock.next_arrival].arrival_ms)
        upcoming = min(arrival_ms, next_end_ms(w))
        if upcoming == math.inf:
            return
        if clock.next_adapt_ms < upcoming:
            clock.now_ms = clock.next_adapt_ms
            clock.next_adapt_ms += clock.adapt_ms
            adapt(w)
        else:
            clock.now_ms = max(clock.now_ms, upcoming)
            clock.num_events += 1
            handle(w)
        start(w)
        if clock.is_changed:
            retime(w)


@inlined
def next_end_ms(w: Any) -> float:
    """When the first step or run under way ends."""
    earliest = math.inf
    if w.prefill[0].llm != NONE:
        earliest = float(w.prefill[0].end_ms)
    for llm in range(w.llm.shape[0]):
        model = w.llm[llm]
        if model.is_decoding and model.run_end_ms < earliest:
            earliest = float(model.run_end_ms)
    return earliest


@inlined
def handle(w: Any) -> None:
    """Everything that ends or arrives now."""
    clock = w.clock[0]
    now = clock.now_ms
    for llm in range(w.llm.shape[0]):
        if w.llm[llm].is_decoding and w.llm[llm].run_end_ms <= now:
            end_run(w, llm)
    if w.prefill[0].llm != NONE and w.prefill[0].end_ms <= now:
        end_prefill(w)
    while clock.next_arrival < w.request.shape[0]:
        if w.request[clock.next_arrival].arrival_ms > now:
            break
        clock.next_arrival += 1
        arrive(w, clock.next_arrival - 1)


@inlined
def start(w: Any) -> None:
    """Start what can start."""
    if not w.clock[0].shares_space:
        if w.clock[0].decodes_only:
            for llm in range(w.llm.shape[0]):
                admit_prefilled(w, llm)
        take_turn(w)
        return
    while True:
        for llm in range(w.llm.shape[0]):
            model = w.llm[llm]
            if w.clock[0].decodes_only:
                admit_prefilled(w, llm)
            if model.is_decoding:
                if model.join_head != NONE:
                    cut_run(w, llm)
            elif gather(w, llm):
                begin_run(w, llm)
        if w.prefill[0].llm != NONE or not start_prefill(w):
            return
        if not w.clock[0].decodes_only:
            return  # else whoever waited behind that prompt may join now


@compiled
def start_prefill(w: Any) -> bool:
    """The next LLM, going round, that has a prompt with room; False: none has."""
    clock = w.clock[0]
    num = w.llm.shape[0]
    for i in range(num):
        llm = (clock.next_prefill + i) % num
        if can_admit(w, llm) and not has_prefilled(w, llm):
            clock.next_prefill = (llm + 1) % num
            form_prefill(w, llm)
            return True
    return False


@compiled
def take_turn(w: Any) -> None:
    """One step has all SMs: a prefill, or else a decode step of the next LLM.

    A single LLM with requests decodes on until something else can start.
    """
    clock = w.clock[0]
    num = w.llm.shape[0]
    busy, num_ready, is_due = NONE, 0, False
    for llm in range(num):
        model = w.llm[llm]
        if model.is_decoding:
            busy = llm
        num_ready += model.is_decoding or model.num_members > 0
        if model.join_head != NONE:
            is_due = True
            num_ready += model.num_members == 0 and not model.is_decoding
    if w.prefill[0].llm != NONE:
        return
    if busy != NONE:
        for llm in range(num):
            is_due = is_due or can_admit(w, llm)
        if is_due or num_ready > 1:
            cut_run(w, busy)
        return
    if start_prefill(w):
        return
    for i in range(num):
        llm = (clock.next_decode + i) % num
        if gather(w, llm):
            clock.next_decode = (llm + 1) % num
            begin_run(w, llm)
            if num_ready > 1:
                w.llm[llm].run_steps = 1
            return
        if w.llm[llm].prompt_head != NONE and start_prefill(w):
            return  # what was preempted can be computed again at once


@inlined
def adapt(w: Any) -> None:
    """LLMs with full quotas and a queue take from those with room, in proportion."""
    clock = w.clock[0]
    num = w.llm.shape[0]
    wanted, spare = 0.0, 0.0
    for llm in range(num):
        if w.llm[llm].is_decoding:
            settle_decode(w, llm)
        wanted += wanted_bytes(w, llm)
        spare += spare_bytes(w, llm)
    moved = min(wanted, spare)
    if moved > 0.0:
        clock.num_adaptations += 1
        for llm in range(num):
            model = w.llm[llm]
            more = wanted_bytes(w, llm) * moved / wanted
            less = spare_bytes(w, llm) * moved / spare
            tokens = (more - less) / model.bytes_per_token
            model.quota_tokens += math.floor(tokens)
            if model.is_decoding:
                limit_run(w, llm)
    for llm in range(num):
        w.llm[llm].usage_sum = 0.0
        w.llm[llm].num_usages = 0


@inlined
def usage_frac(w: Any, llm: int) -> float:
    """Mean use of the quota since the last adaptation."""
    model = w.llm[llm]
    if model.num_usages == 0:
        return float(model.held_tokens / model.quota_tokens)
    return float(model.usage_sum / model.num_usages)


@compiled
def wanted_bytes(w: Any, llm: int) -> float:
    """KV cache that an LLM asks for: it has a queue, and its quota was full."""
    model = w.llm[llm]
    if model.prompt_head == NONE or usage_frac(w, llm) < FULL_FRAC:
        return 0.0
    return float(MORE_FRAC * model.quota_tokens * model.bytes_per_token)


@compiled
def spare_bytes(w: Any, llm: int) -> float:
    """KV cache that an LLM can give: what it did not use, and does not hold now."""
    model = w.llm[llm]
    usage = usage_frac(w, llm)
    if usage >= FULL_FRAC:
        return 0.0
    slack = (FULL_FRAC - usage) * model.quota_tokens
    kept = max(model.least_quota_tokens, model.held_tokens + model.num_members)
    return float(
        max(0.0, min(slack, model.quota_tokens - kept)) * model.bytes_per_token
    )
