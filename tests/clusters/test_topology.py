"""Paths, parallel transfers and contention, on nodes whose numbers are derived here.

The tiny node (tiny_clusters.py): GPUs 0 and 1 on switch 0 and socket 0, GPUs 2 and 3 on
switch 1 and socket 1; PCIe 10 GB/s, between sockets 5 GB/s, one 2 GB/s NIC a switch.
A PCIe hop takes 1 ms, a NIC to or from its leaf 10 ms, NVLink 0.25 ms.
"""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.cluster import Cluster
from clusters.fields import InputError
from clusters.links import LinkKind
from clusters.mapping import from_mapping, to_mapping
from clusters.topology import Topology
from tests.clusters.tiny_clusters import GB, make_tiny_cluster, make_tiny_gpu


def vertices(cluster: Cluster, a: int, b: int) -> list[str]:
    topology = cluster.topology
    edges = [topology.edges[edge] for edge in topology.path(a, b).edges]
    return [edges[0].source, *(edge.target for edge in edges)]


def test_gpus_on_one_switch_talk_through_it() -> None:
    path = make_tiny_cluster().topology.path(0, 1)
    assert path.bytes_per_s == 10 * GB
    assert path.latency_ms == 2.0
    assert path.kind is LinkKind.PCIE


def test_gpus_on_two_sockets_are_limited_by_the_link_between_sockets() -> None:
    cluster = make_tiny_cluster()
    assert vertices(cluster, 0, 3) == [
        "node0/gpu0",
        "node0/switch0",
        "node0/socket0",
        "node0/socket1",
        "node0/switch1",
        "node0/gpu3",
    ]
    assert cluster.topology.path(0, 3).bytes_per_s == 5 * GB
    assert cluster.topology.path(0, 3).latency_ms == 5.0


def test_a_path_to_another_node_uses_the_nic_on_the_gpus_own_switch() -> None:
    cluster = make_tiny_cluster(2)
    assert vertices(cluster, 2, 5) == [
        "node0/gpu2",
        "node0/switch1",
        "node0/nic1",
        "leaf:rack0",
        "node1/nic0",
        "node1/switch0",
        "node1/gpu1",
    ]
    path = cluster.topology.path(2, 5)
    assert path.bytes_per_s == 2 * GB
    assert path.latency_ms == 1 + 1 + 10 + 10 + 1 + 1
    assert path.kind is LinkKind.NETWORK


def test_a_nic_that_does_not_divide_over_the_switches_is_on_the_host() -> None:
    cluster = make_tiny_cluster(2, num_nics=1)
    assert vertices(cluster, 2, 4)[:6] == [
        "node0/gpu2",
        "node0/switch1",
        "node0/socket1",
        "node0/socket0",
        "node0/nic0",
        "leaf:rack0",
    ]


def test_nics_at_one_place_add_up() -> None:
    topology = make_tiny_cluster(2, num_nics=6).topology  # 3 a switch, 2 GB/s each
    assert topology.path(0, 4).bytes_per_s == 6 * GB


@pytest.mark.parametrize(
    ("fields", "pair", "other"),
    [
        # The bridge joins 0 and 1 at 40; 1 and 2 have PCIe and the sockets (5).
        ({"interconnect": "nvlink_pairs", "nvlink_pairs": [[0, 1]]}, 40, 5),
        ({"interconnect": "nvswitch"}, 40, 40),
        # 40 in all, shared out among 3 peers.
        ({"interconnect": "mesh"}, 40 / 3, 40 / 3),
    ],
)
def test_paths_in_a_node_prefer_nvlink(
    fields: dict[str, object], pair: float, other: float
) -> None:
    gpu = make_tiny_gpu(nvlink_gb_per_s=40)
    topology = make_tiny_cluster(gpu=gpu, **fields).topology
    assert topology.path(0, 1).bytes_per_s == pytest.approx(pair * GB)
    assert topology.path(0, 1).latency_ms == pytest.approx(0.25)
    assert topology.path(0, 1).kind is LinkKind.NVLINK
    assert topology.path(1, 2).bytes_per_s == pytest.approx(other * GB)


def test_a_gpu_reaches_itself_at_its_memory_rate() -> None:
    path = make_tiny_cluster().topology.path(1, 1)
    assert (path.edges, path.bytes_per_s, path.latency_ms) == ((), 1000 * GB, 0.0)


def racked(fabric: dict[str, object]) -> Cluster:
    """Two racks of one tiny node each."""
    node = to_mapping(make_tiny_cluster().nodes[0].type)
    nodes = [{"type": node, "rack": "r0"}, {"type": node, "rack": "r1"}]
    return from_mapping(Cluster, {"nodes": nodes, "fabric": fabric})


