"""Unlike split: how many layers each of some given stages, in order, should hold.

Reference
    Jiang et al., "HexGen", ICML 2024, arXiv 2311.11514 (asymmetric stages by dynamic
    programming); the programme is `planner.pipelines.layer_split`.

Idea
    More requests under way make larger batches, and need KV room on every stage, which
    layers take away. So the number of requests is fixed first: then the time of a stage
    by its layers is known, layers that leave too little room are excluded, and the
    dynamic programme is exact. The best number of requests wins.

Steps
    1. For 1, 2, 4, ... requests under way, up to what fits: times of every stage by its
       layers, in batches of a request a stage or more.
    2. Decode, and prompts and decodes together: the split with the highest rate of the
       slowest stage. If its decode steps are too slow together, or fewer requests than
       stages are under way, the split with the least time through all stages.
    3. Prefill: the split with the highest rate for prompts one by one.

Assumes   requests of mean length; full pipelines
Cost      two dynamic programmes a number of requests
Guarantee exact for these times
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.links import GroupLink
from clusters.units import MS_PER_S
from models.communication import CommunicationEfficiency, pipeline_hop_ms
from models.llm import LlmSpec
from models.shapes import ACTIVATION_BYTES
from planner.pipelines.costs import TypicalLoad
from planner.pipelines.fleet import FloatArray
from planner.pipelines.layer_split import best_split, shortest_split
from planner.pipelines.stage_costs import StageCosts
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Stages in order, with what lies between them."""

    llm: LlmSpec = spec("The model.")
    stages: tuple[StageCosts, ...] = spec("Costs of each stage in its place.")
    hops: tuple[GroupLink, ...] = spec("Links from each stage to the next.")

    def hop_ms(self, stage: int, tokens: float) -> float:
        """Time of the activations of some tokens to the next stage; 0 on the last."""
        if stage == len(self.hops):
            return 0.0
        return pipeline_hop_ms(
            tokens * ACTIVATION_BYTES * self.llm.hidden,
            self.hops[stage],
            efficiency=CommunicationEfficiency(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Layers of every stage, and what they promise."""

    layers: tuple[int, ...] = spec("Layers of each stage.", unit="layers")
    rate_rps: float = spec("Of the slowest stage.", unit="requests/s", gt=0)

    def __post_init__(self) -> None:
        check_fields(self)


def split_of(
    line: Line,
    load: TypicalLoad,
    phase: Phase,
    *,
    max_requests: int,
    tpot_ms: float | None = None,
) -> Split | None:
    """The best split for a phase; None when the stages cannot hold the model.

    Parameters
    ----------
    line
        The stages.
    load
        Requests as they are on average.
    phase
        What the replica does.
    max_requests
        Requests that the engine lets be resident.
    tpot_ms
        Limit on the time of a token through all stages.
    """
    if phase is Phase.PREFILL:
        # 3. Prompts one by one.
        hops = [line.hop_ms(i, load.input_tokens) for i in range(len(line.stages))]
        costs_ms = [
            stage.prefill_ms(load.input_tokens) + hop
            for stage, hop in zip(line.stages, hops, strict=True)
        ]
        return _fastest(line, _with_room(line, costs_ms, load.tokens))
    # 1. Requests under way.
    found: list[tuple[bool, float, Split]] = []
    num = 1
    while num <= max_requests:
        # 2. The fastest split with them.
        tried = _with_requests(line, load, phase, num, tpot_ms)
        if tried is None:
            break
        found.append((tried[0], tried[1].rate_rps, tried[1]))
        num *= 2
    # Within the limit first, then by rate; of equal ones with fewer requests.
    return max(found, key=lambda each: each[:2])[2] if found else None


def _with_requests(
    line: Line, load: TypicalLoad, phase: Phase, num: int, tpot_ms: float | None
) -> tuple[bool, Split] | None:
    """Whether a token is in time, and the split, with `num` requests under way."""
    context = load.input_tokens + 0.5 * load.output_tokens
    kept = load.tokens * num
    batch = max(1, num // len(line.stages))
    steps_ms, costs_ms = [], []
    for index, stage in enumerate(line.stages):
        step = stage.decode_ms(batch, context) + line.hop_ms(index, batch)
        cost = load.output_tokens / batch * step
        if phase is Phase.AGGREGATED:
            cost = cost + stage.prefill_ms(load.input_tokens)
            cost = cost + line.hop_ms(index, load.input_tokens)
        steps_ms.append(step)
        costs_ms.append(cost)
    steps_ms = _with_room(line, steps_ms, kept)
    costs_ms = _with_room(line, costs_ms, kept)
    limit_ms = math.inf if tpot_ms is None else tpot_ms
    if num >= len(line.stages):
        split = _fastest(line, costs_ms)
        if split is None or _through_ms(steps_ms, split.layers) <= limit_ms:
            return None if split is None else (True, split)
    shortest = shortest_split([c.tolist() for c in steps_ms], line.llm.num_layers)
    if shortest is None:
        return None
    total_ms, layers = shortest
    slowest_ms = max(float(c[n - 1]) for c, n in zip(costs_ms, layers, strict=True))
    # Each of a few requests has the pipeline for itself when it is its turn.
    turn_ms = _through_ms(costs_ms, layers) / num
    rate_rps = MS_PER_S / max(slowest_ms, turn_ms)
    return total_ms <= limit_ms, Split(layers=layers, rate_rps=rate_rps)


def _with_room(
    line: Line, costs_ms: Sequence[FloatArray], kv_tokens: float
) -> list[FloatArray]:
    """Costs with infinity for layers that leave less KV room than `kv_tokens`."""
    return [
        np.where(np.asarray(stage.kv_tokens) >= kv_tokens, cost, math.inf)
        for stage, cost in zip(line.stages, costs_ms, strict=True)
    ]


def _fastest(line: Line, costs_ms: Sequence[FloatArray]) -> Split | None:
    rates = [(MS_PER_S / cost).tolist() for cost in costs_ms]
    best = best_split(rates, line.llm.num_layers)
    return None if best is None else Split(rate_rps=best[0], layers=best[1])


def _through_ms(costs_ms: Sequence[FloatArray], layers: Sequence[int]) -> float:
    return float(sum(c[n - 1] for c, n in zip(costs_ms, layers, strict=True)))
