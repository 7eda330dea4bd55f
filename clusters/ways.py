"""Ways: which edges a transfer between two GPUs crosses, found by structure.

1. In a node, or an NVLink domain: the direct link or the NVSwitch, if both have it.
2. Otherwise in a node: over the PCIe switches, and the sockets if they differ.
3. Otherwise: from the GPU to the NIC nearest to it (GPUDirect where both are on one
   PCIe switch), over the leaf switches, and down the same way on the other side.

Between leaves the way goes over the spine, or over explicit links: the widest way, and
of equally wide ones the one with the fewest hops (in a tree there is only one).
"""

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from clusters.cluster import Cluster
from clusters.fields import InputError
from clusters.links import Gpu, LinkKind
from clusters.topology_build import Hops, Wiring, leaf_vertex

if TYPE_CHECKING:
    import networkx as nx


class Ways:
    """Finds ways in the wiring of a cluster; ways between leaves are remembered."""

    def __init__(self, cluster: Cluster, wiring: Wiring) -> None:
        self._wiring = wiring
        self._links = cluster.fabric.links
        self._leaf = [leaf_vertex(cluster.leaf_of(node)) for node in cluster.nodes]
        self._between_leaves: dict[tuple[str, str], Hops] = {}

    def between(self, source: Gpu, target: Gpu) -> tuple[Hops, LinkKind]:
        """Edges from one GPU to another one, and the kind of way.

        Raises
        ------
        InputError
            If nothing joins the two.
        """
        hops = self.over_nvlink(source, target)
        if hops:
            return hops, LinkKind.NVLINK
        if source.node == target.node:
            return self._over_pcie(source, target), LinkKind.PCIE
        return self._over_network(source, target), LinkKind.NETWORK

    def over_nvlink(self, source: Gpu, target: Gpu) -> Hops:
        """The NVLink way between two GPUs; empty if there is none."""
        index = self._wiring.index
        direct = index.get((source.name, target.name))
        if direct is not None:
            return (direct,)
        switch = self._wiring.nodes[source.node].nvswitch
        if switch is None or switch != self._wiring.nodes[target.node].nvswitch:
            return ()
        up, down = index.get((source.name, switch)), index.get((switch, target.name))
        return () if up is None or down is None else (up, down)

    def leaf_of(self, gpu: Gpu) -> str:
        """Vertex of the leaf switch above a GPU."""
        return self._leaf[gpu.node]

    def to_leaf(self, gpu: Gpu) -> Hops:
        """Edges from a GPU to its leaf switch; the last two are around the NIC."""
        ways = self._wiring.nodes[gpu.node].to_leaf
        if not ways:
            raise _not_joined(gpu.name, self.leaf_of(gpu))
        return ways[gpu.local_index]

    def between_leaves(self, leaf: str, other: str) -> Hops:
        """Edges from one leaf switch to another (none for the same)."""
        if leaf == other:
            return ()
        if (leaf, other) not in self._between_leaves:
            self._between_leaves[leaf, other] = self._over_fabric(leaf, other)
        return self._between_leaves[leaf, other]

    def _over_pcie(self, source: Gpu, target: Gpu) -> Hops:
        part = self._wiring.nodes[source.node]
        up, down = part.switch[source.local_index], part.switch[target.local_index]
        middle = [up] if up == down else [up, part.socket[up], part.socket[down], down]
        return self._wiring.hops(source.name, *middle, target.name)

    def _over_network(self, source: Gpu, target: Gpu) -> Hops:
        from_leaf = self._wiring.nodes[target.node].from_leaf
        if not from_leaf:
            raise _not_joined(source.name, target.name)
        return (
            *self.to_leaf(source),
            *self.between_leaves(self.leaf_of(source), self.leaf_of(target)),
            *from_leaf[target.local_index],
        )

    def _over_fabric(self, leaf: str, other: str) -> Hops:
        index = self._wiring.index
        if (leaf, "spine") in index and ("spine", other) in index:
            return self._wiring.hops(leaf, "spine", other)
        import networkx as nx

        tree, graph = self._widest_tree, self._link_graph
        if not nx.has_path(tree, leaf, other):
            raise _not_joined(leaf, other)
        steps = pairwise(nx.shortest_path(tree, leaf, other))
        width = min(graph.edges[step]["bytes_per_s"] for step in steps)
        wide = nx.subgraph_view(
            graph, filter_edge=lambda a, b: graph.edges[a, b]["bytes_per_s"] >= width
        )
        return self._wiring.hops(*nx.shortest_path(wide, leaf, other))

    @cached_property
    def _link_graph(self) -> "nx.Graph[str]":
        """Leaves and the explicit links that carry anything between them."""
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph()
        graph.add_nodes_from(self._leaf)
        for link in self._links:
            a, b = (leaf_vertex(end) for end in link.between)
            if link.bytes_per_s > 0:
                graph.add_edge(a, b, bytes_per_s=link.bytes_per_s)
        return graph

    @cached_property
    def _widest_tree(self) -> "nx.Graph[str]":
        """Maximum spanning tree: its ways have the widest possible bottleneck."""
        import networkx as nx

        return nx.maximum_spanning_tree(self._link_graph, weight="bytes_per_s")


def _not_joined(source: str, target: str) -> InputError:
    return InputError("path", f"{source} -> {target}", "GPUs that some way joins")