def test_an_oversubscribed_uplink_carries_its_part_of_the_nics_below() -> None:
    # Two NICs of 2 GB/s below each leaf: 4 GB/s, 4:1 oversubscribed: 1 GB/s up.
    topology = racked({"oversubscription_ratio": 4, "hop_latency_ms": 3}).topology
    path = topology.path(0, 4)
    assert path.bytes_per_s == 1 * GB
    assert path.latency_ms == 24 + 2 * 3
    # Two transfers over it share it, although each has NICs of its own.
    assert list(topology.fair_rates([(0, 4), (2, 6)])) == [0.5 * GB, 0.5 * GB]


def test_a_slow_leaf_port_limits_the_nic_on_it() -> None:
    cluster = make_tiny_cluster(2, fabric={"leaf_port_gbit_per_s": 12})
    assert cluster.topology.path(0, 4).bytes_per_s == 1.5 * GB


def linked(links: list[dict[str, object]], num_nodes: int = 3) -> Cluster:
    fabric = {"links": links, "allow_cycles": True}
    return make_tiny_cluster(num_nodes, fabric=fabric)


def test_explicit_links_are_taken_over_the_widest_way() -> None:
    # Directly 0.5 GB/s, over node2 1 GB/s.
    topology = linked(
        [
            {"between": ["node0", "node1"], "gb_per_s": 0.5},
            {"between": ["node0", "node2"], "gb_per_s": 1},
            {"between": ["node2", "node1"], "gb_per_s": 1},
        ]
    ).topology
    assert topology.path(0, 4).bytes_per_s == 1 * GB
    assert topology.path(0, 8).bytes_per_s == 1 * GB


def test_of_equally_wide_ways_the_shortest_is_taken() -> None:
    topology = linked(
        [
            {"between": [a, b], "gb_per_s": 1}
            for a, b in [("node0", "node1"), ("node0", "node2"), ("node2", "node1")]
        ]
    ).topology
    assert len(topology.path(0, 4).edges) == 3 + 1 + 3


def test_parts_that_nothing_joins_are_components_without_paths() -> None:
    cluster = linked([{"between": ["node0", "node1"], "gb_per_s": 1}])
    topology = cluster.topology
    assert topology.components() == ((0, 1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11))
    with pytest.raises(InputError, match="GPUs that some way joins"):
        topology.path(0, 8)
    with pytest.raises(InputError, match=r"node0.*node2.*not joined"):
        cluster.validate()


def test_a_link_that_is_down_joins_nothing_unless_islands_are_allowed() -> None:
    down = linked([{"between": ["node0", "node1"], "gb_per_s": 0}])
    assert down.topology.components() == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    with pytest.raises(InputError, match=r"node0.*node1.*node2.*allow_islands"):
        down.validate()
    fabric = replace(down.fabric, allow_islands=True)
    replace(down, fabric=fabric).validate()
    with pytest.raises(InputError, match="GPUs that some way joins"):
        down.topology.path(0, 4)


def test_a_node_without_nics_stands_alone() -> None:
    cluster = make_tiny_cluster(2, num_nics=0)
    assert cluster.topology.components() == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert make_tiny_cluster(1, num_nics=0).topology.components() == ((0, 1, 2, 3),)
    with pytest.raises(InputError, match=r"nodes\[0\].type.num_nics = 0"):
        cluster.validate()


def test_transfers_through_one_nic_share_it() -> None:
    topology = make_tiny_cluster(2).topology
    # GPUs 0 and 1 are behind NIC 0 (2 GB/s), GPU 2 behind NIC 1.
    rates = topology.fair_rates([(0, 4), (1, 5), (2, 6), (3, 3)])
    assert list(rates) == [1 * GB, 1 * GB, 2 * GB, 1000 * GB]


@pytest.mark.parametrize(
    ("sources", "targets", "expected"),
    [
        ([0, 2], [4, 6], 4.0),  # two NICs on both ends
        ([0, 1], [4, 5], 2.0),  # one NIC on both ends
        ([0, 2], [4, 5], 2.0),  # two shards into one NIC, 1 GB/s each
        ([0], [4, 6], 2.0),  # two shards out of one NIC, 1 GB/s each
        ([0, 1, 2, 3], [4], 2.0),  # 4 shards into one NIC, 0.5 GB/s each
    ],
)
def test_a_route_moves_equal_shards_at_the_pace_of_the_slowest(
    sources: list[int], targets: list[int], expected: float
) -> None:
    route = make_tiny_cluster(2).topology.route(sources, targets)
    assert route.bytes_per_s == pytest.approx(expected * GB)
    assert route.kind is LinkKind.NETWORK


