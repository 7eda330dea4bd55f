"""Chunked prefill: prompts are cut to a token budget and ride with the decodes.

Reference
    Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with
    Sarathi-Serve", OSDI 2024, section 4.3 and algorithm 3; Qin et al., "Mooncake",
    FAST 2025, section 5.1 (chunks of one prompt on different pipeline stages).

Idea
    A decode step reads all the weights for a handful of tokens. Chunks of prompts fill
    the step up to a budget, so that no prompt holds the decodes up for longer than a
    budget's worth of tokens, and the decodes cost a prompt step almost nothing.

Steps
    1. Every request that is decoding gets one token; when its blocks are not free, the
       request admitted last is preempted and recomputed.
    2. Prompts already begun take what the budget leaves, in the order of admission.
    3. New prompts are admitted, first come first served, while blocks for the whole
       prompt, a place and budget are there. The last chunk yields the first token.

Differences from the paper
    - Chunks of a prompt follow each other through the stages of a pipeline without
      waiting for its earlier ones (Mooncake, vLLM V1), unless `has_chunks_in_turn`.
    - Without `mixes_decodes` chunks have their own steps, before the decodes (SGLang).
    - Without `cuts_prompts` the steps are Orca's: whole prompts beside the decodes (Yu
      et al., "Orca", OSDI 2022, algorithm 1), the KV cache of every request reserved.

Assumes   a budget of at least one tile
Cost      one event a step with chunks; O(prompts in it)
Guarantee no step has more tokens than the budget, unless it has more decodes
"""

from typing import Any

from planner.simulator.batching import admit, can_prefill, gather_decodes
from planner.simulator.compiled import compiled, inlined
from planner.simulator.groups import take_group
from planner.simulator.prefix_cache import find_prefix
from planner.simulator.queues import push_partial, remove_partial
from planner.simulator.state import NONE


@compiled
def chunk_size(
    w: Any, replica: int, request: int, decodes: int, chunk_tokens: int
) -> int:
    """Tokens of `request` in a step with so many decodes and chunk tokens; 0: none.

    A chunk cut by the budget ends at the last tile of the budget. A prompt that cannot
    be cut goes into the step whole or not at all, the first in any case.
    """
    rep = w.replica[replica]
    req = w.request[request]
    left = rep.max_batch_tokens - decodes - chunk_tokens
    tokens = req.input_tokens + req.done_tokens - req.cached_tokens
    if not rep.cuts_prompts:
        return int(tokens if chunk_tokens == 0 or tokens <= left else 0)
    tokens = min(tokens, rep.max_chunk)
    if tokens > left:
        tokens = left - rep.tile_rest
    return int(max(tokens, 0))


@compiled
def can_begin(w: Any, replica: int) -> bool:
    """Whether the first waiting prompt may have its first chunk, budget aside."""
    rep = w.replica[replica]
    return bool(rep.num_partial < rep.max_partial and can_prefill(w, replica))


@inlined
def is_awaited(w: Any, replica: int, request: int) -> bool:
    """Whether the chunk before must leave the pipeline before the next one starts."""
    rep = w.replica[replica]
    is_under_way = w.request[request].last_batch > rep.batches_ended
    return bool(rep.has_chunks_in_turn and is_under_way)


@compiled
def next_chunk(w: Any, replica: int, decodes: int) -> int:
    """Tokens of the first chunk of a step beside so many decodes; 0: no chunk."""
    rep = w.replica[replica]
    request = rep.partial_head
    while request != NONE and is_awaited(w, replica, request):
        request = w.request[request].next
    if request == NONE:
        if not can_begin(w, replica):
            return 0
        request = rep.prompt_head
        if rep.cache != NONE:
            find_prefix(w, replica, request)
    return int(chunk_size(w, replica, request, decodes, 0))


@inlined
def form_chunked(w: Any, replica: int) -> int:
    """The next step of the first stage, decodes before chunks; the group, or NONE.

    At most one group a pipeline stage is under way.
    """
    rep = w.replica[replica]
    if rep.num_flying >= rep.num_stages:
        return NONE
    group = NONE
    if rep.mixes_decodes or next_chunk(w, replica, 0) == 0:
        group = gather_decodes(w, replica)
    if group == NONE:
        if next_chunk(w, replica, 0) == 0:
            return NONE
        group = take_group(w, replica)
    rep.num_flying += 1
    rep.batches_begun += 1
    if rep.mixes_decodes or w.group[group].num_members == 0:
        add_chunks(w, replica, group)
    return int(group)


@inlined
def add_chunks(w: Any, replica: int, group: int) -> None:
    """Fill what the decodes of `group` leave of the budget, in order of admission."""
    rep = w.replica[replica]
    grp = w.group[group]
    grp.chunk_squares = 0.0
    grp.load_ms = 0.0
    grp.ready_ms = 0.0
    num_prompts = 0
    most = rep.max_step_prompts
    previous = NONE
    request = rep.partial_head
    while request != NONE and num_prompts < most:
        following = w.request[request].next
        if is_awaited(w, replica, request):
            previous, request = request, following
            continue
        tokens = chunk_size(w, replica, request, grp.num_members, grp.chunk_tokens)
        if tokens == 0:
            return
        num_prompts += 1
        if add_chunk(w, group, request, tokens):
            remove_partial(w, replica, request, previous)
            push_finishing(w, group, request)
        else:
            previous = request
        request = following
    most = min(most, rep.max_micro_batch - grp.num_members)
    while num_prompts < most and can_begin(w, replica):
        request = rep.prompt_head
        if rep.cache != NONE:
            find_prefix(w, replica, request)
        tokens = chunk_size(w, replica, request, grp.num_members, grp.chunk_tokens)
        if tokens == 0:
            return
        num_prompts += 1
        admit(w, replica)
        if rep.cache != NONE:
            grp.load_ms += w.reuse[request].load_ms
            grp.ready_ms = max(grp.ready_ms, w.reuse[request].ready_ms)
        if add_chunk(w, group, request, tokens):
            push_finishing(w, group, request)
        else:
            push_partial(w, replica, request)


@compiled
def add_chunk(w: Any, group: int, request: int, tokens: int) -> bool:
    """Put the next `tokens` of a prompt into the step; whether they are its last."""
    grp = w.group[group]
    req = w.request[request]
    grp.chunk_tokens += tokens
    grp.chunk_squares += float(tokens) * (tokens + 2 * req.cached_tokens)
    req.cached_tokens += tokens
    req.last_batch = w.replica[grp.replica].batches_begun
    return bool(req.cached_tokens == req.input_tokens + req.done_tokens)


@compiled
def push_finishing(w: Any, group: int, request: int) -> None:
    """Append `request` to the prompts that `group` ends."""
    grp = w.group[group]
    w.request[request].next = NONE
    if grp.head == NONE:
        grp.head = request
    else:
        w.request[grp.tail].next = request
    grp.tail = request
