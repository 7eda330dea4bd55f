"""Clusters are shown with what links give, and files are checked."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clusters.cluster import Cluster
from tests.planner.cli.conftest import one_error

TINY = """\
nodes:
  - {name: left, type: dgx_a100}
  - {name: right, type: dgx_a100}
"""


def pairs_of(phaseplan: Callable[..., Any], cluster: object) -> dict[str, Any]:
    """Sampled pairs by their distance (of clusters with one GPU type)."""
    ended = phaseplan("cluster", "show", cluster, "--format", "json")
    return {pair["distance"]: pair for pair in json.loads(ended.stdout)["bandwidth"]}


def test_racks_that_share_an_up_link_get_less_together(
    phaseplan: Callable[..., Any],
) -> None:
    pairs = pairs_of(phaseplan, "two_tier_oversubscribed")
    # A node has 8 NICs of 50 GB/s; a rack of two of them a quarter of 2 x 400 upwards.
    assert pairs["same NVLink island"]["bytes_per_s"] == 450e9
    assert pairs["same rack"]["bytes_per_s"] == 50e9
    assert pairs["same rack"]["node_bytes_per_s"] == 400e9
    assert pairs["across racks"]["bytes_per_s"] == 50e9
    assert pairs["across racks"]["node_bytes_per_s"] == 200e9


def test_bridged_pairs_are_islands_in_a_pcie_node(
    phaseplan: Callable[..., Any],
) -> None:
    pairs = pairs_of(phaseplan, "nvlink_pairs_a6000")
    assert pairs["same NVLink island"]["link"] == "nvlink"
    assert pairs["same node"]["link"] == "pcie"


def test_nodes_of_one_nvlink_domain_need_no_network(
    phaseplan: Callable[..., Any],
) -> None:
    pair = pairs_of(phaseplan, "gb200_nvl72")["same NVLink domain"]
    assert (pair["link"], pair["bytes_per_s"]) == ("nvlink", 900e9)


def test_nodes_are_counted_by_type(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("cluster", "show", "mixed_h100_a100_l40s", "--format", "json")
    facts = json.loads(ended.stdout)
    assert [(node["gpus"], node["num_gpus"]) for node in facts["nodes"]] == [
        ("h100_sxm", 8),
        ("a100_sxm", 8),
        ("l40s", 8),
    ]
    # The three prices of the instances' catalogue.
    assert facts["usd_per_hour"] == pytest.approx(55.04 + 27.44705 + 30.13118)


@pytest.mark.parametrize("name", Cluster.names())
def test_every_example_fits_in_a_hundred_columns(
    name: str, phaseplan: Callable[..., Any]
) -> None:
    ended = phaseplan("cluster", "show", name)
    assert (ended.code, ended.stderr) == (0, "")
    assert max(len(line) for line in ended.stdout.splitlines()) <= 100


def test_valid_file_is_said_to_be(
    tmp_path: Path, phaseplan: Callable[..., Any]
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    ended = phaseplan("cluster", "validate", path)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == f"ok: {path}: 2 nodes, 16 GPUs, all joined\n"
    assert phaseplan("cluster", "validate", path, "--quiet").stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nodes: [{type: dgx_a10}]\n",
            "nodes[0].type = 'dgx_a10': expected a name in the catalogue of instances "
            "(nearest is 'dgx_a100')",
        ),
        (
            "nodes: [{type: dgx_a100, cuont: 2}]\n",
            "nodes[0].cuont = 2: expected a known key (nearest is 'count')",
        ),
        (
            "nodes: [{type: dgx_a100, count: 0}]\n",
            "count = 0: expected a number >= 1 and <= 10000",
        ),
        ("nodes: [\n", "expected YAML ("),
        (
            "nodes: [{name: a, type: dgx_a100}, {name: b, type: dgx_a100},"
            " {name: c, type: dgx_a100}]\n"
            "fabric: {links: [{between: [a, b], gbit_per_s: 400}]}\n",
            "['a', 'c'] are not joined",
        ),
    ],
    ids=["unknown name", "unknown key", "range", "syntax", "disconnected"],
)
def test_bad_file_is_one_line_that_names_it(
    text: str, message: str, tmp_path: Path, phaseplan: Callable[..., Any]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    ended = phaseplan("cluster", "validate", path)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {path}")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_missing_file_is_named(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("cluster", "validate", "gone.yaml")
    assert ended.code == 2
    assert ended.stderr == "error: gone.yaml: 'gone.yaml': expected an existing file\n"


def test_plan_is_drawn_on_its_cluster(
    phaseplan: Callable[..., Any], plan_file: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "plan.svg"
    ended = phaseplan("cluster", "show", "--plan", plan_file, "-o", picture)
    assert (ended.code, ended.stderr) == (0, "")
    text = picture.read_text(encoding="utf-8")
    assert text.startswith("<svg ")
    assert "idle" in text
    assert phaseplan("cluster", "show", "--plan", plan_file).stdout == text
    assert phaseplan("cluster", "show", "a100_1x4", "-o", picture).code == 0
    one_error(phaseplan("cluster", "show"), "either a cluster or --plan")


def test_png_without_its_library_is_one_line(
    phaseplan: Callable[..., Any],
    plan_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    picture = tmp_path / "plan.png"
    ended = phaseplan("cluster", "show", "--plan", plan_file, "-o", picture)
    one_error(ended, "--output", ".svg", "phaseplan[picture]")
    assert not picture.exists()


def test_png_has_the_pixels_of_the_library(
    phaseplan: Callable[..., Any],
    plan_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = ModuleType("cairosvg")
    library.svg2png = lambda bytestring, scale: b"\x89PNG" + bytestring
    monkeypatch.setitem(sys.modules, "cairosvg", library)
    picture = tmp_path / "plan.png"
    ended = phaseplan("cluster", "show", "--plan", plan_file, "-o", picture)
    assert (ended.code, ended.stdout) == (0, "")
    assert picture.read_bytes().startswith(b"\x89PNG<svg")


def test_the_ending_of_a_picture_may_be_in_capitals(
    phaseplan: Callable[..., Any], tmp_path: Path
) -> None:
    picture = tmp_path / "cluster.SVG"
    assert phaseplan("cluster", "show", "a100_1x4", "-o", picture).code == 0
    assert picture.read_text(encoding="utf-8").startswith("<svg ")
