"""Phase split: which groups prefill and which decode, by the bandwidth between them.

Reference
    Jiang et al., "HexGen-2", ICLR 2025, arXiv 2502.07903: the secondary partition of
    the coarsened graph.

Idea
    KV caches go from prefill to decode, so the links between the two sets should be
    the fast ones: the opposite of what made the groups. Groups are vertices of a
    coarser graph, and the cut between the two sets is to be as large as possible.

Steps
    1. Coarsen: a vertex a group, an edge with the bandwidth of all pairs of GPUs.
    2. A random split; change the side of the group that adds most, until none does.

Differences from the paper
    - what the sets can serve is left to the flow and the swaps that follow
    - at least one group on each side

Assumes   at least two groups
Cost      O(K^2) a change for K groups
Guarantee heuristic (a cut that no single change improves)
"""

import numpy as np

from planner.search.hexgen2.graph import FloatArray, GpuGraph
from planner.search.hexgen2.partition import Parts


def coarsened(graph: GpuGraph, parts: Parts) -> FloatArray:
    """Bandwidth between groups, 0 on the diagonal; shape ``(K, K)``."""
    num = len(parts)
    weights = np.zeros((num, num))
    for a in range(num):
        for b in range(a):
            weights[a, b] = weights[b, a] = graph.between(parts[a], parts[b])
    return weights


def prefill_side(weights: FloatArray, rng: np.random.Generator) -> tuple[bool, ...]:
    """For each group whether it prefills; step 2 on a coarse graph."""
    num = len(weights)
    is_prefill = rng.random(num) < 0.5
    if is_prefill.all() or not is_prefill.any():
        first = int(rng.integers(num))
        is_prefill[first] = not is_prefill[first]
    side = np.where(is_prefill, 1.0, -1.0)
    while True:
        # A group that changes sides turns its links to its own side into cut ones.
        gain = side * (weights @ side)
        for phase in (1.0, -1.0):
            if (side == phase).sum() == 1:
                gain[side == phase] = -np.inf
        best = int(np.argmax(gain))
        if gain[best] <= 1e-9 * float(weights.sum()):
            return tuple(bool(each > 0) for each in side)
        side[best] = -side[best]
