"""The benchmark of a device whose law is known: what a campaign recovers of it."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    """The script as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        import synthetic_profile
    finally:
        sys.path.pop(0)
    return synthetic_profile


@pytest.mark.parametrize("outlier_frac", [0.0, 0.01], ids=["clean", "outliers"])
def test_law_is_recovered_through_noise(benchmark, outlier_frac):
    found = benchmark.recovered(0, outlier_frac)
    assert found["median_frac"] < 0.02
    coefficients = [name for name in found if name.startswith("per_")]
    assert len(coefficients) == 4
    assert all(found[name] < 0.05 for name in coefficients), found
