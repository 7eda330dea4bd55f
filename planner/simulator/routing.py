"""Which replica gets an arrival, and which one decodes a prefilled request."""

import math
from typing import Any

import numpy as np

from planner.simulator.cache_routing import choose_by_ttft
from planner.simulator.compiled import compiled, inlined
from planner.simulator.state import (
    ANY_SLICE,
    CACHE_AWARE,
    NONE,
    RANDOM,
    ROUND_ROBIN,
)


@inlined
def choose_prefill(w: Any, request: int) -> int:
    """Replica that gets an arrival.

    In turn, at random, by the least expected TTFT, or the least work in the system.
    """
    clock = w.clock[0]
    candidates = w.prefill_replicas[: clock.num_prefills]
    if clock.routing == ROUND_ROBIN:
        chosen = candidates[clock.next_prefill]
        clock.next_prefill = (clock.next_prefill + 1) % candidates.shape[0]
        return int(chosen)
    if clock.routing == RANDOM:
        return int(candidates[drawn(request, candidates.shape[0])])
    if clock.routing == CACHE_AWARE:
        return int(choose_by_ttft(w, request))
    return int(least_work(w, candidates, ANY_SLICE))


@inlined
def drawn(request: int, count: int) -> int:
    """A number below `count` that looks random, the same for a request in every run.

    The finalizer of MurmurHash3 (Appleby, 2011) in 64 bits.
    """
    bits = np.uint64(request + 1)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xFF51AFD7ED558CCD)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xC4CEB9FE1A85EC53)
    bits ^= bits >> np.uint64(33)
    return int(bits % np.uint64(count))


@inlined
def choose_decode(w: Any, source: int) -> int:
    """Replica that decodes a request prefilled at `source`, of the same slice.

    In turn, or the least work; NONE when the slice has no decode replica.
    """
    clock = w.clock[0]
    candidates = w.decode_replicas[: clock.num_decodes]
    wanted = ANY_SLICE if source == NONE else w.replica[source].slice
    if clock.routing == ROUND_ROBIN:
        for _ in range(candidates.shape[0]):
            chosen = candidates[clock.next_decode]
            clock.next_decode = (clock.next_decode + 1) % candidates.shape[0]
            if wanted == ANY_SLICE or w.replica[chosen].slice == wanted:
                return int(chosen)
        return NONE
    return int(least_work(w, candidates, wanted))


@compiled
def least_work(w: Any, candidates: Any, wanted: int) -> int:
    """First replica of a slice with the least weighted work, requests in flight too."""
    best = NONE
    least = math.inf
    for replica in candidates:
        rep = w.replica[replica]
        if wanted != ANY_SLICE and rep.slice != wanted:
            continue
        work = rep.work_tokens * rep.work_weight
        if work < least:
            best, least = replica, work
    return int(best)
