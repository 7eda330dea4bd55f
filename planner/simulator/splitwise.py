"""Splitwise pools: two machines for an arrival, lent to the phase that lacks one.

Reference
    Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting",
    ISCA 2024, section 4.2 (cluster-level scheduling), and its released simulator.

Idea
    Machines have a home: the prompt pool or the token pool. An arrival gets the prompt
    machine with the fewest pending tokens and the token machine with the least promised
    memory. When a pool has no machine left for it, one of the other pool is lent: it is
    in the mixed pool, and serves both phases in mixed batches, until its last request
    of the foreign phase has gone. When that fails too, one machine does both phases,
    without a transfer.

Steps
    1. Prompt side: in the prompt pool, then in the mixed pool, the machine with the
       fewest pending prompt tokens, unless its queue is not empty and the prompt brings
       its pending tokens above the limit. Else the token machine with the fewest.
    2. Token side: in the token pool, then in the mixed pool, the machine with the least
       promised memory, if prompt and forecast output fit. Else the prompt machine with
       the least.
    3. When a side has found none, the machine with the fewest pending tokens of all
       takes both phases.

Differences from the paper
    - Memory is promised by a forecast of the output; the released simulator reads the
      true length (`Forecast.TRUE`). Blocks are taken when they are needed, so a wrong
      forecast ends in preemption, not in a refusal.
    - A mixed machine sends what it prefills to the token pool or keeps it. Mixed
      machines that send to each other could wait for each other's memory for ever.
      So every pair, when it is made, has a machine of the prompt pool, to which nobody
      sends, or one of the token pool, which sends to nobody: there is no circle.
    - A machine is mixed while it has foreign work, not until it is empty.
    - KV caches stay in a slice, so the token machine is one of the prompt machine's.
    - Machines that fail or drain are not chosen. A prompt of which the token machine
      has failed gets another with its first token: by step 2 without the machine it is
      on, and the least promised one if none has room. Where there is none to which it
      may be sent, it begins again with a new pair.

Assumes   replicas of both phases, and KV routes within each phase
Cost      O(replicas) an arrival
Guarantee heuristic; no request waits for ever
"""

from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.promises import forecast_tokens, promised_room
from planner.simulator.state import NONE

PROMPT_POOL, TOKEN_POOL, MIXED_POOL, ANY_POOL = range(4)


@inlined
def pool_of(w: Any, replica: int) -> int:
    """The pool a machine is in now."""
    rep = w.replica[replica]
    if rep.num_foreign > 0:
        return MIXED_POOL
    return TOKEN_POOL if rep.decodes else PROMPT_POOL


@compiled
def fewest_pending(w: Any, pool: int) -> int:
    """First machine of a pool with the fewest pending prompt tokens; NONE: no machine.

    At equal numbers the one with the least promised memory.
    """
    best = NONE
    for replica in range(w.replica.shape[0]):
        if w.replica[replica].is_open == 0:
            continue
        if pool != ANY_POOL and pool_of(w, replica) != pool:
            continue
        if best != NONE:
            one, two = w.replica[best], w.replica[replica]
            if two.pending_tokens > one.pending_tokens:
                continue
            is_equal = two.pending_tokens == one.pending_tokens
            if is_equal and two.promised_tokens >= one.promised_tokens:
                continue
        best = replica
    return int(best)


@compiled
def least_promised(w: Any, pool: int, wanted: int, but: int) -> int:
    """First machine of a pool and slice with the least promised memory, or NONE.

    The machine `but` is not looked at.
    """
    best = NONE
    for replica in range(w.replica.shape[0]):
        rep = w.replica[replica]
        if rep.is_open == 0 or replica == but:
            continue
        if pool_of(w, replica) != pool or rep.slice != wanted:
            continue
        if best == NONE or rep.promised_tokens < w.replica[best].promised_tokens:
            best = replica
    return int(best)


@compiled
def takes_prompt(w: Any, replica: int, request: int) -> bool:
    """Whether a machine accepts one more prompt."""
    if replica == NONE:
        return False
    rep = w.replica[replica]
    pending = rep.pending_tokens + w.request[request].input_tokens
    return bool(rep.prompt_head == NONE or pending <= w.clock[0].max_pending)


@compiled
def takes_decode(w: Any, replica: int, request: int) -> bool:
    """Whether what is promised of a machine leaves room for the request."""
    if replica == NONE:
        return False
    return bool(forecast_tokens(w, request) <= promised_room(w, replica))


@optional
def choose_pair(w: Any, request: int) -> None:
    """Set the replicas that prefill and decode `request`, which may be one."""
    # 1. The prompt machine.
    source = fewest_pending(w, PROMPT_POOL)
    if not takes_prompt(w, source, request):
        source = fewest_pending(w, MIXED_POOL)
    if not takes_prompt(w, source, request):
        source = fewest_pending(w, TOKEN_POOL)
    # 2. The token machine.
    target = NONE
    if source != NONE:
        wanted = w.replica[source].slice
        target = least_promised(w, TOKEN_POOL, wanted, NONE)
        if not takes_decode(w, target, request):
            if pool_of(w, source) != PROMPT_POOL:
                target = source if takes_decode(w, source, request) else NONE
            else:
                target = least_promised(w, MIXED_POOL, wanted, NONE)
                if not takes_decode(w, target, request):
                    target = least_promised(w, PROMPT_POOL, wanted, NONE)
    # 3. One machine for both phases.
    if source == NONE or target == NONE:
        source = target = fewest_pending(w, ANY_POOL)
    req = w.request[request]
    req.prefill_replica = source
    req.decode_replica = target


@optional
def choose_target(w: Any, request: int) -> int:
    """Another token machine for a prompt that is prefilled, or NONE.

    As in `choose_pair`, only a machine of the prompt pool sends to others than those
    of the token pool.
    """
    source = w.request[request].prefill_replica
    wanted = w.replica[source].slice
    sends_freely = pool_of(w, source) == PROMPT_POOL
    least = NONE
    for pool in (TOKEN_POOL, MIXED_POOL, PROMPT_POOL):
        if pool != TOKEN_POOL and not sends_freely:
            break
        target = least_promised(w, pool, wanted, source)
        if takes_decode(w, target, request):
            return int(target)
        if target != NONE and (
            least == NONE or promised_room(w, target) > promised_room(w, least)
        ):
            least = target
    return int(least)
