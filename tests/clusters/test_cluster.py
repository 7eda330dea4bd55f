"""Cluster files: the short form, the explicit form, and what is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clusters.cluster import Cluster
from clusters.fields import InputError
from clusters.gpu import GpuType
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import dump_yaml
from tests.clusters.tiny_clusters import GB

Write = Callable[[str, str], Path]


def test_the_short_form_is_a_type_and_a_count(write: Write) -> None:
    path = write("mine.yaml", "nodes: [{type: p5.48xlarge, count: 4}]")
    cluster = Cluster.load(path)
    assert cluster.name == "mine"
    assert [node.name for node in cluster.nodes] == ["node0", "node1", "node2", "node3"]
    assert cluster.num_gpus == 32
    assert cluster.gpu_types() == (GpuType.load("h100_sxm"),)


def test_the_explicit_form_says_everything(write: Write) -> None:
    text = """
    name: lab
    nodes:
      - name: big
        type: {base: dgx_h100, nic_gbit_per_s: 100}
        rack: r0
        usd_per_hour: 20
      - name: small
        count: 2
        rack: r1
        type:
          name: box
          gpu: a6000
          num_gpus: 4
          interconnect: nvlink_pairs
          nvlink_pairs: [[0, 1], [2, 3]]
          num_nics: 1
          nic_gbit_per_s: 100
        gpus: [a6000, a6000, l40s, l40s]
    fabric:
      links:
        - {between: [r0, r1], gbit_per_s: 40, latency_us: 500}
    """
    cluster = Cluster.load(write("lab.yaml", text))
    assert [node.name for node in cluster.nodes] == ["big", "small-0", "small-1"]
    assert [gpu.name for gpu in cluster.gpu_types()] == ["h100_sxm", "a6000", "l40s"]
    topology = cluster.topology
    assert topology.gpus[10].type.name == "l40s"
    assert topology.gpus[10].name == "small-0/gpu2"
    assert topology.path(0, 8).bytes_per_s == 5 * GB  # 40 Gbit/s between the racks
    assert topology.path(8, 12).bytes_per_s == 12.5 * GB  # within rack r1
    # A pair's bridge needs NVLink on both sides, and an L40S has none.
    assert topology.islands(1) == ((8, 9), (10,), (11,))
    assert from_mapping(Cluster, to_mapping(cluster)) == cluster


@pytest.mark.parametrize("name", Cluster.names())
def test_examples_are_equal_after_writing_and_reading(name: str, write: Write) -> None:
    cluster = Cluster.load(name)
    assert from_mapping(Cluster, to_mapping(cluster)) == cluster
    if cluster.num_gpus < 100:
        path = write("copy.yaml", dump_yaml(to_mapping(cluster)))
        assert Cluster.load(path) == cluster


@pytest.mark.parametrize(
    ("name", "num_nodes", "gpu_counts"),
    [
        ("a100_1x4", 1, {"a100_sxm": 4}),
        ("four_nodes_a100", 4, {"a100_sxm": 32}),
        ("two_nodes_h100", 2, {"h100_sxm": 16}),
        ("eight_nodes_h200", 8, {"h200_sxm": 64}),
        ("mixed_h100_a100_l40s", 3, {"h100_sxm": 8, "a100_sxm": 8, "l40s": 8}),
        ("nvlink_pairs_a6000", 2, {"a6000": 8}),
        ("two_tier_oversubscribed", 4, {"h100_sxm": 32}),
        ("pool_24_t4_l4_a100", 24, {"a100_sxm_40gb": 4, "l4": 8, "t4": 12}),
        ("gb200_nvl72", 18, {"gb200": 72}),
        ("thousand_gpus", 125, {"h100_sxm": 360, "a100_sxm": 360, "l40s": 280}),
    ],
)
def test_examples_hold_what_their_names_say(
    name: str, num_nodes: int, gpu_counts: dict[str, int]
) -> None:
    cluster = Cluster.load(name)
    counts: dict[str, int] = {}
    for gpu in cluster.topology.gpus:
        counts[gpu.type.name] = counts.get(gpu.type.name, 0) + 1
    assert (len(cluster.nodes), counts) == (num_nodes, gpu_counts)
    assert cluster.description


def test_the_pool_is_connected_at_ten_gbit() -> None:
    topology = Cluster.load("pool_24_t4_l4_a100").topology
    assert topology.path(0, 23).bytes_per_s == 1.25 * GB


def test_gpus_cost_their_share_of_the_node() -> None:
    cluster = Cluster.load("mixed_h100_a100_l40s")
    # p5.48xlarge is 55.04 for 8, p4de.24xlarge 27.44705 for 8.
    assert cluster.usd_per_hour([0, 1]) == pytest.approx(2 * 55.04 / 8)
    assert cluster.usd_per_hour([7, 8]) == pytest.approx((55.04 + 27.44705) / 8)
    assert cluster.usd_per_hour([]) == 0.0


def test_an_unknown_price_makes_the_sum_unknown(write: Write) -> None:
    text = "nodes: [{type: p5e.48xlarge}, {type: p5e.48xlarge, usd_per_hour: 40}]"
    cluster = Cluster.load(write("c.yaml", text))
    assert cluster.usd_per_hour([0]) is None
    assert cluster.usd_per_hour([8, 9]) == pytest.approx(10.0)
    assert cluster.usd_per_hour([7, 8]) is None


TWO = "nodes: [{name: a, type: p5.48xlarge}, {name: b, type: p5.48xlarge}]\n"
THREE = TWO.replace("]\n", ", {name: c, type: p5.48xlarge}]\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: []", "nodes = []: expected at least one node"),
        ("node: [{type: p5.48xlarge}]", "node = [{'type': 'p5.48xlarge'}]: expected"),
        ("node: []", "nearest is 'nodes'"),
        ("{}", "nodes = None: expected a value"),
        ("nodes: [{type: p5.48xlrge}]", "nodes[0].type = 'p5.48xlrge': expected"),
        ("nodes: [{type: p5.48xlarge, cnt: 2}]", "nodes[0].cnt = 2: expected a known"),
        (
            "nodes: [{type: p5.48xlarge, count: 0}]",
            "nodes[0].count = 0: expected a number >= 1",
        ),
        (
            "nodes: [{type: p5.48xlarge, gpus: [h100_sxm]}]",
            "nodes[0].gpus = ['h100_sxm']: expected 8 GPUs",
        ),
        (
            "nodes: [{name: a, type: g6.xlarge}, {name: a, type: g6.xlarge}]",
            "nodes[1].name = 'a': expected a name that nodes[0] does not have",
        ),
        (
            "nodes: [{type: {base: g6.xlarge, nic_gb_per_s: .nan}}]",
            "nodes[0].type.nic_gb_per_s = nan: expected a finite number",
        ),
        (
            TWO + "fabric: {links: [{between: [a, b], gbit_per_s: -1}]}",
            "fabric.links[0].gbit_per_s = -1: expected",
        ),
        (
            TWO + "fabric: {links: [{between: [a, x], gbit_per_s: 1}]}",
            "fabric.links[0].between = ['a', 'x']: expected racks or nodes",
        ),
        (
            TWO + "fabric: {links: [{between: [a, a], gbit_per_s: 1}]}",
            "fabric.links[0].between = ['a', 'a']: expected two different",
        ),
        (
            TWO + "fabric: {links: [{between: [a, b], gbit_per_s: 1}, "
            "{between: [b, a], gbit_per_s: 1}]}",
            "fabric.links[1].between = ['b', 'a']: expected each pair once",
        ),
        (
            THREE + "fabric: {links: [{between: [a, b], gbit_per_s: 1}, "
            "{between: [b, c], gbit_per_s: 1}, {between: [c, a], gbit_per_s: 1}]}",
            "fabric.links[2].between = ['c', 'a']: expected links without a cycle",
        ),
        (
            THREE + "fabric: {links: [{between: [a, b], gbit_per_s: 1}]}",
            "fabric.links = 1: expected links that join all racks and nodes",
        ),
        (
            TWO + "fabric: {oversubscription_ratio: 0}",
            "fabric.oversubscription_ratio = 0.0: expected a number > 0",
        ),
    ],
)
def test_a_bad_file_is_one_line_with_file_key_value_and_form(
    write: Write, text: str, message: str
) -> None:
    path = write("bad.yaml", text)
    with pytest.raises(InputError) as caught:
        Cluster.load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_an_inline_cluster_is_checked_as_a_whole_too() -> None:
    data = {"nodes": [{"type": {"base": "g6.xlarge", "num_nics": 0}, "count": 2}]}
    with pytest.raises(InputError, match=r"^cluster.nodes\[0\].type.num_nics = 0"):
        from_mapping(Cluster, data, where="cluster")


def test_cycles_are_allowed_when_the_file_says_so(write: Write) -> None:
    links = [
        {"between": p, "gb_per_s": 1} for p in (["a", "b"], ["b", "c"], ["c", "a"])
    ]
    data = dump_yaml({"fabric": {"links": links, "allow_cycles": True}})
    cluster = Cluster.load(write("ring.yaml", THREE + data))
    assert len(cluster.topology.components()) == 1


def test_a_cluster_may_stand_in_another_file_by_name_or_path(write: Write) -> None:
    write("c.yaml", TWO)
    problem = write("problem.yaml", "unused: true")
    by_path = from_mapping(Cluster, "c.yaml", where="cluster", file=str(problem))
    assert by_path.num_gpus == 16
    by_name = from_mapping(Cluster, "a100_1x4", where="cluster", file=str(problem))
    assert by_name.num_gpus == 4
    with pytest.raises(InputError, match=r"problem.yaml: cluster = 'a100_1x5': .*near"):
        from_mapping(Cluster, "a100_1x5", where="cluster", file=str(problem))


def test_importing_clusters_leaves_heavy_libraries_out() -> None:
    heavy = "{'networkx', 'numpy', 'scipy', 'numba'}"
    code = f"import sys, clusters.cluster; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
