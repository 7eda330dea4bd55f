"""Which replica gets an arrival, and which one decodes a prefilled request."""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.state import ANY_SLICE, NONE, ROUND_ROBIN


@inlined
def choose_prefill(w: Any) -> int:
    """Replica that gets the next arrival: in turn, or the least work in the system."""
    clock = w.clock[0]
    candidates = w.prefill_replicas[: clock.num_prefills]
    if clock.routing == ROUND_ROBIN:
        chosen = candidates[clock.next_prefill]
        clock.next_prefill = (clock.next_prefill + 1) % candidates.shape[0]
        return int(chosen)
    return int(least_work(w, candidates, ANY_SLICE))


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
