"""Which replica gets an arrival, and which one decodes a prefilled request.

Choices at random go by the dice of the request (`control.dice`), so that they do not
depend on what happened before. The two published policies that look further than one
queue are in `splitwise` and `tetriinfer`, that of planned shares is in `flow_shares`.
"""

import math
from typing import Any

from planner.simulator.cache_routing import choose_by_ttft
from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.flow_shares import choose_by_share
from planner.simulator.state import (
    ANY_SLICE,
    CACHE_AWARE,
    FLOW_SHARES,
    NONE,
    PENDING_TOKENS,
    POWER_OF_TWO,
    RANDOM,
    ROUND_ROBIN,
    TETRIINFER,
)
from planner.simulator.tetriinfer import choose_by_mix

LOW_DICE = (1 << 31) - 1
"""Bits of the dice for the choice at arrival; the others are for the decode side."""


@inlined
def choose_prefill(w: Any, request: int) -> int:
    """Replica that gets the next arrival: in turn, at random, by share, or by work."""
    clock = w.clock[0]
    candidates = w.prefill_replicas[: clock.num_prefills]
    if clock.routing == ROUND_ROBIN:
        chosen = candidates[clock.next_prefill]
        clock.next_prefill = (clock.next_prefill + 1) % candidates.shape[0]
        return int(chosen)
    if clock.routing == RANDOM or clock.routing == POWER_OF_TWO:
        dice = w.request[request].dice & LOW_DICE
        return int(choose_at_random(w, candidates, ANY_SLICE, dice))
    if clock.routing == PENDING_TOKENS:
        return int(fewest_pending(w, candidates))
    if clock.routing == CACHE_AWARE:
        return int(choose_by_ttft(w, request))
    if clock.routing == FLOW_SHARES:
        by_share = choose_by_share(w, candidates, NONE)
        if by_share != NONE:
            return int(by_share)
    return int(least_work(w, candidates, ANY_SLICE))


@inlined
def choose_decode(w: Any, source: int, request: int) -> int:
    """Replica that decodes a request prefilled at `source`, of the same slice.

    In turn, at random, by share, or by work; NONE when the slice has no decode replica.
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
    dice = w.request[request].dice >> 31
    if clock.routing == RANDOM or clock.routing == POWER_OF_TWO:
        return int(choose_at_random(w, candidates, wanted, dice))
    if clock.routing == TETRIINFER:
        return int(choose_by_mix(w, candidates, wanted, request, dice))
    if clock.routing == FLOW_SHARES and source != NONE:
        by_share = choose_by_share(w, candidates, source)
        if by_share != NONE:
            return int(by_share)
    return int(least_work(w, candidates, wanted))


@optional
def choose_at_random(w: Any, candidates: Any, wanted: int, dice: int) -> int:
    """Any replica of a slice, or with `POWER_OF_TWO` the one with less work of two.

    Reference: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
    IEEE TPDS 12(10), 2001. The two are different; at equal work the first drawn.
    """
    num = 0
    for replica in candidates:
        if wanted == ANY_SLICE or w.replica[replica].slice == wanted:
            num += 1
    if num == 0:
        return NONE
    first = of_slice(w, candidates, wanted, dice % num)
    if num == 1 or w.clock[0].routing == RANDOM:
        return int(first)
    place = (dice // num) % (num - 1)
    second = of_slice(w, candidates, wanted, place + int(place >= dice % num))
    one, two = w.replica[first], w.replica[second]
    if two.work_tokens * two.work_weight < one.work_tokens * one.work_weight:
        return int(second)
    return int(first)


@compiled
def of_slice(w: Any, candidates: Any, wanted: int, place: int) -> int:
    """The replica of a slice at `place` among those of the slice."""
    for replica in candidates:
        if wanted == ANY_SLICE or w.replica[replica].slice == wanted:
            if place == 0:
                return int(replica)
            place -= 1
    return NONE


@compiled
def fewest_pending(w: Any, candidates: Any) -> int:
    """First replica with the fewest prompt tokens to prefill; at equal, least work."""
    best = NONE
    least, least_work_ms = math.inf, math.inf
    for replica in candidates:
        rep = w.replica[replica]
        pending = rep.pending_tokens * rep.work_weight
        work_ms = rep.work_tokens * rep.work_weight
        if pending < least or (pending == least and work_ms < least_work_ms):
            best, least, least_work_ms = replica, pending, work_ms
    return int(best)


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
