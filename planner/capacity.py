"""Capacity bounds: rates that no scheduling of a system can exceed for long.

Every step that a request takes part in costs its replica time. The least such time
(`planner.step_costs`) on the slowest stage bounds the rate of a replica, and the
replicas of a phase add up. A request that a replica can never hold is refused and costs
nothing; a replica that can hold none serves none.

What a prefix cache without limit would hold costs no prefill.

With an SLO, the good requests limit the steps: a prompt that must have its token in
time shares no prefill step longer than that, and tokens that must follow each other in
time go through all stages of a pipeline within the limit on average. How the limit is
split among the stages is left to the replica: the bound is the best split. Every
replica is taken to keep the SLO for its own requests: unlike replicas of which slow
ones take the misses of all, and nothing else, can serve more.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clusters.units import MS_PER_S
from planner.simulator.prefix_settings import PrefixCache
from planner.simulator.system import Phase, Routing, ServingReplica, ServingSystem
from planner.slo import Slo
from planner.step_costs import (
    StageCost,
    decode_cost,
    largest_prefill,
    least_prompt_token_ms,
    prefill_cost_ms,
)
from planner.workload.requests import Requests

UNLIMITED_RPS = 1e12
"""Capacity of a replica without work (decode of one-token answers): finite, so that
rates can be drawn and compared."""

_SPLIT_ROUNDS = 60
"""Bisections of the cost at which the stages share a limit on TPOT."""


def max_batch_by_memory(replica: ServingReplica, requests: Requests) -> int:
    """Most requests that can be resident at once, by places and by KV tokens."""
    smallest = int((requests.input_tokens + 1).min())
    by_memory = replica.kv_capacity_tokens // smallest
    return max(1, min(replica.limits.max_num_seqs, by_memory))


@lru_cache(maxsize=512)
def replica_capacity_rps(
    replica: ServingReplica, requests: Requests, slo: Slo | None = None
) -> float:
    """Rate one replica cannot exceed for long, in requests/s.

    With an `slo`, a rate at which it cannot be met for long. 0: it can hold none of the
    requests. Those of late are remembered, by which requests they are for.
    """
    fits = _fitting(replica, requests)
    if not fits.any():
        return 0.0
    requests = _subset(requests, fits)
    costs = _stage_costs(replica, requests, slo)
    limit_ms = slo.tpot_ms if slo is not None else None
    slowest = slowest_ms(costs, limit_ms) * float(fits.mean())
    return MS_PER_S / slowest if slowest > 0 else UNLIMITED_RPS


def _stage_costs(
    replica: ServingReplica, requests: Requests, slo: Slo | None
) -> list[StageCost]:
    """What a request costs each stage."""
    limits = replica.limits
    mixes = replica.phase is Phase.AGGREGATED and limits.policy.mixes_decodes
    # Decodes ride in the steps of prompts, a token each.
    most_tokens = limits.max_batch_tokens + (limits.max_num_seqs if mixes else 0)
    good_tokens = math.inf
    if slo is not None and slo.ttft_ms is not None:
        good_tokens = largest_prefill(replica.stages, slo.ttft_ms)
    prompts = requests
    if replica.prefix_cache is not None:
        prompts = _with_cached_prefixes(requests, replica.prefix_cache)
    costs = []
    for stage in replica.stages:
        cost = StageCost()
        if replica.phase is not Phase.PREFILL:
            top = max(float(most_tokens), float(requests.input_tokens.max()))
            cost = decode_cost(
                stage,
                requests,
                max_batch_by_memory(replica, requests),
                slo,
                kv_tokens=float(replica.kv_capacity_tokens),
                prompt_token_ms=least_prompt_token_ms(stage, top) if mixes else None,
            )
        if replica.phase is not Phase.DECODE:
            prompt_ms = prefill_cost_ms(
                stage, prompts, most_tokens, slo, good_tokens=good_tokens
            )
            cost = cost.and_fixed(prompt_ms)
        costs.append(cost)
    return costs


def slowest_ms(costs: Sequence[StageCost], limit_ms: float | None) -> float:
    """Least cost of the slowest stage when all steps of a token fit a limit, in ms.

    Infinity when the shortest steps of all stages do not fit it.
    """
    least = max(cost.at_ms(math.inf) for cost in costs)
    if limit_ms is None or sum(cost.step_ms(least) for cost in costs) <= limit_ms:
        return least
    most = max(cost.at_ms(cost.shortest_step_ms) for cost in costs)
    if sum(cost.step_ms(most) for cost in costs) > limit_ms:
        return math.inf
    for _ in range(_SPLIT_ROUNDS):
        middle = 0.5 * (least + most)
        if sum(cost.step_ms(middle) for cost in costs) <= limit_ms:
            most = middle
        else:
            least = middle
    return least


def _fitting(replica: ServingReplica, requests: Requests) -> NDArray[np.bool_]:
    """Which requests the replica can ever hold; it refuses others without any work."""
    tokens = requests.input_tokens
    if replica.phase is not Phase.PREFILL:
        tokens = tokens + requests.output_tokens
    blocks = -(-tokens // replica.kv_block_tokens)
    fits: NDArray[np.bool_] = (
        blocks <= replica.kv_capacity_tokens // replica.kv_block_tokens
    )
    return fits


def _subset(requests: Requests, kept: NDArray[np.bool_]) -> Requests:
    if kept.all() and requests.turns is None:
        return requests  # the same ones: what is known of them stays known
    return replace(requests, turns=None).take(np.flatnonzero(kept))


def _with_cached_prefixes(requests: Requests, cache: PrefixCache) -> Requests:
    """The least of each prompt that a cache leaves to compute, at least one token."""
    blocks = requests.prefix_blocks
    if blocks is None:
        return requests
    # A cache that keeps answers holds blocks that no prompt has brought in.
    held = np.diff(blocks.offsets) if cache.keeps_outputs else blocks.num_repeated()
    saved = held * (cache.block_tokens or blocks.block_tokens)
    return replace(requests, input_tokens=np.maximum(requests.input_tokens - saved, 1))


def system_capacity_rps(
    system: ServingSystem, requests: Requests, slo: Slo | None = None
) -> float:
    """Rate the whole system cannot exceed for long, in requests/s.

    With an `slo`, a rate at which it cannot be met for long. Replicas that are lent
    count in both phases, as if they did nothing else in each. Under planned shares a
    replica gets its own and no other, so the one that is full first decides.
    """
    known: dict[tuple[object, ...], float] = {}
    by_phase: dict[Phase, float] = {}
    shares = system.replica_shares() or ()
    rates: list[float] = []
    replicas = list(system.replicas)
    if system.routing is Routing.SPLITWISE and system.is_split:
        both = (Phase.PREFILL, Phase.DECODE)
        replicas = [replace(r, phase=p) for r in system.replicas for p in both]
    for index, replica in enumerate(replicas):
        # Replicas of a shape share their tables: those are told by identity.
        tables = tuple(id(stage) for stage in replica.stages)
        kv_sizes = (replica.kv_capacity_tokens, replica.kv_block_tokens)
        key = (replica.phase, tables, kv_sizes, replica.limits, replica.prefix_cache)
        if key not in known:
            known[key] = replica_capacity_rps(replica, requests, slo)
        by_phase[replica.phase] = by_phase.get(replica.phase, 0.0) + known[key]
        if shares and shares[index] > 0:
            rates.append(known[key] / shares[index])
    rates += by_phase.values()
    if slo is None:  # who can hold no request refuses all, at any rate
        return min(rate or UNLIMITED_RPS for rate in rates)
    return min(rates)
