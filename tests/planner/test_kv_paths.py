"""KV paths: what is remembered by pattern is what the topology answers."""

import numpy as np
import pytest

from clusters.cluster import Cluster
from planner.kv_paths import KvPaths, edge_loads
from tests.planner.tiny_problems import tiny_cluster


@pytest.mark.parametrize("name", Cluster.names())
def test_a_transfer_is_the_route_of_the_topology(name):
    cluster = Cluster.load(name)
    topology, paths = cluster.topology, KvPaths.of(cluster)
    rng = np.random.default_rng(0)
    num_gpus = len(topology.gpus)
    for _ in range(60):
        size, other = (int(n) for n in rng.choice([1, 2, 4, 8], 2))
        size, other = min(size, num_gpus // 2), min(other, num_gpus // 2)
        first = int(rng.integers(0, num_gpus - size + 1))
        second = int(rng.integers(0, num_gpus - other + 1))
        sources = tuple(range(first, first + size))
        targets = tuple(range(second, second + other))
        if set(sources) & set(targets):
            continue
        found = paths.transfer(sources, targets)
        path = topology.route(sources, targets)
        assert found.edges == path.edges
        assert found.bytes_per_s == path.bytes_per_s
        assert found.latency_ms == path.latency_ms
        assert found.kind is path.kind
        loads = edge_loads(topology, sources, targets)
        assert found.shares == tuple(loads[edge] for edge in found.edges)


def test_a_second_transfer_of_a_pattern_is_not_worked_out(monkeypatch):
    cluster = tiny_cluster(4)
    paths = KvPaths.of(cluster)
    first = paths.transfer((0,), (4,))
    monkeypatch.setattr(paths, "_work_out", None)
    second = paths.transfer((8,), (12,))  # the same GPUs of two other nodes
    assert second.bytes_per_s == first.bytes_per_s
    assert not set(second.edges) & set(first.edges)


def test_paths_of_a_cluster_are_made_once():
    cluster = tiny_cluster(2)
    assert KvPaths.of(cluster) is KvPaths.of(cluster)
