"""The network that KV caches cross in the configuration programme.

Vertices are leaf switches and what joins them; when hosts under different leaves are
not told apart, all leaves are one vertex, which relaxes the programme.
"""

import math
from dataclasses import dataclass

from clusters.cluster import Cluster
from clusters.fields import spec
from clusters.links import Edge
from clusters.topology_build import leaf_vertex
from planner.search.provisioning.hosts import HostClass

ANY_LEAF = "leaves"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvNetwork:
    """Links between leaf switches, and what a request sends over them."""

    vertices: tuple[str, ...] = spec("Leaf switches and what joins them.")
    links: tuple[Edge, ...] = spec("Directed links between them.")
    kv_bytes_per_request: float = spec("KV cache of a prompt.", unit="bytes")
    efficiency_frac: float = spec("Share of a link's rate that is reached.", unit="1")

    def requests_per_s(self, bytes_per_s: float) -> float | None:
        """Requests whose caches a link carries; None: any number."""
        if self.kv_bytes_per_request <= 0 or math.isinf(bytes_per_s):
            return None
        return bytes_per_s * self.efficiency_frac / self.kv_bytes_per_request

    def vertex_of(self, leaf: str) -> str:
        """The vertex of a host class's leaf."""
        return leaf_vertex(leaf) if leaf else ANY_LEAF


def kv_network(
    cluster: Cluster,
    classes: tuple[HostClass, ...],
    *,
    kv_bytes_per_request: float,
    efficiency_frac: float,
) -> KvNetwork:
    """The links above the hosts of a cluster."""
    vertices, links = [ANY_LEAF], []
    if any(hosts.leaf for hosts in classes):
        leaves = {leaf_vertex(leaf) for leaf in cluster.leaves}
        above = leaves | {"spine"}
        links = [
            edge
            for edge in cluster.topology.edges
            if edge.source in above and edge.target in above
        ]
        ends = {end for edge in links for end in (edge.source, edge.target)}
        vertices = sorted(leaves | ends)
    return KvNetwork(
        vertices=tuple(vertices),
        links=tuple(links),
        kv_bytes_per_request=kv_bytes_per_request,
        efficiency_frac=efficiency_frac,
    )
