"""The benchmark of Splitwise's runs and designs: what must hold of its figures."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "reference" / "splitwise"
RESULTS = ROOT / "benchmarks" / "results" / "splitwise.json"

needs_reference = pytest.mark.skipif(not FOLDER.exists(), reason="no reference data")


@pytest.fixture(scope="module")
def script():
    """The script as a module; it imports its sibling as a script does."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        import splitwise
    finally:
        sys.path.pop(0)
    return splitwise


@pytest.fixture(scope="module")
def runs(script):
    return [script.compare(FOLDER, row) for row in script.its_runs(FOLDER)]


@needs_reference
def test_its_split_runs_are_repeated_within_5_percent(runs) -> None:
    """Slowdowns and median times of TTFT, TBT and E2E; 0.01 is its rounding."""
    split = [run for run in runs if run["is_split"]]
    assert len(split) == 4
    for run in split:
        for name, ours in run["ours"].items():
            assert ours == pytest.approx(run["theirs"][name], rel=0.05, abs=0.005)


@needs_reference
def test_its_colocated_runs_are_repeated_within_10_percent(runs) -> None:
    """It leaves out decodes of a step that is full, here they all have their token."""
    colocated = [run for run in runs if not run["is_split"]]
    assert len(colocated) == 3
    for run in colocated:
        for name, ours in run["ours"].items():
            assert ours == pytest.approx(run["theirs"][name], rel=0.10), name


@needs_reference
def test_every_request_meets_the_request_of_its_own_output(script) -> None:
    """Request by request, of its run of two prompt machines and a token machine."""
    rows = script.compare_requests(FOLDER)
    assert rows["num_requests"] == 616
    assert rows["ttft_median_error_frac"] < 0.02
    assert rows["e2e_median_error_frac"] < 0.01


def test_the_committed_designs_show_what_flat_decode_hides() -> None:
    """The published designs meet all nine SLOs with flat decode on its own traces; with
    decode as measured no conversation design but those with enough token machines."""
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    own = [row for row in data["designs"] if row["trace"].endswith("generated")]
    split = [row for row in own if not row["design"].startswith("colocated")]
    assert all(row["flat"]["num_met"] == 9 for row in split)
    conv = [row for row in split if row["trace"].startswith("conv")]
    assert sum(row["measured"]["num_met"] == 9 for row in conv) < len(conv) / 2
    assert data["summary"]["max_error_frac_splitwise"] < 0.05
