"""Instances: on which nodes and ports the processes of each replica run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from clusters.fields import check_fields, spec
from clusters.links import Gpu
from clusters.topology import Topology
from planner.deployment import Replica
from planner.export.gpu_share import GpuShare

# Each range is as wide as a node has GPUs at most (1024), so ranges never meet.
FIRST_SIDE_CHANNEL_PORT = 5600
FIRST_HTTP_PORT = 8100
FIRST_MASTER_PORT = 25000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePart:
    """The part of a replica that runs on one node."""

    node: int = spec("Index of the node in the cluster.", unit="index", ge=0)
    node_name: str = spec("Name of the node.")
    local_gpus: tuple[int, ...] = spec("Its GPUs by index in the node, in rank order.")
    side_channel_port: int = spec("First port for KV handshakes.", unit="1", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A replica with the nodes and ports it uses."""

    label: str = spec("Name for its files, e.g. prefill-0.")
    replica: Replica = spec("The replica.")
    parts: tuple[NodePart, ...] = spec("Its nodes, in rank order.")
    http_port: int = spec("Port of its API, on its first node.", unit="1", ge=1)
    master_port: int = spec("Port where its nodes meet.", unit="1", ge=1)
    share: GpuShare | None = spec(
        "What it gets of its GPUs; None: all, alone on them.", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def head(self) -> NodePart:
        """The part that serves the API."""
        return self.parts[0]


def instances_of(
    replicas: Sequence[Replica], topology: Topology
) -> tuple[Instance, ...]:
    """Every replica with ports that no other replica on the same node has.

    A replica takes as many side-channel ports as it has GPUs on a node, because engines
    differ in whether they use one port or one a GPU.
    """
    num_labels: Counter[str] = Counter()
    num_heads: Counter[int] = Counter()
    num_gpus: Counter[int] = Counter()
    instances = []
    for replica in replicas:
        parts = []
        for gpus in gpus_by_node(replica, topology):
            node = gpus[0].node
            parts.append(
                NodePart(
                    node=node,
                    node_name=gpus[0].node_name,
                    local_gpus=tuple(gpu.local_index for gpu in gpus),
                    side_channel_port=FIRST_SIDE_CHANNEL_PORT + num_gpus[node],
                )
            )
            num_gpus[node] += len(gpus)
        head = parts[0].node
        instances.append(
            Instance(
                label=f"{replica.phase}-{num_labels[replica.phase]}",
                replica=replica,
                parts=tuple(parts),
                http_port=FIRST_HTTP_PORT + num_heads[head],
                master_port=FIRST_MASTER_PORT + num_heads[head],
            )
        )
        num_labels[replica.phase] += 1
        num_heads[head] += 1
    return tuple(instances)


def gpus_by_node(replica: Replica, topology: Topology) -> tuple[Sequence[Gpu], ...]:
    """GPUs of a replica in rank order, cut where the node changes."""
    gpus = [topology.gpu(index) for index in replica.gpu_indices]
    runs = groupby(gpus, key=lambda gpu: gpu.node)
    return tuple(tuple(run) for _, run in runs)


def why_not_even(replica: Replica, topology: Topology) -> str | None:
    """Why its ranks do not fill its nodes in order and evenly, or None if they do.

    Engines that number ranks by node (and within it by GPU) need this.
    """
    runs = gpus_by_node(replica, topology)
    nodes = [run[0].node_name for run in runs]
    if len(set(nodes)) < len(nodes):
        return f"{replica.name} returns to a node in a later stage ({', '.join(nodes)})"
    sizes = [len(run) for run in runs]
    if len(set(sizes)) > 1:
        counts = ", ".join(
            f"{n} on {node}" for n, node in zip(sizes, nodes, strict=True)
        )
        return f"{replica.name} has unequal numbers of GPUs on its nodes ({counts})"
    return None
