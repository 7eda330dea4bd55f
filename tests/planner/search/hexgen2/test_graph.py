"""The bandwidth graph of tiny clusters."""

import numpy as np

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from planner.search.hexgen2.graph import gpu_graph
from tests.planner.tiny_problems import tiny_cluster


def test_nvlink_inside_a_node_and_nics_between():
    # 100 GB/s within a node; one NIC of 2 GB/s a node.
    graph = gpu_graph(tiny_cluster(2, 2))
    inside, between = 100e9, 2e9
    expected = [
        [0, inside, between, between],
        [inside, 0, between, between],
        [between, between, 0, inside],
        [between, between, inside, 0],
    ]
    assert np.array_equal(graph.bytes_per_s, np.array(expected, dtype=float))
    assert np.array_equal(graph.memory_bytes, np.full(4, 8 * 2.0**30))
    assert graph.between((0, 1), (2, 3)) == 4 * between


def test_gpus_that_nothing_joins_have_no_bandwidth():
    nodes = tiny_cluster(2, 1, num_nics=0).nodes
    graph = gpu_graph(Cluster(name="apart", nodes=nodes, fabric=Fabric()))
    assert not graph.bytes_per_s.any()
