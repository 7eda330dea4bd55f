"""Measured serving runs: what rows mean, how servers were launched, fit and report."""

import csv
import importlib
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.silicon_lines import LINE, PUBLIC, row_of

ROOT = Path(__file__).parents[2]
SILICON = ROOT.parent / "shared/reference/aiconfigurator/silicon.csv"
sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))

silicon: Any = importlib.import_module("silicon")
silicon_fit: Any = importlib.import_module("silicon_fit")
silicon_predict: Any = importlib.import_module("silicon_predict")
silicon_report: Any = importlib.import_module("silicon_report")
silicon_rows: Any = importlib.import_module("silicon_rows")

needs_reference = pytest.mark.skipif(
    not SILICON.exists(), reason="reference data is not at hand"
)


def parallelism_of(tp: int, dp: int, moe_tp: int, ep: int, source: str = PUBLIC) -> str:
    row = row_of(
        source=source,
        tp_size=str(tp),
        attention_dp_size=str(dp),
        moe_tp_size=str(moe_tp),
        moe_ep_size=str(ep),
    )
    return str(row.pools[0].parallelism)


@pytest.mark.parametrize(
    ("source", "is_public", "is_public_run"),
    [
        (PUBLIC, True, True),
        ("db-dump/2026-04-27; config_id=7; silicon_concurrency=4", True, True),
        ("2026-04-06.csv; silicon_concurrency=4", True, True),
        ("source_file=h100_sxm/vllm/0.12.0/qwen.csv", False, False),
        ("source_file=kimi-k2.5-gap-analysis.csv", False, True),
    ],
)
def test_harness_of_a_row(source: str, *, is_public: bool, is_public_run: bool) -> None:
    row = row_of(source=source)
    assert (row.is_public, row.is_public_run) == (is_public, is_public_run)


def test_clients_day_and_image_come_from_the_source() -> None:
    row = row_of(batch_size="16")
    assert (row.concurrency, row.day, row.image) == (64, "2026-04-05", "v0.18.0")
    assert row.is_compared
    assert not row_of(aiconfigurator_ttft_ms="").is_compared


def test_products_of_the_exports_are_undone() -> None:
    assert parallelism_of(4, 1, 4, 1) == "TP4 PP1"
    assert parallelism_of(64, 1, 8, 8) == "TP8 PP1 EP8"
    assert parallelism_of(1, 64, 8, 8) == "TP1 PP1 EP8 DPA8"
    assert parallelism_of(4, 4, 1, 16) == "TP4 PP1 EP4"
    # Another harness means what it writes.
    other = "source_file=h200_sxm/vllm/0.12.0/qwen.csv"
    assert parallelism_of(1, 2, 2, 1, other) == "TP1 PP1 DPA2"


def test_rows_that_cannot_be_interpreted_say_why() -> None:
    whole = row_of(tp_size="36", moe_tp_size="36", batch_size="512")
    assert "several instances" in whole.problem
    part = row_of(mode="disagg")
    assert "prefill_num_workers" in part.problem


def test_lengths_are_those_of_the_harness() -> None:
    inputs, outputs = silicon_predict.lengths_of(1000, 100, 8, is_public_run=True)
    assert len(inputs) == len(outputs) == 80
    assert (inputs.min() >= 800) & (inputs.max() <= 1000)
    assert (outputs.min() >= 80) & (outputs.max() <= 100)
    inputs, outputs = silicon_predict.lengths_of(1000, 100, 8, is_public_run=False)
    assert set(inputs) == {1000}
    assert set(outputs) == {100}


def test_constants_move_a_prediction_as_they_should() -> None:
    case = silicon_predict.case_of(row_of(isl="512", osl="128", batch_size="4"))
    plain = silicon_fit.fit_of(*_constants(request_ms=0.0))
    base = silicon_predict.predict(case, plain)
    later = silicon_fit.fit_of(*_constants(request_ms=30.0, answer_per_client_ms=0.5))
    moved = silicon_predict.predict(case, later)
    # The row has 64 clients.
    assert moved.ttft_ms == pytest.approx(base.ttft_ms + 30.0 + 32.0)
    assert moved.tpot_ms == pytest.approx(base.tpot_ms)
    slower = silicon_fit.fit_of(*_constants(step_per_request_ms=0.05))
    moved = silicon_predict.predict(case, slower)
    assert moved.tpot_ms > base.tpot_ms + 64 * 0.05 * 0.9


def test_a_row_is_simulated_once_for_constants_that_leave_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = silicon_predict.case_of(row_of(isl="512", osl="64", batch_size="4"))
    runs = []

    def counted(case: Any, fit: Any) -> Any:
        runs.append(fit)
        return silicon_predict.simulated(case, fit)

    monkeypatch.setattr(silicon_fit, "simulated", counted)
    simulations = silicon_fit.Simulations()
    for values, num_runs in (
        ({"request_ms": 0.0}, 1),
        ({"request_ms": 30.0, "answer_per_client_ms": 0.5}, 1),
        ({"draft_acceptance_frac": 0.5}, 1),
        ({"graph_kernel_ms": 0.01}, 2),
    ):
        fit = silicon_fit.fit_of(*_constants(**values))
        found = simulations.predict(case, fit)
        assert found == silicon_predict.predict(case, fit)
        assert len(runs) == num_runs


