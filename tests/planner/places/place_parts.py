"""Clusters of hosts of several sizes, for tests of places."""

from dataclasses import replace

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.node import Node
from tests.planner.tiny_problems import tiny_cluster


def hosts_of(*sizes: int, nic_bytes_per_s: float = 1e5) -> Cluster:
    """A node of each size, GPUs numbered through, with one slow NIC each."""
    nodes = []
    for number, size in enumerate(sizes):
        whole = tiny_cluster(1, size, nic_bytes_per_s=nic_bytes_per_s).nodes[0]
        kind = replace(whole.type, name=f"tiny x{size}")
        nodes.append(Node(name=f"node{number}", type=kind))
    return Cluster(name="hosts", nodes=tuple(nodes), fabric=Fabric())
