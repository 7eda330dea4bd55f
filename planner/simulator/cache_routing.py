"""Cache-aware routing: the prefill replica with the least expected TTFT.

Reference
    Qin et al., "Mooncake: Trading More Storage for Less Computation", FAST 2025,
    section 6.1, algorithm 1 (KVCache-centric scheduling).

Idea
    The replica that holds most of a prompt has the least to compute, but it may have
    the longest queue. The expected TTFT weighs one against the other; and where the
    longest cached prefix is far longer than a replica's own, it is copied there, which
    also spreads hot blocks over the replicas without any forecast of what is hot.

Steps
    1. Count the blocks of the prompt that each replica's cache holds.
    2. For each replica, take its own prefix, or the longest one with the time to copy
       what it lacks when longest / own exceeds a threshold.
    3. Expected TTFT = copy + queue + prefill of the rest; the least one is chosen. On a
       replica of which the steps hold decodes too, queue and prefill take longer, as a
       full step does with the decodes under way.
    4. The queue of the chosen replica grows by the expected prefill.

Differences from the paper
    - The prefill time comes from the step tables of the replica, not from a regression.
    - The decode replica is chosen when the first token is there.

Assumes   step tables that hold for one prompt at a time
Cost      O(replicas + blocks held by any of them) a request
Guarantee none: the expected TTFT does not know of batching, nor of waits for the KV
          cache of decodes on the same replica, nor of later evictions
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.prefix_cache import count_matching, tokens_of
from planner.simulator.state import NONE
from planner.simulator.steps import prefill_ms

_PER_MS = 1 << 20
"""Expected times are whole multiples of 1 ms / 2**20: their sums are exact."""


@compiled
def prompt_work_ms(w: Any, replica: int, tokens: int, past: int) -> float:
    """Time of the slowest stage for a prompt alone, `past` of it cached, in ms."""
    rep = w.replica[replica]
    left = tokens - past
    squares = float(left) * (left + 2 * past)
    slowest = 0.0
    for stage in range(rep.first_stage, rep.first_stage + rep.num_stages):
        if rep.cuts_prompts and left > rep.max_batch_tokens:
            full = left // rep.max_batch_tokens
            rest = left - full * rep.max_batch_tokens
            time = full * prefill_ms(w, stage, float(rep.max_batch_tokens), 0.0)
            if rest > 0:
                time += prefill_ms(w, stage, float(rest), 0.0)
            time += w.stage[stage].per_sq_token_ms * squares
        else:
            time = prefill_ms(w, stage, float(left), squares)
        slowest = max(slowest, time)
    return float(slowest)


@compiled
def pipeline_ms(w: Any, replica: int, tokens: int, work_ms: float) -> float:
    """Time of a prompt with `tokens` to compute through all stages, in ms.

    n chunks on P stages take n + P - 1 chunk times.
    """
    rep = w.replica[replica]
    chunks = 1
    if rep.cuts_prompts:
        chunks = (tokens + rep.max_batch_tokens - 1) // rep.max_batch_tokens
    return float(work_ms * (chunks + rep.num_stages - 1) / chunks)


@inlined
def own_prefix(w: Any, replica: int, request: int) -> int:
    """Step 1: blocks of the prompt in the cache of a replica."""
    which = w.replica[replica].cache
    return 0 if which == NONE else int(count_matching(w, which, request))


@inlined
def prefix_tokens(w: Any, replica: int, request: int, blocks: int) -> int:
    """Tokens of a prompt that so many cached blocks save."""
    which = w.replica[replica].cache
    if which == NONE:
        return 0
    tokens = tokens_of(w, which, request, blocks)
    return int(min(tokens, w.request[request].input_tokens - 1))


@compiled
def slowed_by_decodes(w: Any, replica: int) -> float:
    """How many times as long a full step of prompts takes beside the decodes there.

    1 where prompts have steps of their own: they come first, or on other replicas.
    """
    rep = w.replica[replica]
    decodes = (rep.num_running + rep.num_stages - 1) // rep.num_stages
    decodes = min(decodes, rep.max_batch_tokens - 1)
    if rep.decodes == 0 or rep.mixes_decodes == 0 or decodes == 0:
        return 1.0
    kv_tokens = (rep.work_tokens - rep.pending_tokens) / rep.num_stages
    alone_ms, beside_ms = 0.0, 0.0
    for stage in range(rep.first_stage, rep.first_stage + rep.num_stages):
        added = w.batch[w.stage[stage].table, decodes]
        chunk_ms = prefill_ms(w, stage, float(rep.max_batch_tokens - decodes), 0.0)
        full_ms = prefill_ms(w, stage, float(rep.max_batch_tokens), 0.0)
        full_ms += added.mixed_ms + added.mixed_slope_ms * kv_tokens
        alone_ms = max(alone_ms, chunk_ms)
        beside_ms = max(beside_ms, full_ms)
    if alone_ms <= 0.0 or beside_ms <= alone_ms:
        return 1.0
    return float(beside_ms / alone_ms)


@compiled
def expect(w: Any, replica: int, request: int, blocks: int) -> float:
    """Expected queue and prefill of a request with `blocks` cached, in ms.

    Its own work is noted in its forecast.
    """
    req = w.request[request]
    past = prefix_tokens(w, replica, request, blocks)
    work_ms = prompt_work_ms(w, replica, req.input_tokens, past)
    which = w.replica[replica].cache
    if which != NONE:
        work_ms = max(work_ms, past * w.cache[which].load_ms_per_token)
    work_ms = math.floor(work_ms * _PER_MS) / _PER_MS
    w.forecast[request].work_ms = work_ms
    time = pipeline_ms(w, replica, req.input_tokens - past, work_ms)
    slowed = slowed_by_decodes(w, replica)
    return float((w.replica[replica].queue_ms + time) * slowed)


@optional
def expect_alone(w: Any, replica: int, request: int) -> None:
    """Expected TTFT at a replica that was chosen for another reason."""
    blocks = own_prefix(w, replica, request)
    w.forecast[request].ttft_ms = expect(w, replica, request, blocks)


@optional
def choose_by_ttft(w: Any, request: int) -> int:
    """Steps 1 to 3: the prefill replica with the least expected TTFT."""
    longest = 0
    last, blocks = NONE, 0
    candidates = w.prefill_replicas[: w.clock[0].num_prefills]
    for replica in candidates:
        rep = w.replica[replica]
        if rep.cache == NONE or rep.cache != last:
            blocks = own_prefix(w, replica, request)
            last = rep.cache
        rep.own_blocks = blocks
        longest = max(longest, blocks)
    best = NONE
    least = math.inf
    work_ms, copy_ms = 0.0, 0.0
    for replica in candidates:
        rep = w.replica[replica]
        used, time = rep.own_blocks, 0.0
        if rep.cache != NONE:
            cache = w.cache[rep.cache]
            if cache.copies and longest > rep.own_blocks * cache.balancing_threshold:
                used = longest
                time = prefix_tokens(w, replica, request, longest)
                time -= prefix_tokens(w, replica, request, rep.own_blocks)
                time *= cache.fetch_ms_per_token
        expected = time + expect(w, replica, request, used)
        if expected < least:
            best, least = replica, expected
            work_ms, copy_ms = w.forecast[request].work_ms, time
    w.forecast[request].work_ms = work_ms
    w.forecast[request].ttft_ms = least
    if copy_ms > 0.0:
        w.reuse[request].fetched_blocks = longest
        w.reuse[request].ready_ms = w.clock[0].now_ms + copy_ms
    return int(best)


@optional
def join_queue(w: Any, replica: int, request: int) -> None:
    """Step 4: the work of a request is expected at its replica."""
    w.replica[replica].queue_ms += w.forecast[request].work_ms


@optional
def leave_queue(w: Any, replica: int, request: int) -> None:
    """The prefill of a request has ended."""
    w.replica[replica].queue_ms -= w.forecast[request].work_ms
