"""Topology: the links of a cluster as a graph, and what planning asks of it.

Ways are found by structure (`clusters.ways`), never by searching the whole graph, so a
path costs microseconds whatever the size of the cluster.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from clusters.cluster import Cluster
from clusters.contention import FloatArray, max_min_rates
from clusters.fields import InputError
from clusters.links import Edge, Gpu, GroupLink, GroupLinks, LinkKind, Path
from clusters.ring import ring_of
from clusters.topology_build import build_wiring
from clusters.ways import Ways

if TYPE_CHECKING:
    import networkx as nx


class Topology:
    """The graph of a cluster. Get it from `Cluster.topology`.

    Attributes
    ----------
    gpus
        All GPUs, in node order.
    edges
        All directed links; `Path.edges` are indices into it.
    capacity_bytes_per_s
        Capacity of every edge, shape ``(num_edges,)``.
    ways
        Finds the edges that a transfer crosses.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._wiring = build_wiring(cluster)
        self._cluster = cluster
        self.ways = Ways(cluster, self._wiring)
        self.gpus: tuple[Gpu, ...] = tuple(self._wiring.gpus)
        self.edges: tuple[Edge, ...] = tuple(self._wiring.edges)
        self.capacity_bytes_per_s: FloatArray = np.array(
            [edge.bytes_per_s for edge in self.edges], dtype=np.float64
        )
        by_node: list[list[int]] = [[] for _ in cluster.nodes]
        for gpu in self.gpus:
            by_node[gpu.node].append(gpu.index)
        self._gpus_by_node = tuple(tuple(gpus) for gpus in by_node)

    @cached_property
    def graph(self) -> "nx.DiGraph[str]":
        """The directed graph of named vertices (built on first use).

        Vertices have `kind` (gpu, switch, socket, nvswitch, nic, leaf, spine), GPUs
        `index` too; edges have `bytes_per_s` and `latency_ms`.
        """
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        for gpu in self.gpus:
            graph.add_node(gpu.name, kind="gpu", index=gpu.index)
        for edge in self.edges:
            graph.add_edge(
                edge.source,
                edge.target,
                bytes_per_s=edge.bytes_per_s,
                latency_ms=edge.latency_ms,
            )
        for vertex, attributes in graph.nodes.items():
            attributes.setdefault("kind", _kind_of(vertex))
        return graph

    def path(self, a: int, b: int) -> Path:
        """The way from GPU `a` to GPU `b`; a GPU reaches itself at its memory rate.

        Raises
        ------
        InputError
            If an index is out of range or nothing joins the two.
        """
        source, target = self.gpu(a), self.gpu(b)
        if a == b:
            rate = source.type.memory_bytes_per_s
            return Path(edges=(), bytes_per_s=rate, latency_ms=0.0, kind=LinkKind.LOCAL)
        hops, kind = self.ways.between(source, target)
        edges = [self.edges[hop] for hop in hops]
        return Path(
            edges=hops,
            bytes_per_s=min([edge.bytes_per_s for edge in edges]),
            latency_ms=sum([edge.latency_ms for edge in edges]),
            kind=kind,
        )

    def route(self, sources: Sequence[int], targets: Sequence[int]) -> Path:
        """A parallel transfer in equal shards from one set of GPUs to another.

        Shard i goes from source ``i mod len(sources)`` to target
        ``i mod len(targets)``, as many shards as the larger set has GPUs. They run
        together and share links fairly; the transfer ends with its slowest shard, so
        its rate is the number of shards times the rate of the slowest.
        """
        if not sources or not targets:
            ends = [list(sources), list(targets)]
            raise InputError("route", ends, "GPUs on both ends")
        num_shards = max(len(sources), len(targets))
        pairs = [
            (sources[i % len(sources)], targets[i % len(targets)])
            for i in range(num_shards)
        ]
        paths = [self.path(a, b) for a, b in pairs]
        slowest_kind = max((path.kind for path in paths), key=list(LinkKind).index)
        return Path(
            edges=tuple(dict.fromkeys(edge for path in paths for edge in path.edges)),
            bytes_per_s=float(self._shared_rates(paths).min()) * num_shards,
            latency_ms=max(path.latency_ms for path in paths),
            kind=slowest_kind,
        )

    def ring(self, gpus: Sequence[int]) -> GroupLink:
        """The ring over a set of GPUs, as collectives use it (see `clusters.ring`)."""
        if len(set(gpus)) != len(gpus) or not gpus:
            raise InputError("gpus", list(gpus), "different GPUs, at least one")
        return ring_of(self, sorted(gpus))

    def group_links(
        self, stages: Sequence[Sequence[int]], *, tp: int | None = None
    ) -> GroupLinks:
        """Rings within the stages of a pipeline, and the hops between them.

        `tp` is the size of a tensor-parallel group where a stage has several: each of
        them is a run of its GPUs.
        """
        hops = [self.route(stage, following) for stage, following in pairwise(stages)]
        inner = [self._inner_ring(stage, tp) for stage in stages if tp is not None]
        return GroupLinks(
            tp=tuple(self.ring(stage) for stage in stages),
            inner=tuple(inner),
            pp=tuple(
                GroupLink(
                    bytes_per_s=hop.bytes_per_s,
                    latency_ms=hop.latency_ms,
                    kind=hop.kind,
                )
                for hop in hops
            ),
        )

    def _inner_ring(self, stage: Sequence[int], tp: int) -> GroupLink:
        """The slowest ring over `tp` GPUs in a row."""
        runs = [stage[first : first + tp] for first in range(0, len(stage), tp)]
        return min(map(self.ring, runs), key=lambda ring: ring.bytes_per_s)

    def fair_rates(self, transfers: Sequence[tuple[int, int]]) -> FloatArray:
        """Max-min fair rates of simultaneous transfers (source, target).

        Returns rates in bytes/s, shape ``(num_transfers,)``.
        """
        return self._shared_rates([self.path(a, b) for a, b in transfers])

    def islands(self, node_index: int) -> tuple[tuple[int, ...], ...]:
        """GPUs of a node grouped by NVLink: all of them, pairs, or single GPUs."""
        left = [self.gpus[index] for index in self.gpus_of_node(node_index)]
        found = []
        while left:
            frontier = [left.pop(0)]
            island = list(frontier)
            while frontier:
                here = frontier.pop()
                near = [gpu for gpu in left if self.ways.over_nvlink(here, gpu)]
                left = [gpu for gpu in left if gpu not in near]
                island += near
                frontier += near
            found.append(tuple(sorted(gpu.index for gpu in island)))
        return tuple(found)

    def gpus_of_node(self, node_index: int) -> tuple[int, ...]:
        """Indices of the GPUs of a node."""
        num_nodes = len(self._cluster.nodes)
        if not 0 <= node_index < num_nodes:
            form = f"a node between 0 and {num_nodes - 1}"
            raise InputError("node", node_index, form)
        return self._gpus_by_node[node_index]

    def components(self) -> tuple[tuple[int, ...], ...]:
        """GPUs grouped by whether any way joins them, largest group first."""
        return self._components

    @cached_property
    def _components(self) -> tuple[tuple[int, ...], ...]:
        # Imported here: it takes a while, and few commands need it.
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        numbers: dict[str, int] = {gpu.name: gpu.index for gpu in self.gpus}
        ends = [
            [numbers.setdefault(end, len(numbers)) for end in (e.source, e.target)]
            for e in self.edges
        ]
        sources, targets = np.array(ends, dtype=np.int64).reshape(-1, 2).T
        size = len(numbers)
        ones = np.ones(len(ends), dtype=np.int8)
        joined = csr_array((ones, (sources, targets)), shape=(size, size))
        _, labels = connected_components(joined, directed=False)
        groups: dict[int, list[int]] = {}
        for gpu in self.gpus:
            groups.setdefault(int(labels[gpu.index]), []).append(gpu.index)
        found = [tuple(sorted(group)) for group in groups.values()]
        return tuple(sorted(found, key=lambda group: (-len(group), group)))

    def gpu(self, index: int) -> Gpu:
        """The GPU of that index.

        Raises
        ------
        InputError
            If there is none.
        """
        if not 0 <= index < len(self.gpus):
            form = f"a GPU between 0 and {len(self.gpus) - 1}"
            raise InputError("gpu", index, form)
        return self.gpus[index]

    def domain_of(self, gpu: int) -> str:
        """The NVLink domain of a GPU's node if it spans nodes, otherwise the node."""
        found = self.gpu(gpu)
        return self._cluster.nodes[found.node].nvlink_domain or found.node_name

    def nvlink_peers(self, gpu: int) -> frozenset[int] | None:
        """GPUs that direct links reach from a GPU; None for one on an NVSwitch."""
        found = self.gpu(gpu)
        part = self._wiring.nodes[found.node]
        if part.nvswitch and (found.name, part.nvswitch) in self._wiring.index:
            return None
        base = found.index - found.local_index
        return frozenset(base + p for p in part.links.get(found.local_index, ()))

    def _shared_rates(self, paths: Sequence[Path]) -> FloatArray:
        edges = [path.edges for path in paths]
        rates = max_min_rates(edges, self.capacity_bytes_per_s)
        alone = np.array([path.bytes_per_s for path in paths], dtype=np.float64)
        return np.where(np.isfinite(rates), rates, alone)


def _kind_of(vertex: str) -> str:
    """Kind of a vertex that is not a GPU, from its name."""
    if vertex.startswith("leaf:"):
        return "leaf"
    return vertex.rpartition("/")[2].rstrip("0123456789")