def test_runs_listed_under_two_names_are_left_out_together() -> None:
    names = ("deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3")
    cases = [
        silicon_predict.case_of(
            row_of(model_path=name, tp_size="8", moe_tp_size="8", moe_quant_mode="fp8")
        )
        for name in names
    ]
    assert {silicon_fit.group_of(case) for case in cases} == {"DeepSeek-R1 on h200_sxm"}
    assert {silicon_fit.group_of(case, "model") for case in cases} == {"DeepSeek-R1"}
    assert {silicon_fit.group_of(case, "generation") for case in cases} == {"hopper"}
    # Two rows of one pair count as the square root of two, in weights squared.
    assert silicon_fit.shares_of(cases) == pytest.approx([2.0**-0.25] * 4)


def _constants(**values: float) -> tuple[tuple[Any, ...], np.ndarray]:
    constants = tuple(
        silicon_fit.Constant(name=name, start=0.0, step=1.0, most=100.0)
        for name in values
    )
    return constants, np.asarray(list(values.values()))


def test_errors_by_hand() -> None:
    outcomes = [
        silicon_report.Outcome(
            row=row_of(id=str(place), measured_ttft_ms="100", measured_tpot_ms="10"),
            predicted=silicon_predict.Prediction(ttft_ms=ttft_ms, tpot_ms=10.0),
        )
        for place, ttft_ms in enumerate((50.0, 90.0, 130.0))
    ]
    found = silicon_report.errors_of(outcomes)
    assert found["rows"] == 3
    assert found["ttft_median_ape"] == pytest.approx(0.3)
    assert found["ttft_mape"] == pytest.approx(0.3)
    assert found["ttft_bias"] == pytest.approx(-0.1)
    assert found["tpot_mape"] == 0.0


def test_a_summary_counts_what_is_not_covered() -> None:
    prediction = silicon_predict.Prediction(ttft_ms=250.0, tpot_ms=20.0)
    outcomes = [
        silicon_report.Outcome(row=row_of(id="1"), predicted=prediction),
        silicon_report.Outcome(row=row_of(id="2"), reason="no fit"),
        silicon_report.Outcome(row=row_of(id="3", mode="disagg"), reason="incomplete"),
    ]
    summary = silicon_report.summary_of(outcomes)
    assert summary["coverage_frac"] == 0.5
    assert summary["coverage"]["complete_disaggregated_rows"] == 0
    assert summary["compared"]["rows"] == 1
    assert summary["other_harness"]["rows"] == 0
    text = silicon_report.markdown_of(silicon_report.report_of(outcomes))
    assert "agg: no fit" in text


def test_a_file_is_reported_with_the_shipped_constants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    lines = [{**LINE, "id": "a"}, {**LINE, "id": "b", "model_path": "nobody/none"}]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, LINE)
        writer.writeheader()
        writer.writerows(lines)
    assert silicon.main([str(path), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["summary"]["all"]["rows"] == 1
    assert report["summary"]["coverage_frac"] == 0.5
    assert len(report["not_covered"]) == 1


def measured_lines() -> list[dict[str, str]]:
    """Every line of the reference file."""
    with SILICON.open(newline="") as file:
        return list(csv.DictReader(file))


def reported(
    lines: list[dict[str, str]], path: Path, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """The report on a file of these lines."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    assert silicon.main([str(path), "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@needs_reference
def test_a_sample_of_the_measured_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Every tenth row of moderate concurrency: a few seconds.
    rows = [r for r in measured_lines()[::10] if float(r["batch_size"] or 0) <= 64]
    summary = reported(rows, tmp_path / "sample.csv", capsys)["summary"]
    compared = summary["compared"]
    assert compared["rows"] > 50
    assert compared["ttft_median_ape"] < 0.25
    assert compared["tpot_median_ape"] < 0.13
    assert summary["coverage_frac"] > 0.95
    assert all(math.isfinite(value) for value in compared.values())


@needs_reference
def test_other_rows_of_the_same_form_in_any_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [r for r in measured_lines()[5::60] if float(r["batch_size"] or 0) <= 64]
    order = np.random.default_rng(3).permutation(len(rows))
    unknown = {**rows[0], "id": "unknown", "model_path": "nobody/none", "mode": "agg"}
    plain = reported(rows, tmp_path / "rows.csv", capsys)
    mixed = [rows[place] for place in order] + [unknown]
    shuffled = reported(mixed, tmp_path / "mixed.csv", capsys)
    for part in ("all", "compared", "other_harness"):
        assert shuffled["summary"][part] == pytest.approx(plain["summary"][part])
    added = Counter(shuffled["not_covered"]) - Counter(plain["not_covered"])
    (reason,) = added
    assert added[reason] == 1
    assert "a catalogue name" in reason


@needs_reference
def test_shipped_constants_give_the_published_predictions() -> None:
    published = json.loads((ROOT / "benchmarks/results/silicon.json").read_text())
    rows = {row.id: row for row in silicon_rows.read_rows(SILICON)}
    entries = [e for e in published["worst"] if (e["concurrency"] or 0) <= 256][:6]
    assert len(entries) == 6
    for entry in entries:
        case = silicon_predict.case_of(rows[entry["id"]])
        found = silicon_predict.predict(case, silicon.shipped_fit(case))
        expected = (entry["predicted_ttft_ms"], entry["predicted_tpot_ms"])
        assert (found.ttft_ms, found.tpot_ms) == pytest.approx(expected, rel=0.01)


def test_validation_quotes_the_results() -> None:
    summary = json.loads((ROOT / "benchmarks/results/silicon.json").read_text())[
        "summary"
    ]
    text = (ROOT / "docs/validation.md").read_text()
    keys = ("ttft_median_ape", "ttft_mape", "tpot_median_ape", "tpot_mape")
    for found in (
        summary["compared"],
        summary["other_harness"],
        summary["cross_validated"]["compared"],
    ):
        cells = [f"{found['rows']:,}", *(f"{100 * found[key]:.1f} %" for key in keys)]
        assert " | ".join(cells) in text
