"""Measured links go from records to a cluster that can be planned on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusters.cluster import Cluster
from clusters.serde import read_yaml
from models.profile_records import Environment, LinkRecord, Spread
from models.profile_table import write_profile_table

Phaseplan = Callable[..., Any]
CLUSTER = "nodes: [{name: a, type: p5.48xlarge}, {name: b, type: p5.48xlarge}]"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Two hosts joined by 40 GB/s, 0.05 ms apart."""
    path = tmp_path / "links.jsonl"

    def record(size: int) -> LinkRecord:
        ms = 0.05 + size / 40e9 * 1e3
        return LinkRecord(
            environment=Environment(device="synthetic", device_name="p", gpu="p"),
            library="nccl",
            hosts=("host-1", "host-2"),
            num_pairs=1,
            message_bytes=size,
            spread=Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9),
        )

    write_profile_table(path, [record(1 << 10), record(1 << 26)])
    return path


def test_links_are_shown_and_what_to_plan_with(
    records: Path, phaseplan: Phaseplan
) -> None:
    ended = phaseplan("profile", "links", records)
    assert ended.code == 0, ended.stderr
    assert "host-1 - host-2" in ended.stdout
    assert "40 GB/s" in ended.stdout
    assert "kv_link_efficiency_frac: 1" in ended.stderr


def test_links_alone_are_a_fragment_of_a_cluster_file(
    records: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    out = tmp_path / "fabric.yaml"
    ended = phaseplan("profile", "links", records, "-o", out)
    assert ended.code == 0, ended.stderr
    data: Any = read_yaml(out)
    (link,) = data["fabric"]["links"]
    assert link["between"] == ["host-1", "host-2"]
    assert link["bytes_per_s"] == pytest.approx(40e9)


def test_links_are_put_into_a_cluster_under_its_names(
    records: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    mine, out = tmp_path / "mine.yaml", tmp_path / "measured.yaml"
    mine.write_text(CLUSTER)
    words = ("profile", "links", records, "--cluster", mine, "-o", out)
    ended = phaseplan(*words)
    assert ended.code == 2
    assert "racks or nodes without a rack" in ended.stderr
    ended = phaseplan(*words, "--name", "host-1=a", "--name", "host-2=b")
    assert ended.code == 0, ended.stderr
    path = Cluster.load(out).topology.path(0, 8)
    assert path.bytes_per_s == pytest.approx(40e9)
    assert path.latency_ms == pytest.approx(0.05)
    assert phaseplan("cluster", "validate", out).code == 0


def test_slip_in_a_name_exits_with_two(records: Path, phaseplan: Phaseplan) -> None:
    ended = phaseplan("profile", "links", records, "--name", "host-1")
    assert ended.code == 2
    assert "HOST=NODE" in ended.stderr
