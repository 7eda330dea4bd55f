"""What a cluster holds and how fast its GPUs reach each other, as plain data."""

from collections.abc import Iterator
from enum import StrEnum
from itertools import combinations
from typing import Any

from clusters.cluster import Cluster
from clusters.links import Gpu
from clusters.node import Node, NodeType

MAX_SAMPLED_NODES = 64
"""Nodes whose pairs are looked at; more would add nothing but time."""


class Distance(StrEnum):
    """How far apart two GPUs are."""

    ISLAND = "same NVLink island"
    NODE = "same node"
    DOMAIN = "same NVLink domain"
    RACK = "same rack"
    RACKS = "across racks"


def facts_of_cluster(cluster: Cluster) -> dict[str, Any]:
    """Nodes by type, racks, and bandwidth between sampled pairs of GPUs."""
    racks = [leaf for leaf in cluster.leaves]
    return {
        "name": cluster.name,
        "description": cluster.description,
        "num_nodes": len(cluster.nodes),
        "num_gpus": cluster.num_gpus,
        "num_racks": len(racks),
        "usd_per_hour": cluster.usd_per_hour(range(cluster.num_gpus)),
        "oversubscription_ratio": cluster.fabric.oversubscription_ratio,
        "nodes": [
            _node_facts(cluster, node_type, members)
            for node_type, members in _by_type(cluster).items()
        ],
        "racks": [_rack_facts(cluster, rack) for rack in racks],
        "bandwidth": bandwidth_facts(cluster),
    }


def bandwidth_facts(cluster: Cluster) -> list[dict[str, Any]]:
    """Rates between sampled pairs: for each distance and GPU types the slowest.

    Of every node type and rack the first two nodes are sampled, at most
    `MAX_SAMPLED_NODES` in all. `node_bytes_per_s` is the rate between all GPUs of the
    two nodes together, where they are two.
    """
    topology = cluster.topology
    slowest: dict[tuple[Distance, str, str], tuple[float, Gpu, Gpu]] = {}
    for distance, a, b in _sampled_pairs(cluster):
        rate = topology.path(a.index, b.index).bytes_per_s
        key = (distance, a.type.name, b.type.name)
        if key not in slowest or rate < slowest[key][0]:
            slowest[key] = (rate, a, b)
    found = []
    order = list(Distance)
    for (distance, _, _), (rate, a, b) in sorted(
        slowest.items(), key=lambda item: order.index(item[0][0])
    ):
        path = topology.path(a.index, b.index)
        nodes = [topology.gpus_of_node(gpu.node) for gpu in (a, b)]
        together = topology.route(*nodes).bytes_per_s if a.node != b.node else None
        found.append(
            {
                "distance": str(distance),
                "from": a.name,
                "to": b.name,
                "gpus": " - ".join(dict.fromkeys([a.type.name, b.type.name])),
                "bytes_per_s": rate,
                "latency_ms": path.latency_ms,
                "link": str(path.kind),
                "node_bytes_per_s": together,
            }
        )
    return found


def _sampled_pairs(cluster: Cluster) -> Iterator[tuple[Distance, Gpu, Gpu]]:
    topology = cluster.topology
    sampled = _sampled_nodes(cluster)
    for node in sampled:
        islands = topology.islands(node)
        for island in islands:
            if len(island) > 1:
                yield _pair(cluster, Distance.ISLAND, island[0], island[1])
        for first, second in combinations(islands, 2):
            yield _pair(cluster, Distance.NODE, first[0], second[0])
    for a, b in combinations(sampled, 2):
        distance = _distance(cluster, cluster.nodes[a], cluster.nodes[b])
        ends = topology.gpus_of_node(a)[0], topology.gpus_of_node(b)[0]
        yield _pair(cluster, distance, *ends)


def _sampled_nodes(cluster: Cluster) -> list[int]:
    """Indices of the first two nodes of each type in each rack, evenly thinned out."""
    members: dict[tuple[str, NodeType], list[int]] = {}
    for index, node in enumerate(cluster.nodes):
        members.setdefault((cluster.leaf_of(node), node.type), []).append(index)
    chosen = sorted(index for group in members.values() for index in group[:2])
    stride = -(-len(chosen) // MAX_SAMPLED_NODES)
    return chosen[::stride]


def _pair(
    cluster: Cluster, distance: Distance, a: int, b: int
) -> tuple[Distance, Gpu, Gpu]:
    return distance, cluster.topology.gpu(a), cluster.topology.gpu(b)


def _distance(cluster: Cluster, a: Node, b: Node) -> Distance:
    if a.nvlink_domain is not None and a.nvlink_domain == b.nvlink_domain:
        return Distance.DOMAIN
    same_rack = cluster.leaf_of(a) == cluster.leaf_of(b)
    return Distance.RACK if same_rack else Distance.RACKS


def _by_type(cluster: Cluster) -> dict[NodeType, list[int]]:
    members: dict[NodeType, list[int]] = {}
    for index, node in enumerate(cluster.nodes):
        members.setdefault(node.type, []).append(index)
    return members


def _node_facts(
    cluster: Cluster, node_type: NodeType, members: list[int]
) -> dict[str, Any]:
    slots = [gpu for index in members for gpu in cluster.nodes[index].slots]
    prices = {cluster.nodes[index].price_usd_per_hour for index in members}
    sizes = [len(island) for island in cluster.topology.islands(members[0])]
    return {
        "type": node_type.name,
        "count": len(members),
        "gpus": " + ".join(dict.fromkeys(gpu.name for gpu in slots)),
        "num_gpus": len(slots),
        "interconnect": str(node_type.interconnect),
        "nvlink_islands": [size for size in sizes if size > 1],
        "num_nics": node_type.num_nics,
        "nic_bytes_per_s": node_type.nic_bytes_per_s,
        # None where nodes of the type differ in price: the total has it.
        "usd_per_hour": prices.pop() if len(prices) == 1 else None,
    }


def _rack_facts(cluster: Cluster, rack: str) -> dict[str, Any]:
    nodes = [node for node in cluster.nodes if cluster.leaf_of(node) == rack]
    return {
        "name": rack,
        "num_nodes": len(nodes),
        "num_gpus": sum(node.type.num_gpus for node in nodes),
    }
