"""Layer split: how many layers each stage of one pipeline of unlike stages holds.

Reference
    The dynamic programme over stages of Narayanan et al., "PipeDream: Generalized
    Pipeline Parallelism for DNN Training", SOSP 2019 (section 3.1), and of HexGen
    (Jiang et al., ICML 2024, arXiv 2311.11514), without their assumption that a stage
    slows down with every layer it takes.

Idea
    The slowest stage decides the rate of a pipeline. The best split of the first layers
    over the first stages extends the best splits of fewer layers over one stage less,
    so all splits are covered by looking at each pair (stage, layers) once.

Steps
    1. Highest rate of the slowest stage, over all splits.
    2. Among the splits that reach it, the one with the shortest way through all stages
       (the sum of ``1 / rate``: time of a token at typical batches).

    Where latency counts and not rate: step 2 alone, over all splits
    (`shortest_split`).

Differences from the papers
    - every number of layers is tried at every stage: typical rates are not monotone;
    - ties are broken by the way through, which is what latency feels.

Assumes   a rate for each stage and number of layers, 0 where it cannot hold them
Cost      O(S L K) for S stages, L layers and at most K layers a stage
Guarantee exact, in both steps
"""

import math
from collections.abc import Sequence

import numpy as np

from planner.pipelines.fleet import FloatArray


def best_split(
    rates: Sequence[Sequence[float]], num_layers: int
) -> tuple[float, tuple[int, ...]] | None:
    """Rate and layers of each stage of the best split; None when there is none.

    Parameters
    ----------
    rates
        Tokens/s of each stage (in pipeline order) by the layers it holds, from one on.
        0: it cannot hold them. Each stage holds at least one layer.
    num_layers
        Layers of the model.
    """
    # 1. The highest rate of the slowest stage.
    table = _slowest(rates, num_layers)
    best = float(table[-1, num_layers])
    if best <= 0.0:
        return None
    # 2. The shortest way among the splits that reach it.
    costs = [[1.0 / r if r >= best else math.inf for r in stage] for stage in rates]
    return best, _shortest(costs, num_layers)


def shortest_split(
    costs_ms: Sequence[Sequence[float]], num_layers: int
) -> tuple[float, tuple[int, ...]] | None:
    """Time through all stages, and layers of each, of the split with the least.

    Parameters
    ----------
    costs_ms
        Time of each stage (in pipeline order) by the layers it holds, from one on, in
        ms. Infinity: it cannot hold them. Each stage holds at least one layer.
    num_layers
        Layers of the model.

    Returns
    -------
    tuple[float, tuple[int, ...]] | None
        None when the stages cannot hold the model.
    """
    rates = [[float(math.isfinite(cost)) for cost in stage] for stage in costs_ms]
    if _slowest(rates, num_layers)[-1, num_layers] <= 0.0:
        return None
    layers = _shortest(costs_ms, num_layers)
    held = zip(costs_ms, layers, strict=True)
    return sum(stage[num - 1] for stage, num in held), layers


def _slowest(rates: Sequence[Sequence[float]], num_layers: int) -> FloatArray:
    """Best rate of the slowest of the first stages over the first layers.

    Shape ``(num_stages + 1, num_layers + 1)``.
    """
    table = np.zeros((len(rates) + 1, num_layers + 1))
    table[0, 0] = math.inf
    for stage, by_layers in enumerate(rates, start=1):
        for held, rate in enumerate(by_layers[:num_layers], start=1):
            before = table[stage - 1, : num_layers + 1 - held]
            now = table[stage, held:]
            np.maximum(now, np.minimum(before, rate), out=now)
    return table


def _shortest(costs: Sequence[Sequence[float]], num_layers: int) -> tuple[int, ...]:
    """Layers of each stage for the least sum of costs (one split has a finite one)."""
    table = np.full((len(costs) + 1, num_layers + 1), math.inf)
    table[0, 0] = 0.0
    for stage, by_layers in enumerate(costs, start=1):
        for held, cost in enumerate(by_layers[:num_layers], start=1):
            before = table[stage - 1, : num_layers + 1 - held]
            now = table[stage, held:]
            np.minimum(now, before + cost, out=now)
    layers, left = [], num_layers
    for stage in range(len(costs), 0, -1):
        options = costs[stage - 1][:left]
        totals = [
            table[stage - 1, left - held] + cost
            for held, cost in enumerate(options, start=1)
        ]
        held = 1 + int(np.argmin(totals))
        layers.append(held)
        left -= held
    return tuple(reversed(layers))
