"""Meshes: groups of GPUs of one host that a unit of LLMs runs on, and what fits.

Mesh sizes are powers of two, so each divides the next. Then meshes fit on the hosts
exactly if, for every size, the meshes at least that large need no more blocks of that
size than the hosts can be cut into: larger meshes first, each is made of whole blocks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from clusters.cluster import Cluster
from clusters.fields import InputError, check_fields, spec
from planner.placement import FreeGpus


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class MeshKind:
    """Meshes alike."""

    gpu_type: str = spec("Catalogue name of the GPUs.")
    num_gpus: int = spec("GPUs, a power of two.", unit="GPUs", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_gpus & (self.num_gpus - 1):
            raise InputError("num_gpus", self.num_gpus, "a power of two")

    def __str__(self) -> str:
        return f"{self.num_gpus} x {self.gpu_type}"

    def blocks_of(self, smaller: Self) -> int:
        """How many blocks of another kind a mesh takes; 0 if it is not made of them."""
        if self.gpu_type != smaller.gpu_type or self.num_gpus < smaller.num_gpus:
            return 0
        return self.num_gpus // smaller.num_gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSupply:
    """How many blocks of each kind the hosts can be cut into."""

    blocks: tuple[tuple[MeshKind, int], ...] = spec("By kind, largest first.")

    @classmethod
    def of(cls, cluster: Cluster, *, max_gpus: int | None = None) -> Self:
        """Meshes of a cluster: a mesh lies on one node (or NVLink domain)."""
        hosts: dict[str, list[int]] = {}
        for host in FreeGpus.of(cluster).hosts:
            hosts.setdefault(host.gpu_type, []).append(host.num_free)
        return cls._of_hosts(hosts, max_gpus)

    @classmethod
    def even(cls, gpu_type: str, *, num_nodes: int, gpus_per_node: int) -> Self:
        """Meshes of equal nodes."""
        return cls._of_hosts({gpu_type: [gpus_per_node] * num_nodes}, None)

    @classmethod
    def _of_hosts(
        cls, hosts: Mapping[str, Sequence[int]], max_gpus: int | None
    ) -> Self:
        blocks = []
        for gpu_type, sizes in sorted(hosts.items()):
            largest = min(max(sizes), max_gpus or max(sizes))
            size = 1 << (largest.bit_length() - 1)
            while size:
                num = sum(host // size for host in sizes)
                blocks.append((MeshKind(gpu_type=gpu_type, num_gpus=size), num))
                size //= 2
        return cls(blocks=tuple(blocks))

    @property
    def kinds(self) -> tuple[MeshKind, ...]:
        """All kinds, largest first within a GPU type."""
        return tuple(kind for kind, _ in self.blocks)

    def fits(self, meshes: Mapping[MeshKind, int]) -> bool:
        """Whether that many meshes of each kind fit on the hosts together."""
        return all(
            sum(count * mesh.blocks_of(kind) for mesh, count in meshes.items()) <= num
            for kind, num in self.blocks
        )


def mesh_groups(
    supply: MeshSupply, *, max_meshes: int
) -> Iterator[tuple[MeshKind, ...]]:
    """Every set of meshes to which none can be added (MuxServe's mesh groups).

    A set is full when no GPU is left, or when it has `max_meshes` meshes already: there
    is no use for more meshes than LLMs.
    """
    kinds = supply.kinds
    smallest = [i for i, kind in enumerate(kinds) if kind.num_gpus == 1]

    def room(chosen: Sequence[int], index: int) -> int:
        """Meshes of a kind that fit beside the larger ones."""
        kind, num = supply.blocks[index]
        taken = (n * m.blocks_of(kind) for n, m in zip(chosen, kinds, strict=False))
        return min(num - sum(taken), max_meshes - sum(chosen))

    def extend(chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        index = len(chosen)
        if index == len(kinds):
            if all(room(chosen, each) == 0 for each in smallest):
                yield chosen
            return
        most = room(chosen, index)
        for count in range(most if index + 1 == len(kinds) else 0, most + 1):
            yield from extend((*chosen, count))

    for counts in extend(()):
        meshes = zip(kinds, counts, strict=True)
        yield tuple(kind for kind, count in meshes for _ in range(count))
