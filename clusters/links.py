"""Answers of the topology: paths between GPUs and links within groups of GPUs."""

from dataclasses import dataclass
from enum import StrEnum

from clusters.fields import check_fields, spec
from clusters.gpu import GpuType


class LinkKind(StrEnum):
    """The slowest kind of link on a way, which is what software tunes for."""

    LOCAL = "local"
    NVLINK = "nvlink"
    PCIE = "pcie"
    NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU of a cluster."""

    index: int = spec("Index in the cluster.", unit="1", ge=0)
    node: int = spec("Index of its node.", unit="1", ge=0)
    node_name: str = spec("Name of its node.")
    local_index: int = spec("Index in its node (CUDA_VISIBLE_DEVICES).", unit="1", ge=0)
    type: GpuType = spec("What it is.")

    @property
    def name(self) -> str:
        """Its vertex in the graph, e.g. ``node0/gpu3``."""
        return f"{self.node_name}/gpu{self.local_index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One directed link of the graph."""

    source: str = spec("Vertex it leaves.")
    target: str = spec("Vertex it enters.")
    bytes_per_s: float = spec("Capacity.", unit="bytes/s", gt=0)
    latency_ms: float = spec("Latency.", unit="ms", ge=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A way from GPU to GPU, or the ways of a parallel transfer together."""

    edges: tuple[int, ...] = spec("Indices into `Topology.edges`, in order.")
    bytes_per_s: float = spec("Rate with nothing else running.", unit="bytes/s", gt=0)
    latency_ms: float = spec("Latency of an empty message.", unit="ms", ge=0)
    kind: LinkKind = spec("Slowest kind of link used.", default=LinkKind.NETWORK)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLink:
    """What joins the GPUs of a group: one ring, or one hop between two groups."""

    bytes_per_s: float = spec(
        "Rate a GPU of the ring sends on at; of a hop, all GPUs together.",
        unit="bytes/s",
        gt=0,
    )
    latency_ms: float = spec("Latency of the slowest step.", unit="ms", ge=0)
    kind: LinkKind = spec("Slowest kind of link used.", default=LinkKind.NETWORK)
    sharers: int = spec(
        "GPUs of a host that share the rate when each sends for itself (several rings, "
        "all to all): those behind the same NICs.",
        unit="GPUs",
        ge=1,
        default=1,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLinks:
    """Links of a pipeline of groups of GPUs."""

    tp: tuple[GroupLink, ...] = spec("Ring within each stage.")
    pp: tuple[GroupLink, ...] = spec("Hop from each stage to the next.", default=())
    inner: tuple[GroupLink, ...] = spec(
        "Slowest ring within a tensor-parallel group of each stage, where a stage has "
        "several; (): as within the stage.",
        default=(),
    )
