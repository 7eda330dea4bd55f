"""From a cluster to the edges of its topology graph.

A node is wired like this (links in both directions):

    gpu -- switch -- socket -- socket        PCIe; a switch may be a bare root port
    gpu -- nvswitch   or   gpu -- gpu        NVLink, Infinity Fabric
    switch -- nic -- leaf                    NICs spread evenly over the switches,
    socket -- nic -- leaf                    otherwise on the sockets

NICs at the same place are one vertex with their rates added up, since transfer
libraries stripe over them. Vertices are named by what they are in: ``node0/gpu3``,
``leaf:rack1``, ``spine``.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from clusters.cluster import Cluster
from clusters.links import Edge, Gpu
from clusters.node import Interconnect, Node, NodeType

Hops = tuple[int, ...]
"""Edge indices of a way, in order."""


@dataclass(slots=True, kw_only=True)
class NodeWiring:
    """Edges of one node, by the local indices of its GPUs."""

    switch: list[str] = field(default_factory=list)
    """PCIe switch of each GPU."""
    socket: dict[str, str] = field(default_factory=dict)
    """Socket of each switch."""
    to_leaf: list[Hops] = field(default_factory=list)
    """Way from each GPU to the leaf switch; empty for a node without NICs."""
    from_leaf: list[Hops] = field(default_factory=list)
    """Way from the leaf switch to each GPU."""
    nvswitch: str | None = None
    """The NVSwitch (of the node or of its NVLink domain)."""
    links: dict[int, set[int]] = field(default_factory=dict)
    """GPUs that each GPU has a direct link to."""


@dataclass(slots=True)
class Wiring:
    """All edges of a cluster, found by their ends."""

    edges: list[Edge] = field(default_factory=list)
    index: dict[tuple[str, str], int] = field(default_factory=dict)
    gpus: list[Gpu] = field(default_factory=list)
    nodes: list[NodeWiring] = field(default_factory=list)

    def join(self, a: str, b: str, bytes_per_s: float, latency_ms: float) -> None:
        """Add a link in both directions, unless it is there."""
        for source, target in ((a, b), (b, a)):
            if (source, target) in self.index:
                continue
            self.index[source, target] = len(self.edges)
            self.edges.append(
                Edge(
                    source=source,
                    target=target,
                    bytes_per_s=bytes_per_s,
                    latency_ms=latency_ms,
                )
            )

    def hops(self, *vertices: str) -> Hops:
        """Edge indices along the vertices; repeated vertices are one."""
        return tuple(self.index[a, b] for a, b in pairwise(vertices) if a != b)


def build_wiring(cluster: Cluster) -> Wiring:
    """All GPUs and edges of a cluster."""
    wiring = Wiring()
    for position, node in enumerate(cluster.nodes):
        gpus = [
            Gpu(
                index=len(wiring.gpus) + local,
                node=position,
                node_name=node.name,
                local_index=local,
                type=gpu,
            )
            for local, gpu in enumerate(node.slots)
        ]
        wiring.gpus += gpus
        part = NodeWiring()
        wiring.nodes.append(part)
        _wire_pcie(wiring, part, node, gpus)
        _wire_nvlink(wiring, part, node, gpus)
        _wire_nics(wiring, part, node, gpus, cluster)
    _wire_fabric(wiring, cluster)
    return wiring


def leaf_vertex(leaf: str) -> str:
    """Vertex of the leaf switch above a rack, or of a node's own port."""
    return f"leaf:{leaf}"


def _wire_pcie(wiring: Wiring, part: NodeWiring, node: Node, gpus: list[Gpu]) -> None:
    kind = node.type
    num_switches = _num_switches(kind)
    for gpu in gpus:
        position = gpu.local_index // kind.gpus_per_pcie_switch
        switch = f"{node.name}/switch{position}"
        socket = f"{node.name}/socket{position * kind.num_sockets // num_switches}"
        latency_ms = kind.pcie_latency_ms
        wiring.join(gpu.name, switch, gpu.type.pcie_bytes_per_s, latency_ms)
        # Where a switch mixes GPUs, its link to the host is as fast as the fastest.
        first = position * kind.gpus_per_pcie_switch
        below = gpus[first : first + kind.gpus_per_pcie_switch]
        uplink = max(each.type.pcie_bytes_per_s for each in below)
        wiring.join(switch, socket, uplink, latency_ms)
        part.switch.append(switch)
        part.socket[switch] = socket
    sockets = [f"{node.name}/socket{number}" for number in range(kind.num_sockets)]
    for position, a in enumerate(sockets):
        for b in sockets[:position]:
            wiring.join(a, b, kind.socket_bytes_per_s, kind.pcie_latency_ms)


