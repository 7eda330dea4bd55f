"""Partition: GPUs in groups of fast links and balanced memory.

Reference
    Jiang et al., "HexGen-2: Disaggregated Generative Inference of LLMs in
    Heterogeneous Environment", ICLR 2025, arXiv 2502.07903. Graph partition phase.
    Alpert, Kahng, Yao, "Spectral partitioning with multiple eigenvectors", Discrete
    Applied Mathematics 90, 1999. Kernighan, Lin, "An efficient heuristic procedure for
    partitioning graphs", Bell System Technical Journal 49(2), 1970.

Idea
    GPUs with a fast link between them should be in one group, and groups should have
    alike memory. The second eigenvector of the graph's Laplacian puts GPUs that are
    strongly joined beside each other on a line; the line is cut by memory, again and
    again. Then pairs of GPUs change places while that keeps more bandwidth inside.

Steps
    1. Fiedler vector of the Laplacian, with memory as the mass of each GPU.
    2. Cut where the memory on both sides is in the ratio of the parts to make of them.
    3. Both sides again, until there are as many groups as wanted.
    4. Kernighan-Lin: swap the pair that gains most, while one gains.

Differences from the paper
    - GPUs of one type at a time: a replica here has one GPU type (see `method`)
    - noise on the bandwidths, by the seed: equal links have no one eigenvector, and
      several starts should differ

Assumes   at least as many GPUs as groups
Cost      one eigenvector a cut, O(n^3) for n GPUs; O(n^2) a swap
Guarantee heuristic
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.search.hexgen2.graph import FloatArray, GpuGraph

_MAX_SWAPS = 1000
_ROUNDING = 1e-9
IntArray = NDArray[np.int64]
Parts = list[tuple[int, ...]]


def partition(
    graph: GpuGraph,
    gpus: Sequence[int],
    num_parts: int,
    rng: np.random.Generator,
    *,
    noise_frac: float = 0.01,
) -> Parts:
    """`gpus` in `num_parts` groups, each in rising order; steps 1-4."""
    chosen = np.array(sorted(gpus), dtype=np.int64)
    weights = graph.bytes_per_s[np.ix_(chosen, chosen)]
    noise = rng.uniform(1.0 - noise_frac, 1.0 + noise_frac, size=weights.shape)
    noisy = weights * np.sqrt(noise * noise.T)
    memory = graph.memory_bytes[chosen]
    labels = np.zeros(len(chosen), dtype=np.int64)
    # 3. Again and again.
    pending = [(np.arange(len(chosen)), num_parts, 0)]
    while pending:
        members, wanted, label = pending.pop()
        labels[members] = label
        if wanted > 1:
            half = wanted // 2
            first, second = _cut(noisy, memory, members, half, wanted)
            pending += [(second, wanted - half, label + half), (first, half, label)]
    # 4. Swaps.
    labels = kernighan_lin(weights, labels)
    return [
        tuple(int(gpu) for gpu in chosen[labels == part]) for part in range(num_parts)
    ]


def _cut(
    weights: FloatArray,
    memory: FloatArray,
    members: IntArray,
    num_first: int,
    num_parts: int,
) -> tuple[
    IntArray,
    IntArray,
]:
    """Members in two sides: `num_first` of `num_parts` parts, and the others."""
    # 1. The line.
    place = fiedler_vector(weights[np.ix_(members, members)], memory[members])
    line = members[np.argsort(place, kind="stable")]
    # 2. Where to cut it; both sides keep a GPU for each of their parts.
    held = np.cumsum(memory[line])
    share = num_first / num_parts
    sizes = np.arange(num_first, len(line) - (num_parts - num_first) + 1)
    off = np.abs(held[sizes - 1] - share * held[-1])
    size = int(sizes[int(np.argmin(off))])
    return line[:size], line[size:]


def fiedler_vector(weights: FloatArray, memory: FloatArray) -> FloatArray:
    """Second generalised eigenvector of the Laplacian, with memory as mass.

    `weights` is symmetric with shape ``(n, n)``; the vector has shape ``(n,)`` and
    starts with a value <= 0.
    """
    if len(weights) < 2:
        return np.zeros(len(weights))
    scale = weights.max() or 1.0
    laplacian = np.diag(weights.sum(axis=1)) - weights
    mass = 1.0 / np.sqrt(memory / memory.mean())
    symmetric = laplacian / scale * mass[:, None] * mass[None, :]
    _, vectors = np.linalg.eigh(symmetric)
    vector: FloatArray = vectors[:, 1] * mass
    return -vector if vector[0] > 0 else vector


def kernighan_lin(weights: FloatArray, labels: IntArray) -> IntArray:
    """Labels after swaps of pairs that each put more bandwidth inside the parts.

    Sizes of parts stay, and so does their memory where GPUs are of one type.
    """
    labels = labels.copy()
    num_parts = int(labels.max()) + 1 if len(labels) else 0
    least = _ROUNDING * (float(weights.max()) if weights.size else 0.0)
    for _ in range(_MAX_SWAPS):
        member = np.eye(num_parts)[labels]
        to_part = weights @ member  # bandwidth of each GPU to each part
        own = np.take_along_axis(to_part, labels[:, None], axis=1)[:, 0]
        # Swapping a and b: each joins the other's part, and the link between them,
        # counted twice there, is inside of neither.
        joins = to_part[:, labels]
        gain = joins + joins.T - own[:, None] - own[None, :] - 2.0 * weights
        gain[labels[:, None] == labels[None, :]] = -np.inf
        best = int(np.argmax(gain))
        a, b = divmod(best, len(labels)) if len(labels) else (0, 0)
        if not gain.size or gain[a, b] <= least:
            break
        labels[a], labels[b] = labels[b], labels[a]
    return labels


def inside_bytes_per_s(graph: GpuGraph, parts: Parts) -> float:
    """Bandwidth that stays within the parts, each pair once."""
    return sum(graph.between(part, part) for part in parts) / 2.0
