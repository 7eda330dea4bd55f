"""Mooncake's hit rates, of the traces themselves, and its ratio of nodes."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT.parent / "shared" / "data" / "traces"

pytestmark = pytest.mark.skipif(
    not (TRACES / "mooncake_synthetic_trace.jsonl").exists(), reason="no traces"
)


@pytest.fixture(scope="module")
def mooncake() -> ModuleType:
    """The benchmark, with the modules beside it."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        return importlib.import_module("mooncake")
    finally:
        sys.path.pop(0)


def test_hit_rates_are_those_of_a_plain_list_and_of_another_replay(mooncake):
    rows = mooncake.hit_rates(TRACES)
    assert len(rows) == 12
    for row in rows:
        assert row["hit_frac"] == row["plain_frac"]
        assert row["hit_frac"] == pytest.approx(row["replayed_frac"], abs=0.001)


def test_most_requests_are_within_limits_with_about_as_many_nodes_of_each(mooncake):
    """Mooncake, figure 15: best near 1:1 of 16 nodes, at the recorded rate."""
    ratios = sys.modules["mooncake_ratios"]
    trace = ratios.synthetic(TRACES)
    shares = {
        num_prefill: ratios.share_within(
            ratios.simulate(ratios.system_of(num_prefill), trace)
        )
        for num_prefill in (5, 8, 14)
    }
    assert shares[8] > max(shares[5], shares[14])
