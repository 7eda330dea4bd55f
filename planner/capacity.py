"""Capacity bounds: rates that no scheduling of a system can exceed for long.

Every step that a request takes part in costs its replica time. The least such time
(`planner.step_costs`) on the slowest stage bounds the rate of a replica, and the
replicas of a phase add up. A request that a replica can never hold is refused and costs
nothing.

With an SLO, the good requests limit the steps: a prompt that must have its token in
time shares no prefill step longer than that, and tokens that must follow each other in
time go through all stages of a pipeline within the limit on average. How the limit is
split among the stages is left to the replica: the bound is the best split.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clusters.units import MS_PER_S
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


def replica_capacity_rps(
    replica: ServingReplica, requests: Requests, slo: Slo | None = None
) -> float:
    """Rate one replica cannot exceed for long, in requests/s.

    With an `slo`, a rate at which it cannot be met for long.
    """
    fits = _fitting(replica, requests)
    if not fits.any():
        return UNLIMITED_RPS
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
                stage, requests, most_tokens, slo, good_tokens=good_tokens
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
    return Requests(
        arrival_ms=requests.arrival_ms[kept],
        input_tokens=requests.input_tokens[kept],
        output_tokens=requests.output_tokens[kept],
    )


def system_capacity_rps(system: ServingSystem, requests: Requests) -> float:
    """Rate the whole system cannot exceed for long, in requests/s.

    Replicas that are lent count in both phases, as if they did nothing else in each.
    """
    known: dict[tuple[object, ...], float] = {}
    by_phase: dict[Phase, float] = {}
    replicas = list(system.replicas)
    if system.routing is Routing.SPLITWISE and system.is_split:
        both = (Phase.PREFILL, Phase.DECODE)
        replicas = [replace(r, phase=p) for r in system.replicas for p in both]
    for replica in replicas:
        # Replicas of a shape share their tables: those are told by identity.
        tables = tuple(id(stage) for stage in replica.stages)
        kv_sizes = (replica.kv_capacity_tokens, replica.kv_block_tokens)
        key = (replica.phase, tables, kv_sizes, replica.limits)
        if key not in known:
            known[key] = replica_capacity_rps(replica, requests)
        by_phase[replica.phase] = by_phase.get(replica.phase, 0.0) + known[key]
    return min(by_phase.values())
