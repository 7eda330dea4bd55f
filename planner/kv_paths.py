"""KV paths: transfers between replicas, found once for replicas that lie alike.

Two nodes of one type under the same leaf switch have the same links inside. So all that
a transfer depends on is its pattern: types and leaves of the nodes, which GPUs of each
take part, and which nodes both ends have in common. Rates are worked out once a
pattern; the links of another transfer of the pattern are those of the first, with the
nodes exchanged (`Topology` numbers the links of a node in a row).
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from clusters.cluster import Cluster
from clusters.fields import spec
from clusters.links import LinkKind
from clusters.topology import Topology

IntArray = NDArray[np.int64]
Shard = tuple[int, int, float]
"""GPU that sends, GPU that receives, and their share of the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A parallel transfer between two sets of GPUs."""

    edges: tuple[int, ...] = spec("Links it crosses, each once.")
    shares: tuple[float, ...] = spec("Share of the bytes on each of them.", unit="1")
    bytes_per_s: float = spec("Rate with nothing else running.", unit="bytes/s", gt=0)
    latency_ms: float = spec("Fixed time.", unit="ms", ge=0)
    kind: LinkKind = spec("Slowest kind of link on it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """GPUs of a replica: their nodes in order, and what of them decides a transfer."""

    nodes: tuple[int, ...] = spec("Nodes.", unit="index")
    pattern: tuple[object, ...] = spec("Kind of each node, and places of the GPUs.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """What transfers of a pattern have in common."""

    owner: IntArray = spec("For each link the position of its node; last: no node's.")
    offset: IntArray = spec("Its number among the links of that node.")
    first: Transfer = spec("The transfer it was worked out from.")


class KvPaths:
    """Transfers in one cluster, remembered by pattern."""

    def __init__(self, cluster: Cluster) -> None:
        topology = cluster.topology
        self._topology = topology
        kinds: dict[tuple[object, ...], int] = {}
        self._kind_of_node = [
            kinds.setdefault(
                (node.type, node.gpus, cluster.leaf_of(node), node.nvlink_domain),
                len(kinds),
            )
            for node in cluster.nodes
        ]
        firsts: dict[str, int] = {}
        for gpu in topology.gpus:
            if gpu.local_index == 0:
                firsts.setdefault(gpu.name, gpu.node)
        self._first_edge = [0] * len(firsts)
        for number, edge in enumerate(topology.edges):
            node = firsts.pop(edge.source, None)
            if node is not None:
                self._first_edge[node] = number
        self._first_shared = next(
            (
                number
                for number, edge in enumerate(topology.edges)
                if edge.source.startswith("leaf:") and "/" not in edge.target
            ),
            len(topology.edges),
        )
        self._ends: dict[tuple[int, ...], _End] = {}
        self._patterns: dict[tuple[object, ...], _Pattern] = {}
        self._spread: dict[tuple[Shard, ...], Transfer] = {}

    @classmethod
    def of(cls, cluster: Cluster) -> "KvPaths":
        """Those of a cluster, made on first use."""
        if cluster.topology not in _KNOWN:
            _KNOWN[cluster.topology] = cls(cluster)
        return _KNOWN[cluster.topology]

    def transfer(self, sources: tuple[int, ...], targets: tuple[int, ...]) -> Transfer:
        """The transfer between two sets of GPUs, in equal shards (`Topology.route`)."""
        a, b = self._end(sources), self._end(targets)
        joint = tuple(a.nodes.index(n) if n in a.nodes else -1 for n in b.nodes)
        key = (a.pattern, b.pattern, joint)
        nodes = a.nodes + b.nodes
        if key not in self._patterns:
            self._patterns[key] = self._work_out(sources, targets, nodes)
        pattern = self._patterns[key]
        bases = np.array([self._first_edge[n] for n in nodes] + [0], dtype=np.int64)
        first = pattern.first
        return Transfer(
            edges=tuple((bases[pattern.owner] + pattern.offset).tolist()),
            shares=first.shares,
            bytes_per_s=first.bytes_per_s,
            latency_ms=first.latency_ms,
            kind=first.kind,
        )

    def spread(self, shards: tuple[Shard, ...]) -> Transfer:
        """A transfer in unequal shards, which are sent so that all end together.

        Its rate is the least of any link's over the share of the bytes on it.
        """
        if shards not in self._spread:
            topology = self._topology
            paths = [topology.path(a, b) for a, b, _ in shards]
            loads: dict[int, float] = {}
            for path, (_, _, share) in zip(paths, shards, strict=True):
                for edge in path.edges:
                    loads[edge] = loads.get(edge, 0.0) + share
            rates = [topology.edges[e].bytes_per_s / load for e, load in loads.items()]
            kind = max((path.kind for path in paths), key=list(LinkKind).index)
            self._spread[shards] = Transfer(
                edges=tuple(loads),
                shares=tuple(loads.values()),
                bytes_per_s=min(rates),
                latency_ms=max(path.latency_ms for path in paths),
                kind=kind,
            )
        return self._spread[shards]

    def _end(self, gpus: tuple[int, ...]) -> _End:
        if gpus not in self._ends:
            found = [self._topology.gpu(index) for index in gpus]
            nodes = tuple(dict.fromkeys(gpu.node for gpu in found))
            kinds = tuple(self._kind_of_node[node] for node in nodes)
            places = tuple((nodes.index(gpu.node), gpu.local_index) for gpu in found)
            self._ends[gpus] = _End(nodes=nodes, pattern=(kinds, places))
        return self._ends[gpus]

    def _work_out(
        self, sources: tuple[int, ...], targets: tuple[int, ...], nodes: Sequence[int]
    ) -> _Pattern:
        topology = self._topology
        path = topology.route(sources, targets)
        loads = edge_loads(topology, sources, targets)
        owners, offsets = [], []
        for edge in path.edges:
            position = len(nodes)
            if edge < self._first_shared:
                position = nodes.index(bisect_right(self._first_edge, edge) - 1)
            base = self._first_edge[nodes[position]] if position < len(nodes) else 0
            owners.append(position)
            offsets.append(edge - base)
        return _Pattern(
            owner=np.array(owners, dtype=np.int64),
            offset=np.array(offsets, dtype=np.int64),
            first=Transfer(
                edges=path.edges,
                shares=tuple(loads[edge] for edge in path.edges),
                bytes_per_s=path.bytes_per_s,
                latency_ms=path.latency_ms,
                kind=path.kind,
            ),
        )


_KNOWN: WeakKeyDictionary[Topology, KvPaths] = WeakKeyDictionary()


def edge_loads(
    topology: Topology, sources: Sequence[int], targets: Sequence[int]
) -> dict[int, float]:
    """Share of a transfer's bytes that crosses each edge."""
    num_shards = max(len(sources), len(targets))
    loads: dict[int, float] = {}
    for i in range(num_shards):
        path = topology.path(sources[i % len(sources)], targets[i % len(targets)])
        for edge in path.edges:
            loads[edge] = loads.get(edge, 0.0) + 1.0 / num_shards
    return loads
