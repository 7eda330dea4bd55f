"""The benchmark against HexGen-2: its clusters, classes of requests and figures."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks/results/hexgen2.json"


@pytest.fixture(scope="module")
def cases():
    """The cases as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        import hexgen2_cases
    finally:
        sys.path.pop(0)
    if not hexgen2_cases.FILE.exists():
        pytest.skip("no reference data")
    return hexgen2_cases


def test_clusters_cost_what_the_file_says(cases):
    data = cases.read_clusters()
    for name in (cases.HOMOGENEOUS, *cases.SETTINGS):
        cluster = cases.cluster_of(data, name)
        wanted = data[name]["total_price_per_hour_at_listed_prices"]
        assert cluster.usd_per_hour(range(cluster.num_gpus)) == pytest.approx(wanted)
        assert cluster.num_gpus == sum(data[name]["counts"].values())


def test_links_are_those_that_the_report_states(cases):
    cluster = cases.cluster_of(cases.read_clusters(), cases.SETTINGS[0])
    found = {row["node"]: row for row in cases.bandwidths_of(cluster)}
    # NVLink 4: 450 GB/s; 100 Gbit/s are 12.5 GB/s. PCIe 4: 31.5 GB/s; 25 Gbit/s.
    fast, slow = found["n0: 2xh100_sxm"], found["n2: 4xl40"]
    assert (fast["inside_gb_per_s"], fast["nic_gb_per_s"]) == (450.0, 12.5)
    assert (slow["inside_gb_per_s"], slow["nic_gb_per_s"]) == (31.5, 3.125)


def test_classes_split_the_trace_at_their_limits(cases):
    if not cases.TRACE.exists():
        pytest.skip("no trace")
    num = 0
    for name, (heavy_prefill, heavy_decode) in cases.CLASSES.items():
        lengths = cases.lengths_of(cases.TRACE, "llama-2-70b", name)
        assert ((lengths.input_tokens > 512) == heavy_prefill).all()
        assert ((lengths.output_tokens > 128) == heavy_decode).all()
        assert (lengths.input_tokens + lengths.output_tokens <= 4096).all()
        num += len(lengths.input_tokens)
    assert 17_000 < num < 19_366


def test_recorded_figures_keep_to_the_bounds():
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert len(report["cases"]) == 2 * 2 * 4 * 2
    for row in report["cases"]:
        unlike = row["unlike"]
        for plan in ("hexgen2", "distserve", "auto"):
            assert unlike[plan]["goodput_rps"] <= unlike["bound_rps"]
        assert unlike["auto"]["goodput_rps"] >= unlike["hexgen2"]["goodput_rps"]
        assert unlike["hexgen2"]["processor_s"] < 10.0
