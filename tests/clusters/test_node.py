"""Node types and nodes."""

import dataclasses
import types

import pytest

from clusters.fields import InputError
from clusters.gpu import GpuType
from clusters.mapping import from_mapping, to_mapping
from clusters.node import Interconnect, Node, NodeType
from tests.clusters.tiny_clusters import GB, make_tiny_gpu, make_tiny_node

# NIC rate of a whole node in one direction, as the providers state it in Gbit/s.
NETWORK_GBIT_PER_S = {
    "p3.16xlarge": 25,
    "p4d.24xlarge": 400,
    "p4de.24xlarge": 400,
    "p5.48xlarge": 3200,
    "p5e.48xlarge": 3200,
    "p5en.48xlarge": 3200,
    "p6-b200.48xlarge": 3200,
    "g4dn.12xlarge": 50,
    "g5.48xlarge": 100,
    "g6.48xlarge": 100,
    "g6e.48xlarge": 400,
    "a2-highgpu-8g": 100,
    "a3-highgpu-8g": 800,
    "a3-megagpu-8g": 1600,
    "a3-ultragpu-8g": 3200,
    "a4-highgpu-8g": 3200,
    "nd_a100_v4": 1600,
    "nd_h100_v5": 3200,
    "nd_h200_v5": 3200,
    "nd_mi300x_v5": 3200,
    "bm_gpu_h100_8": 3200,
    "dgx_a100": 1600,
    "dgx_h100": 3200,
}


@pytest.mark.parametrize("name", NETWORK_GBIT_PER_S)
def test_nics_add_up_to_the_network_rate_of_the_instance(name: str) -> None:
    node = NodeType.load(name)
    total = node.num_nics * node.nic_bytes_per_s
    assert total == pytest.approx(NETWORK_GBIT_PER_S[name] / 8 * GB)


@pytest.mark.parametrize("name", NodeType.names())
def test_every_number_of_the_catalogue_has_a_source_and_date(name: str) -> None:
    node = NodeType.load(name)
    for field in dataclasses.fields(node):
        is_number = field.type in (int, float) or isinstance(
            field.type, types.UnionType
        )
        if is_number and getattr(node, field.name) is not None:
            source = node.source_of(field.name)
            assert source is not None, field.name
            assert source.source
            assert source.date[:2] == "20"


@pytest.mark.parametrize("name", NodeType.names())
def test_catalogue_entries_are_equal_after_writing_and_reading(name: str) -> None:
    node = NodeType.load(name)
    assert to_mapping(node) == name
    assert from_mapping(NodeType, name) == node
    # And with all fields written out, under a name of one's own.
    own = dataclasses.replace(node, name="own")
    assert from_mapping(NodeType, to_mapping(own)) == own


def test_an_unknown_price_is_none_and_a_known_one_is_dated() -> None:
    assert NodeType.load("p5e.48xlarge").usd_per_hour is None
    h100 = NodeType.load("p5.48xlarge")
    assert h100.usd_per_hour == 55.04  # 6.88 a GPU-hour
    source = h100.source_of("usd_per_hour")
    assert source is not None
    assert "usd_per_hour" in source.fields


def test_a_base_is_changed_where_the_file_says_so() -> None:
    node = from_mapping(NodeType, {"base": "g6.xlarge", "nic_gb_per_s": 1.25})
    base = NodeType.load("g6.xlarge")
    # The catalogue says nic_gbit_per_s: the other unit takes its place.
    assert node.nic_bytes_per_s == 1.25 * GB
    assert node.gpu == base.gpu
    assert node.usd_per_hour == base.usd_per_hour
    assert node.name == "g6.xlarge (changed)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "p5.48xlrge"}, "base = 'p5.48xlrge': .*nearest is 'p5.48xlarge'"),
        ({"base": "g6.xlarge", "num_gpu": 2}, "num_gpu = 2: .*nearest is 'num_gpus'"),
        ({"base": "g6.xlarge", "num_gpus": 0}, "num_gpus = 0: expected a number >= 1"),
        (
            {"base": "g6.xlarge", "nic_gbit_per_s": -1},
            "nic_gbit_per_s = -1: expected nic_bytes_per_s to be a number > 0",
        ),
        ({"base": "g6.xlarge", "usd_per_hour": 0}, "usd_per_hour = 0.0: expected a n"),
        ({"base": "p5.48xlarge", "interconnect": "nvlink"}, "interconnect = 'nvlink'"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(NodeType, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interconnect": "nvswitch"}, "'pcie', as tiny has no NVLink"),
        ({"interconnect": "nvlink_pairs"}, "at least one pair"),
        ({"nvlink_pairs": [[0, 1]]}, "'nvlink_pairs', as pairs are given"),
        (
            {"interconnect": "nvlink_pairs", "nvlink_pairs": [[0, 4]]},
            "nvlink_pairs = .0, 4.: expected two different GPUs between 0 and 3",
        ),
        (
            {
                "interconnect": "mesh",
                "gpu_links": [{"between": [1, 1], "gb_per_s": 1}],
            },
            "gpu_links = .1, 1.: expected two different GPUs",
        ),
        (
            {"gpu_links": [{"between": [0, 1], "gb_per_s": 1}]},
            "'mesh', as gpu_links are given",
        ),
        (
            {
                "interconnect": "mesh",
                "gpu_links": [{"between": [0, 1], "gb_per_s": 0}],
            },
            r"gpu_links\[0\].gb_per_s = 0: expected",
        ),
    ],
)
def test_links_must_suit_the_interconnect(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_tiny_node(**changes)


def test_a_node_may_mix_gpus_slot_by_slot() -> None:
    other = dataclasses.replace(make_tiny_gpu(), name="other")
    kind = make_tiny_node()
    node = Node(name="n", type=kind, gpus=(kind.gpu, other, kind.gpu, kind.gpu))
    assert [gpu.name for gpu in node.slots] == ["tiny", "other", "tiny", "tiny"]
    with pytest.raises(InputError, match="4 GPUs, one a slot of tiny_node"):
        Node(name="n", type=kind, gpus=(other,))


def test_naming_the_node_types_own_gpus_is_saying_nothing() -> None:
    kind = make_tiny_node()
    assert Node(name="n", type=kind, gpus=(kind.gpu,) * 4) == Node(name="n", type=kind)


def test_an_nvlink_domain_needs_an_nvswitch() -> None:
    with pytest.raises(InputError, match="a node type with an NVSwitch"):
        Node(name="n", type=make_tiny_node(), nvlink_domain="d")


def test_a_single_gpu_needs_no_nvlink_on_an_nvswitch() -> None:
    node = make_tiny_node(num_gpus=1, interconnect="nvswitch")
    assert node.interconnect is Interconnect.NVSWITCH
    assert GpuType.load("t4").nvlink_bytes_per_s == 0