def test_group_links_are_rings_of_stages_and_hops_between_them() -> None:
    links = make_tiny_cluster().topology.group_links(((0, 1), (2, 3)))
    assert [link.bytes_per_s for link in links.tp] == [10 * GB, 10 * GB]
    # Shards 0->2 and 1->3 share the 5 GB/s between the sockets.
    assert [link.bytes_per_s for link in links.pp] == [5 * GB]
    assert [link.latency_ms for link in links.pp] == [5.0]


def test_tensor_groups_within_a_stage_have_rings_of_their_own() -> None:
    # Two nodes of four on an NVSwitch: 40 GB/s within a group of four, the NICs of a
    # node between them.
    gpu = make_tiny_gpu(nvlink_gb_per_s=40)
    topology = make_tiny_cluster(2, gpu=gpu, interconnect="nvswitch").topology
    links = topology.group_links((range(8),), tp=4)
    assert [link.bytes_per_s for link in links.inner] == [40 * GB]
    assert links.inner[0].kind is LinkKind.NVLINK
    assert links.tp[0].kind is LinkKind.NETWORK
    assert links.tp[0].bytes_per_s < 40 * GB
    # Four GPUs of a node behind the same NICs; an NVSwitch is shared by nobody.
    assert (links.tp[0].sharers, links.inner[0].sharers) == (4, 1)
    assert topology.group_links((range(8),)).inner == ()


def test_islands_are_what_nvlink_joins() -> None:
    gpu = make_tiny_gpu(nvlink_gb_per_s=40)
    pairs = {"interconnect": "nvlink_pairs", "nvlink_pairs": [[0, 2]]}
    assert make_tiny_cluster().topology.islands(0) == ((0,), (1,), (2,), (3,))
    assert make_tiny_cluster(2, gpu=gpu, **pairs).topology.islands(1) == (
        (4, 6),
        (5,),
        (7,),
    )
    assert make_tiny_cluster(2, gpu=gpu, interconnect="nvswitch").topology.islands(
        1
    ) == ((4, 5, 6, 7),)


def test_an_nvlink_domain_spans_nodes() -> None:
    topology = Cluster.load("gb200_nvl72").topology
    assert topology.path(0, 71).kind is LinkKind.NVLINK
    assert topology.path(0, 71).bytes_per_s == 900 * GB
    assert topology.components() == (tuple(range(72)),)


def test_the_graph_names_kinds_and_rates() -> None:
    graph = make_tiny_cluster(2).topology.graph
    kinds = nx.get_node_attributes(graph, "kind")
    assert sorted(set(kinds.values())) == ["gpu", "leaf", "nic", "socket", "switch"]
    assert graph.edges["node0/nic0", "leaf:rack0"] == {
        "bytes_per_s": 2 * GB,
        "latency_ms": 10.0,
    }


@pytest.mark.parametrize("bad", [-1, 4])
def test_an_index_that_does_not_exist_is_an_input_error(bad: int) -> None:
    topology = make_tiny_cluster().topology
    with pytest.raises(InputError, match="a GPU between 0 and 3"):
        topology.path(0, bad)
    with pytest.raises(InputError, match="a node between 0 and 0"):
        topology.islands(bad)


@cache
def example(name: str) -> Topology:
    return Cluster.load(name).topology


@pytest.mark.parametrize("name", Cluster.names())
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_there_and_back_have_one_bottleneck_and_latency(
    name: str, data: st.DataObject
) -> None:
    topology = example(name)
    index = st.integers(0, len(topology.gpus) - 1)
    a, b = data.draw(index), data.draw(index)
    there, back = topology.path(a, b), topology.path(b, a)
    assert there.bytes_per_s == back.bytes_per_s
    assert there.latency_ms == pytest.approx(back.latency_ms)
    if a != b:
        ends = [topology.edges[edge] for edge in there.edges]
        assert ends[0].source == topology.gpus[a].name
        assert ends[-1].target == topology.gpus[b].name
        assert all(x.target == y.source for x, y in pairwise(ends))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 23), st.integers(0, 23)), min_size=1, max_size=12)
)
def test_fair_rates_fill_no_edge_beyond_its_capacity(
    transfers: list[tuple[int, int]],
) -> None:
    topology = example("mixed_h100_a100_l40s")
    rates = topology.fair_rates(transfers)
    load = np.zeros(len(topology.edges))
    for (a, b), rate in zip(transfers, rates, strict=True):
        path = topology.path(a, b)
        load[list(path.edges)] += rate
        assert rate <= path.bytes_per_s * (1 + 1e-6)
    assert (load <= topology.capacity_bytes_per_s * (1 + 1e-6)).all()


def test_gpus_of_a_thousand_are_joined_both_ways() -> None:
    topology = Cluster.load("thousand_gpus").topology
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, 1000, size=(500, 2)).tolist():
        if a != b:
            path = topology.path(a, b)
            assert path.edges
            assert path.bytes_per_s == topology.path(b, a).bytes_per_s
