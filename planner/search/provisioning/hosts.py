"""Host classes: hosts that a plan need not tell apart, and how replicas pack on them.

A cluster of thousands of GPUs has a handful of kinds of host. A programme that counts
replicas on each kind, instead of naming GPUs, does not grow with the cluster.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from clusters.cluster import Cluster
from clusters.fields import check_fields, spec
from clusters.node import Node
from planner.placement import FreeGpus, Host

MOST_LEAVES = 16
"""Up to this many leaf switches, hosts under different ones are told apart."""

MOST_PACKINGS = 500
"""Beyond this many packings of a host, rows that every packing obeys replace them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostClass:
    """Hosts alike: one GPU type, as many GPUs, the same links, price and leaf."""

    gpu_type: str = spec("GPU type.")
    node_type: str = spec("Node type.")
    island_sizes: tuple[int, ...] = spec("GPUs of each NVLink island.", unit="GPUs")
    leaf: str = spec("Leaf switch above them; empty: any.", default="")
    nic_bytes_per_s: float = spec("NICs of each host.", unit="bytes/s", ge=0)
    usd_per_gpu_hour: float | None = spec(
        "Price of one GPU.", unit="usd/h", default=None
    )
    power_w_per_gpu: float | None = spec(
        "Board power limit of one GPU.", unit="W", default=None
    )
    hosts: tuple[tuple[tuple[int, ...], ...], ...] = spec(
        "GPUs of each host, island by island.", default=()
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_gpus(self) -> int:
        """GPUs of each host."""
        return sum(self.island_sizes)

    @property
    def num_hosts(self) -> int:
        """How many there are."""
        return len(self.hosts)

    def free(self) -> FreeGpus:
        """All their GPUs, to be taken."""
        hosts = [Host(self.gpu_type, [list(i) for i in host]) for host in self.hosts]
        return FreeGpus(hosts=hosts)


def host_classes(cluster: Cluster, gpu_types: Sequence[str]) -> tuple[HostClass, ...]:
    """All hosts of the given GPU types by class, in the order of the cluster."""
    facts = _Facts(cluster)
    found: dict[HostClass, list[tuple[tuple[int, ...], ...]]] = {}
    for host in FreeGpus.of(cluster).hosts:
        if host.gpu_type in gpu_types:
            islands = tuple(tuple(island) for island in host.islands)
            found.setdefault(_class_of(facts, host), []).append(islands)
    return tuple(replace(key, hosts=tuple(hosts)) for key, hosts in found.items())


class _Facts:
    """What is the same for all hosts of a cluster, or was asked before."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.nics = nic_rates(cluster)
        self.tells_leaves = len(cluster.leaves) <= MOST_LEAVES
        self._prices: dict[tuple[str, float | None], float | None] = {}

    def usd_per_gpu_hour(self, node: Node, gpu: int) -> float | None:
        """Price of a GPU of a node."""
        key = (node.type.name, node.price_usd_per_hour)
        if key not in self._prices:
            self._prices[key] = self.cluster.usd_per_hour([gpu])
        return self._prices[key]


def _class_of(facts: _Facts, host: Host) -> HostClass:
    """The class of a host, still without hosts."""
    gpus = [gpu for island in host.islands for gpu in island]
    cluster = facts.cluster
    # An NVLink domain may span several nodes.
    nodes = sorted({cluster.topology.gpu(gpu).node for gpu in gpus})
    first = cluster.nodes[nodes[0]]
    return HostClass(
        gpu_type=host.gpu_type,
        node_type=first.type.name,
        island_sizes=tuple(len(island) for island in host.islands),
        leaf=cluster.leaf_of(first) if facts.tells_leaves else "",
        nic_bytes_per_s=sum(facts.nics[node] for node in nodes),
        usd_per_gpu_hour=facts.usd_per_gpu_hour(first, gpus[0]),
        power_w_per_gpu=cluster.topology.gpu(gpus[0]).type.tdp_w,
    )


def nic_rates(cluster: Cluster) -> list[float]:
    """Rate of each node to its leaf switch, in bytes/s."""
    rates = []
    for node in cluster.nodes:
        port = cluster.fabric.leaf_port_bytes_per_s or node.type.nic_bytes_per_s
        rates.append(node.type.num_nics * min(port, node.type.nic_bytes_per_s))
    return rates


def packings(num_gpus: int, widths: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Every maximal way to fill a host with groups of the given widths.

    A packing is a tuple of counts, one a width. None when there are more than
    `MOST_PACKINGS`.
    """
    found = []
    for packing in _fillings(num_gpus, tuple(sorted(set(widths), reverse=True))):
        found.append(packing)
        if len(found) > MOST_PACKINGS:
            return None
    return found


def _fillings(left: int, widths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Counts of each width, widest first, such that no further group fits."""
    if len(widths) == 1:
        yield (left // widths[0],)
        return
    for count in range(left // widths[0], -1, -1):
        for rest in _fillings(left - count * widths[0], widths[1:]):
            yield (count, *rest)
