"""Mooncake's hit rates, of the traces themselves."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT.parent / "shared" / "data" / "traces"


@pytest.mark.skipif(
    not (TRACES / "mooncake_synthetic_trace.jsonl").exists(), reason="no traces"
)
def test_hit_rates_are_those_of_a_plain_list_and_of_another_replay():
    path = ROOT / "benchmarks" / "accuracy" / "mooncake.py"
    spec = importlib.util.spec_from_file_location("mooncake", path)
    assert spec is not None
    assert spec.loader is not None
    mooncake = importlib.util.module_from_spec(spec)
    sys.modules["mooncake"] = mooncake
    spec.loader.exec_module(mooncake)
    rows = mooncake.hit_rates(TRACES)
    assert len(rows) == 12
    for row in rows:
        assert row["hit_frac"] == row["plain_frac"]
        assert row["hit_frac"] == pytest.approx(row["replayed_frac"], abs=0.001)
