"""Pictures of clusters: well-formed, complete, and safe to open."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from clusters.cluster import Cluster
from planner.report.cluster_svg import LETTER, MARGIN, cluster_svg
from planner.report.gpu_marks import GpuMark

SVG = "{http://www.w3.org/2000/svg}"


def drawn(cluster: Cluster, marks=None, title: str = "") -> ElementTree.Element:
    return ElementTree.fromstring(cluster_svg(cluster, marks or {}, title=title))


def texts(root: ElementTree.Element) -> str:
    return " ".join(text for text in root.itertext())


@pytest.mark.parametrize("name", Cluster.names())
def test_every_gpu_of_every_example_is_there_within_the_picture(name: str) -> None:
    cluster = Cluster.load(name)
    root = drawn(cluster)
    tips = [each.text for each in root.iter(f"{SVG}title")]
    assert len(tips) == cluster.num_gpus
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for rect in root.iter(f"{SVG}rect"):
        if rect.attrib["width"] != "100%":
            assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width
            assert float(rect.attrib["y"]) + float(rect.attrib["height"]) <= height


def test_pools_have_colours_and_counts() -> None:
    cluster = Cluster.load("two_nodes_a100")
    marks = {
        gpu: GpuMark(
            pool="prefill pool" if gpu < 3 else "decode pool",
            kind="prefill" if gpu < 3 else "decode",
            label=f"P{gpu}",
            about=f"replica {gpu}",
        )
        for gpu in range(7)
    }
    root = drawn(cluster, marks, title="a plan")
    shown = texts(root)
    assert "prefill pool: 3 GPUs" in shown
    assert "decode pool: 4 GPUs" in shown
    assert "idle: 9 GPUs" in shown
    fills = [each.attrib["fill"] for each in root.iter(f"{SVG}rect")]
    assert fills.count(fills[fills.index("#1f6fb4")]) == 3 + 1  # and the legend


def test_names_cannot_become_markup() -> None:
    cluster = Cluster.load("a100_1x4")
    evil = '<script>alert("x")</script>&'
    node = replace(cluster.nodes[0], name=evil)
    mark = GpuMark(pool=evil, kind="prefill", label="<b>", about=evil)
    text = cluster_svg(replace(cluster, nodes=(node,)), {0: mark}, title=evil)
    assert "<script" not in text
    root = ElementTree.fromstring(text)
    assert evil in texts(root)


def test_ten_thousand_gpus_are_a_small_file() -> None:
    cluster = Cluster.load("eight_nodes_h200")
    nodes = tuple(
        replace(cluster.nodes[0], name=f"n{i}", rack=f"rack{i // 32}")
        for i in range(1250)
    )
    text = cluster_svg(replace(cluster, nodes=nodes), {})
    assert len(text) < 2_000_000
    assert ElementTree.fromstring(text) is not None


def test_long_legends_stay_within_the_picture() -> None:
    cluster = Cluster.load("a100_1x4")
    pool = " + ".join(f"TP4 a100_sxm {n} layers" for n in range(12))
    mark = GpuMark(pool=pool, kind="prefill", label="P0", about=pool)
    root = drawn(cluster, {0: mark})
    width = float(root.attrib["width"])
    lines = [str(each.text) for each in root.iter(f"{SVG}text")]
    legend = lines[1 : lines.index("idle: 3 GPUs")]
    assert " ".join(legend) == f"{pool}: 1 GPU"
    assert max(map(len, legend)) * LETTER < width - 2 * MARGIN
