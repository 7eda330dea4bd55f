"""The benchmark against Helix: flows, placements, and the machines behind them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from planner.pipelines.place import best_flow

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "reference" / "helix"

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no reference data")


@pytest.fixture(scope="module")
def benchmark():
    """The script as a module; it imports its siblings as scripts do."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        import helix
    finally:
        sys.path.pop(0)
    return helix


@pytest.fixture(scope="module")
def reference(benchmark):
    return benchmark.read_reference([FOLDER])


def test_the_flow_of_every_shipped_layout_is_the_recorded_one(benchmark, reference):
    rows = benchmark.check_layouts(reference)
    assert len(rows) == 22
    assert max(row["error_frac"] for row in rows) <= 1e-6


# Helix, read and recomputed (tokens/s): what other placements reach on the same rates.
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("llama70b_24", 2045.6),
        ("llama70b_42", 5905.7),
        ("llama30b_l4", 252.6),
        ("llama30b_10", 286.587),
        ("llama30b_a100", 1044.53),
        ("llama30b_t4", 397.685),
    ],
)
def test_our_placements_reach_the_best_known_flow(benchmark, reference, name, least):
    case = next(c for c in benchmark.cases(reference) if c.name == name)
    best = best_flow(case.fleet)
    assert best is not None
    assert least <= best.flow.tokens_per_s <= best.bound_tokens_per_s * (1 + 1e-9)


@pytest.mark.parametrize("name", ["llama70b_24", "llama30b_a100", "llama30b_t4"])
def test_three_of_them_are_proved_optimal(benchmark, reference, name):
    case = next(c for c in benchmark.cases(reference) if c.name == name)
    best = best_flow(case.fleet)
    assert best is not None
    assert best.gap_frac == pytest.approx(0.0, abs=1e-9)


def test_first_principles_explain_the_rates_of_the_machines(benchmark, reference):
    errors = []
    for case in benchmark.cases(reference):
        if case.name in {"llama70b_24", "llama70b_42"}:
            machines = benchmark.costed(case.fleet, case.table_name)
            for each in benchmark.rate_errors(machines):
                errors += [abs(ratio - 1.0) for ratio in each.ratio_by_layers]
    # 91 rates of seven kinds of machines; nothing is fitted to them.
    assert np.median(errors) < 0.08
    assert max(errors) < 0.3


def test_the_shipped_layout_serves_about_what_is_published(benchmark, reference):
    # Helix, figure 5(c): 252.1 tokens/s in their simulation of the 24 machines.
    rate = benchmark.served_as_published(
        reference,
        "single_cluster/layout_llama70b/ilp",
        reference.clusters["cluster24"],
    )
    assert rate == pytest.approx(252.1, rel=0.25)
