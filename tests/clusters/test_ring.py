"""Ring bandwidth of GPU sets; the tiny node is described in test_topology."""

import pytest

from clusters.cluster import Cluster
from clusters.fields import InputError
from clusters.links import LinkKind
from clusters.mapping import from_mapping
from tests.clusters.tiny_clusters import GB, make_tiny_cluster, make_tiny_gpu


def test_one_gpu_needs_no_ring() -> None:
    link = make_tiny_cluster().topology.ring([2])
    assert (link.latency_ms, link.kind) == (0.0, LinkKind.LOCAL)


def test_ring_bandwidth_is_the_slowest_edge() -> None:
    topology = make_tiny_cluster().topology
    assert topology.ring([0, 1]).bytes_per_s == 10 * GB
    # Each direction between the sockets (5 GB/s) is crossed once.
    assert topology.ring([0, 1, 2, 3]).bytes_per_s == 5 * GB
    assert topology.ring([0, 1, 2, 3]).kind is LinkKind.PCIE


def test_a_bridged_pair_has_nvlink_and_two_pairs_have_pcie() -> None:
    topology = make_tiny_cluster(
        gpu=make_tiny_gpu(nvlink_gb_per_s=40),
        interconnect="nvlink_pairs",
        nvlink_pairs=[[0, 1], [2, 3]],
    ).topology
    assert topology.ring([0, 1]).bytes_per_s == 40 * GB
    assert topology.ring([0, 1]).kind is LinkKind.NVLINK
    assert topology.ring([0, 1, 2, 3]).bytes_per_s == 5 * GB
    assert topology.ring([1, 2]).bytes_per_s == 5 * GB


def test_an_nvswitch_gives_every_group_the_nvlink_rate() -> None:
    topology = make_tiny_cluster(
        gpu=make_tiny_gpu(nvlink_gb_per_s=40), interconnect="nvswitch"
    ).topology
    assert topology.ring([0, 3]).bytes_per_s == 40 * GB
    assert topology.ring([3, 1, 0, 2]).bytes_per_s == 40 * GB


def test_a_mesh_gives_a_group_its_links_to_each_other() -> None:
    # 30 GB/s to three peers: 10 GB/s a pair; a GPU has n - 1 peers in the group.
    topology = make_tiny_cluster(
        gpu=make_tiny_gpu(nvlink_gb_per_s=30), interconnect="mesh"
    ).topology
    for group, expected in [([0, 1], 10), ([0, 1, 2], 20), ([0, 1, 2, 3], 30)]:
        assert topology.ring(group).bytes_per_s == pytest.approx(expected * GB)


def test_the_cube_mesh_of_v100_uses_all_six_links() -> None:
    cluster = from_mapping(Cluster, {"nodes": [{"type": "p3.16xlarge"}]})
    assert cluster.topology.ring(range(8)).bytes_per_s == 6 * 25 * GB
    # GPUs 0 and 3 share two links, 0 and 5 none: PCIe gen 3, but for the sockets.
    assert cluster.topology.ring([0, 3]).bytes_per_s == 2 * 25 * GB
    assert cluster.topology.ring([0, 5]).kind is LinkKind.PCIE


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ([0, 4], 2.0),  # one NIC a node
        ([0, 1, 4, 5], 2.0),  # both GPUs of a node behind one NIC
        ([0, 2, 4, 6], 4.0),  # two NICs a node, below the 5 GB/s within
        (range(8), 4.0),
    ],
)
def test_a_ring_over_nodes_uses_the_nics_next_to_its_gpus(
    group: list[int], expected: float
) -> None:
    link = make_tiny_cluster(2).topology.ring(group)
    assert link.bytes_per_s == expected * GB
    assert link.kind is LinkKind.NETWORK


def test_gpus_cannot_feed_nics_beyond_their_pcie_rate() -> None:
    topology = make_tiny_cluster(
        2,
        gpu=make_tiny_gpu(nvlink_gb_per_s=100),
        interconnect="nvswitch",
        nic_bytes_per_s=50 * GB,
    ).topology
    # Two GPUs of 10 GB/s before each of two 50 GB/s NICs.
    assert topology.ring(range(8)).bytes_per_s == 40 * GB
    assert topology.ring([0, 4]).bytes_per_s == 10 * GB


def test_nodes_of_eight_h100_ring_at_the_rate_of_all_nics() -> None:
    # 32 NICs of 100 Gbit/s: 400 GB/s a node, below NVLink's 450 GB/s.
    topology = Cluster.load("two_nodes_h100").topology
    assert topology.ring(range(16)).bytes_per_s == 400 * GB
    assert topology.ring(range(8)).bytes_per_s == 450 * GB


def test_an_oversubscribed_spine_limits_rings_over_racks() -> None:
    # Two nodes of 8 x 50 GB/s below a leaf, 4:1: 200 GB/s up.
    topology = Cluster.load("two_tier_oversubscribed").topology
    assert topology.ring(range(16)).bytes_per_s == 400 * GB
    assert topology.ring(range(32)).bytes_per_s == 200 * GB


def test_an_nvlink_domain_rings_over_its_nodes() -> None:
    assert Cluster.load("gb200_nvl72").topology.ring(range(72)).bytes_per_s == 900 * GB


@pytest.mark.parametrize("group", [[], [0, 0]])
def test_a_ring_needs_different_gpus(group: list[int]) -> None:
    with pytest.raises(InputError, match="different GPUs"):
        make_tiny_cluster().topology.ring(group)