def _wire_nvlink(wiring: Wiring, part: NodeWiring, node: Node, gpus: list[Gpu]) -> None:
    kind = node.type
    if kind.interconnect is Interconnect.NVSWITCH:
        part.nvswitch = f"{node.nvlink_domain or node.name}/nvswitch"
        for gpu in gpus:
            rate = gpu.type.nvlink_bytes_per_s
            if rate > 0:
                half_ms = kind.nvlink_latency_ms / 2
                wiring.join(gpu.name, part.nvswitch, rate, half_ms)
        return
    for (a, b), rate in _direct_links(kind, gpus).items():
        if rate > 0:
            wiring.join(gpus[a].name, gpus[b].name, rate, kind.nvlink_latency_ms)
            part.links.setdefault(a, set()).add(b)
            part.links.setdefault(b, set()).add(a)


def _direct_links(kind: NodeType, gpus: list[Gpu]) -> dict[tuple[int, int], float]:
    """Rate of the direct link between two GPUs, by their local indices."""

    def slower(a: int, b: int) -> float:
        return min(gpus[a].type.nvlink_bytes_per_s, gpus[b].type.nvlink_bytes_per_s)

    if kind.interconnect is Interconnect.NVLINK_PAIRS:
        return {(a, b): slower(a, b) for a, b in kind.nvlink_pairs}
    if kind.gpu_links:
        return {link.between: link.bytes_per_s for link in kind.gpu_links}
    if kind.interconnect is Interconnect.MESH:
        # A GPU's links are shared out evenly among its peers.
        num_peers = max(len(gpus) - 1, 1)
        return {
            (a, b): slower(a, b) / num_peers for b in range(len(gpus)) for a in range(b)
        }
    return {}


def _wire_nics(
    wiring: Wiring,
    part: NodeWiring,
    node: Node,
    gpus: list[Gpu],
    cluster: Cluster,
) -> None:
    kind = node.type
    if kind.num_nics == 0:
        return
    port = cluster.fabric.leaf_port_bytes_per_s or kind.nic_bytes_per_s
    leaf = leaf_vertex(cluster.leaf_of(node))
    places = _nic_places(node)
    nic_at = {place: f"{node.name}/nic{i}" for i, place in enumerate(places)}
    for place, num_nics in places.items():
        nic = nic_at[place]
        wiring.join(place, nic, num_nics * kind.nic_bytes_per_s, kind.pcie_latency_ms)
        rate = num_nics * min(port, kind.nic_bytes_per_s)
        wiring.join(nic, leaf, rate, kind.nic_latency_ms)
    for gpu, switch in zip(gpus, part.switch, strict=True):
        socket = part.socket[switch]
        # GPUDirect where a NIC is on the GPU's own switch, otherwise over the host.
        near = [place for place in (switch, socket) if place in nic_at]
        place = near[0] if near else next(iter(nic_at))
        stops = [switch] if place == switch else [switch, socket, place]
        way = [gpu.name, *stops, nic_at[place], leaf]
        part.to_leaf.append(wiring.hops(*way))
        part.from_leaf.append(wiring.hops(*reversed(way)))


def _nic_places(node: Node) -> dict[str, int]:
    """Number of NICs at each vertex that has some."""
    kind = node.type
    num_switches = _num_switches(kind)
    if kind.num_nics % num_switches == 0:
        each = kind.num_nics // num_switches
        return {f"{node.name}/switch{i}": each for i in range(num_switches)}
    places: dict[str, int] = {}
    for position in range(kind.num_nics):
        socket = f"{node.name}/socket{position % kind.num_sockets}"
        places[socket] = places.get(socket, 0) + 1
    return places


def _num_switches(kind: NodeType) -> int:
    return -(-kind.num_gpus // kind.gpus_per_pcie_switch)


def _wire_fabric(wiring: Wiring, cluster: Cluster) -> None:
    fabric = cluster.fabric
    for link in fabric.links:
        if link.bytes_per_s == 0:
            continue
        a, b = (leaf_vertex(end) for end in link.between)
        wiring.join(a, b, link.bytes_per_s, link.latency_ms)
    if fabric.links or len(cluster.leaves) == 1:
        return
    below = dict.fromkeys(cluster.leaves, 0.0)
    for node in cluster.nodes:
        rate = node.type.num_nics * node.type.nic_bytes_per_s
        below[cluster.leaf_of(node)] += rate
    for leaf, rate in below.items():
        if rate > 0:
            uplink = rate / fabric.oversubscription_ratio
            wiring.join(leaf_vertex(leaf), "spine", uplink, fabric.hop_latency_ms)
