"""Prefix cache: blocks of past prompts, found by their ids, least recent out first.

Reference
    Qin et al., "Mooncake: Trading More Storage for Less Computation", FAST 2025,
    sections 3 and 4 (blocks hashed with all before them; a pool over the memory of the
    prefill nodes; layer-wise prefill).

Idea
    Prompts that begin alike have the same KV cache there. A block is named after its
    tokens and all before it, so what a prompt shares with a cache is the run of its
    blocks from the start that the cache holds; only the rest is computed.

Steps
    1. A prompt about to be computed takes the longest run of its blocks in the cache.
       At least its last token is computed.
    2. The blocks of that run are now the most recent ones.
    3. With the end of the prefill all its blocks are in the cache, the last the most
       recent; the least recent ones give way.
    4. A cache in what the KV cache leaves free shrinks with it, at once.

Differences from the paper
    - A request holds its whole context in the KV cache itself, cached blocks too.
    - Copies of other replicas' blocks do not wait for each other on the links.

Assumes   ids that name a block with all before it
Cost      one look-up in a hash table a block, O(1); nothing is allocated
Guarantee the hits are those of a plain list in order of use
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.state import NONE

_MIX = -7046029254386353131
"""2**64 over the golden ratio, as a signed number (Fibonacci hashing)."""


@inlined
def first_place(key: int, mask: int) -> int:
    """Where in the table the search for a block starts."""
    return ((key * _MIX) >> 32) & mask


@compiled
def find_block(w: Any, which: int, key: int) -> int:
    """The node of a block in a cache, or NONE."""
    cache = w.cache[which]
    place = first_place(key, cache.mask)
    while True:
        entry = w.cache_entry[cache.first_entry + place]
        if entry.node == NONE or entry.key == key:
            return int(entry.node)
        place = (place + 1) & cache.mask


@compiled
def forget_oldest(w: Any, which: int) -> None:
    """Take the least recent block out of a cache that has one."""
    cache = w.cache[which]
    node = cache.oldest
    found = w.cache_node[node]
    cache.oldest = found.newer
    if cache.oldest == NONE:
        cache.newest = NONE
    else:
        w.cache_node[cache.oldest].older = NONE
    found.newer = cache.free
    cache.free = node
    cache.num_blocks -= 1
    place = first_place(found.key, cache.mask)
    while w.cache_entry[cache.first_entry + place].node != node:
        place = (place + 1) & cache.mask
    close_gap(w, which, place)


@inlined
def close_gap(w: Any, which: int, gap: int) -> None:
    """Empty a place of the table; entries after it move up if their search needs it."""
    cache = w.cache[which]
    place = gap
    while True:
        place = (place + 1) & cache.mask
        entry = w.cache_entry[cache.first_entry + place]
        if entry.node == NONE:
            break
        wanted = first_place(entry.key, cache.mask)
        if ((place - wanted) & cache.mask) >= ((place - gap) & cache.mask):
            moved = w.cache_entry[cache.first_entry + gap]
            moved.key = entry.key
            moved.node = entry.node
            gap = place
    w.cache_entry[cache.first_entry + gap].node = NONE


@compiled
def keep_block(w: Any, which: int, key: int) -> None:
    """Make a block the most recent one, whether it was in the cache or not."""
    cache = w.cache[which]
    node = find_block(w, which, key)
    if node == NONE:
        if cache.limit == 0:
            return
        if cache.num_blocks >= cache.limit:
            forget_oldest(w, which)
        node = take_node(w, which, key)
    elif node == cache.newest:
        return
    else:
        unlink(w, which, node)
    found = w.cache_node[node]
    found.older = cache.newest
    found.newer = NONE
    if cache.newest == NONE:
        cache.oldest = node
    else:
        w.cache_node[cache.newest].newer = node
    cache.newest = node


@inlined
def take_node(w: Any, which: int, key: int) -> int:
    """A free node for a new block, with its entry in the table."""
    cache = w.cache[which]
    node = cache.free
    if node == NONE:
        node = cache.first_node + cache.num_taken
        cache.num_taken += 1
    else:
        cache.free = w.cache_node[node].newer
    cache.num_blocks += 1
    w.cache_node[node].key = key
    place = first_place(key, cache.mask)
    while w.cache_entry[cache.first_entry + place].node != NONE:
        place = (place + 1) & cache.mask
    entry = w.cache_entry[cache.first_entry + place]
    entry.key = key
    entry.node = node
    return int(node)


@inlined
def unlink(w: Any, which: int, node: int) -> None:
    """Take a node, which is not the newest, out of the order of use."""
    cache = w.cache[which]
    found = w.cache_node[node]
    if found.older == NONE:
        cache.oldest = found.newer
    else:
        w.cache_node[found.older].newer = found.newer
    w.cache_node[found.newer].older = found.older


@compiled
def shrink_to_room(w: Any, replica: int) -> None:
    """Forget what the KV cache has needed since the last look at this cache."""
    rep = w.replica[replica]
    cache = w.cache[rep.cache]
    if not cache.is_leftover:
        return
    room = rep.least_free_blocks * rep.block_tokens // cache.block_tokens
    cache.limit = min(cache.capacity_blocks, room)
    while cache.num_blocks > cache.limit:
        forget_oldest(w, rep.cache)
    rep.least_free_blocks = rep.free_blocks
    room = rep.free_blocks * rep.block_tokens // cache.block_tokens
    cache.limit = min(cache.capacity_blocks, room)


@inlined
def lose_cache(w: Any, replica: int) -> None:
    """A replica has failed: what its own cache held is gone; a global one stays."""
    which = w.replica[replica].cache
    if which != NONE and not w.cache[which].is_global:
        while w.cache[which].num_blocks > 0:
            forget_oldest(w, which)


@compiled
def count_matching(w: Any, which: int, request: int) -> int:
    """Blocks of a request, from its first on, that a cache holds."""
    first, end = w.block_offset[request], w.block_offset[request + 1]
    place = first
    while place < end and find_block(w, which, w.block_id[place]) != NONE:
        place += 1
    return int(place - first)


@inlined
def tokens_of(w: Any, which: int, request: int, blocks: int) -> int:
    """Tokens in the first `blocks` of a prompt, of which the last may be shorter.

    Tokens that a failure made part of the prompt are not of it.
    """
    req = w.request[request]
    tokens = blocks * w.cache[which].block_tokens
    return int(min(tokens, req.input_tokens - req.streamed_tokens))


@optional
def find_prefix(w: Any, replica: int, request: int) -> None:
    """Step 1: how many tokens of a waiting prompt need not be computed."""
    rep = w.replica[replica]
    req = w.request[request]
    reuse = w.reuse[request]
    shrink_to_room(w, replica)
    reuse.found_blocks = count_matching(w, rep.cache, request)
    used = max(reuse.found_blocks, reuse.fetched_blocks)
    tokens = tokens_of(w, rep.cache, request, used)
    req.cached_tokens = min(tokens, req.input_tokens + req.done_tokens - 1)


@optional
def use_prefix(w: Any, replica: int, request: int) -> None:
    """Step 2: a prompt is admitted with the prefix that was found."""
    rep = w.replica[replica]
    req = w.request[request]
    reuse = w.reuse[request]
    first = w.block_offset[request]
    for place in range(first, first + reuse.found_blocks):
        keep_block(w, rep.cache, w.block_id[place])
    if math.isnan(req.first_token_ms):
        reuse.hit_blocks = max(reuse.found_blocks, reuse.fetched_blocks)
        reuse.hit_tokens = req.cached_tokens
    reuse.fetched_blocks = 0  # a copy serves once; from then on it is in the cache
    loaded = min(
        tokens_of(w, rep.cache, request, reuse.found_blocks), req.cached_tokens
    )
    reuse.load_ms = loaded * w.cache[rep.cache].load_ms_per_token


@optional
def store_prompt(w: Any, replica: int, request: int) -> None:
    """Step 3: all blocks of a prompt are in the cache."""
    store_blocks(w, replica, request, w.block_offset[request + 1])


@compiled
def store_blocks(w: Any, replica: int, request: int, end: int) -> None:
    """The blocks of a request up to the one before `end` are in the cache."""
    which = w.replica[replica].cache
    shrink_to_room(w, replica)
    for place in range(w.block_offset[request], end):
        keep_block(w, which, w.block_id[place])


@inlined
def store_on_release(w: Any, replica: int, request: int) -> None:
    """Blocks that a request gives back stay where the KV cache has room for them."""
    which = w.replica[replica].cache
    if which != NONE and w.cache[which].is_leftover:
        store_prompt(w, replica, request)


@optional
def store_output(w: Any, request: int) -> None:
    """An answer stays for the next turn of the session, where caches keep outputs.

    The last token has no KV cache. On disaggregated replicas it goes back to where
    the prompt was prefilled.
    """
    req = w.request[request]
    following = w.turn[request].next
    if following == NONE or req.prefill_replica == NONE:
        return
    which = w.replica[req.prefill_replica].cache
    if which == NONE or not w.cache[which].keeps_outputs:
        return
    kept = req.input_tokens + req.output_tokens - 1
    end = w.block_offset[following] + kept // w.cache[which].block_tokens
    end = min(end, w.block_offset[following + 1])
    store_blocks(w, req.prefill_replica, following, end)
