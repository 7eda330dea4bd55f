"""The greedy of MuxServe's released placement, written again, index bug included.

Reference
    Duan et al., "MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM
    Serving", ICML 2024, arXiv 2404.02015, Algorithm 1, and its public repository
    (hao-ai-lab/MuxServe), `smart_placement` in `muxsched/placement.py`.

What is wrong with it, and kept here so that its objective comes out to the last digit:

* an LLM goes where the throughput stored for the mesh's *position* grows most, although
  the list of meshes has been sorted again since that was stored (the index bug);
* the tie-break reads a third order of the meshes;
* weights get 43.2 GB of every GPU, whatever the LLMs;
* a group with more meshes than LLMs is not looked at, and neither is a node of a size
  that the code does not know.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

from muxserve_estimate import (
    ACTIVATION_GB,
    GPU_MEMORY_GB,
    PROCESS_GB,
    Case,
    Shape,
)

MESH_SIZES = (1, 2, 4, 8)
NODE_SIZES = (1, 2, 4, 6, 8)
"""Node sizes the released code knows how to cut."""
FULL_SM = 100
OVERLOAD_SM = 20
"""What the decode shares of a mesh may exceed all SMs by."""
WEIGHTS_FRAC = 0.9 * (1 - 0.4)
"""Share of the memory that weights may take."""


class Mesh:
    """GPUs that a unit is placed on."""

    def __init__(self, num_gpus: int) -> None:
        self.num_gpus = num_gpus
        self.free_sm = FULL_SM
        self.free_gb = WEIGHTS_FRAC * (GPU_MEMORY_GB * num_gpus)
        self.members: tuple[int, ...] = ()
        self.shares: tuple[int, ...] = ()

    def can_place(self, shape: Shape, sm: int) -> bool:
        """Whether the weights fit, and the SMs with the allowed overload."""
        return self.free_gb >= shape.weights_gb and self.free_sm + OVERLOAD_SM >= sm

    def place(self, index: int, shape: Shape, sm: int) -> None:
        """Put an LLM on the mesh."""
        self.members += (index,)
        self.shares += (sm,)
        self.free_gb -= shape.weights_gb + PROCESS_GB + ACTIVATION_GB
        self.free_sm -= sm


def node_splits(node_gpus: int) -> list[tuple[int, ...]]:
    """Ways to cut a node into meshes, largest first; none for unknown sizes."""
    if node_gpus not in NODE_SIZES:
        return []

    def cut(left: int, largest: int) -> Iterator[tuple[int, ...]]:
        if left == 0:
            yield ()
        for size in sorted(MESH_SIZES, reverse=True):
            if size <= min(left, largest):
                for rest in cut(left - size, size):
                    yield (size, *rest)

    return list(cut(node_gpus, node_gpus))


def released_objective(case: Case) -> float | None:
    """Objective of the best placement of the released greedy; None: it finds none."""
    smallest = max(min(llm.candidates) for llm in case.llms)
    best = -1.0
    splits = node_splits(case.node_gpus)
    for nodes in combinations_with_replacement(splits, case.num_nodes):
        sizes = [size for node in nodes for size in node]
        if max(sizes) < smallest or len(sizes) > len(case.llms):
            continue
        meshes = place_greedily(case, sizes)
        if meshes is not None:
            best = max(best, objective_of(case, meshes))
    return best if best >= 0 else None


def objective_of(case: Case, meshes: Sequence[Mesh]) -> float:
    """Rate-weighted mean of the throughputs of meshes."""
    total, total_rate = 0.0, 0.0
    for mesh in meshes:
        if mesh.members:
            value, _ = case.throughputs(mesh.num_gpus, mesh.members, mesh.shares)
            rate = sum(case.llms[i].rate for i in mesh.members)
            total += value * rate
            total_rate += rate
    return total / total_rate


def place_greedily(case: Case, sizes: Sequence[int]) -> list[Mesh] | None:
    """The released greedy on one mesh group, index bug included."""
    in_order = [Mesh(size) for size in sizes]
    tagged = [(mesh, 0.0) for mesh in in_order]
    tagged.sort(key=_by_load, reverse=True)
    stored = [0.0] * len(sizes)
    for index in case.by_demand():
        llm = case.llms[index]
        best, best_increase = -1, -100.0
        for position, (mesh, _) in enumerate(tagged):
            sm = llm.candidates.get(mesh.num_gpus, 0)
            if sm <= 0 or not mesh.can_place(llm.shape, sm):
                continue
            value, _ = case.throughputs(
                mesh.num_gpus, (*mesh.members, index), (*mesh.shares, sm)
            )
            # `stored` belongs to whichever mesh was at this position when it was
            # written: this is the index bug.
            increase = value - stored[position]
            if increase > best_increase:
                best, best_increase = position, increase
            elif (
                # The tie-break reads the list before sorting.
                increase == best_increase and mesh.num_gpus < in_order[best].num_gpus
            ):
                best = position
        if best < 0:
            return None
        mesh, load = tagged[best]
        tagged[best] = (mesh, load - llm.rate * llm.shape.scale / mesh.num_gpus)
        mesh.place(index, llm.shape, llm.candidates[mesh.num_gpus])
        stored[best] += best_increase
        tagged.sort(key=_by_load, reverse=True)
    return in_order


def _by_load(tagged: tuple[Mesh, float]) -> tuple[float, float]:
    mesh, load = tagged
    return load, mesh.free_gb
