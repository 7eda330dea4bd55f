"""Rows of other files: what cannot be read or simulated is counted, not a crash."""

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "accuracy"))
silicon: Any = importlib.import_module("silicon")
silicon_rows: Any = importlib.import_module("silicon_rows")

LINE = {
    "id": "1",
    "source": "source_file=2026-03-25.csv; silicon_concurrency=8; image=x:v0.18.0",
    "backend": "vllm",
    "model_path": "meta-llama/Llama-3.1-70B",
    "system": "h200_sxm",
    "mode": "agg",
    "isl": "1024",
    "osl": "1024",
    "gemm_quant_mode": "fp8",
    "batch_size": "8.0",
    "tp_size": "4.0",
    "moe_tp_size": "4.0",
    "measured_ttft_ms": "250.0",
    "measured_tpot_ms": "20.0",
}


def rows_of(folder: Path, *lines: dict[str, str]) -> Any:
    """Rows of a file with these lines, which differ from the usual one."""
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(LINE))
        writer.writeheader()
        writer.writerows([{**LINE, **line} for line in lines])
    return silicon_rows.read_rows(path)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"isl": ""}, "isl: a positive number expected"),
        ({"osl": "many"}, "osl: a positive number expected"),
        ({"measured_ttft_ms": "0"}, "measured_ttft_ms: a positive number expected"),
        ({"measured_tpot_ms": "inf"}, "measured_tpot_ms: a positive number expected"),
        ({"mode": "idle"}, "mode 'idle': one of agg, disagg expected"),
        ({"source": "x", "batch_size": ""}, "no concurrency"),
        ({"source": "x", "batch_size": "0"}, "no concurrency"),
        ({"tp_size": "-3"}, "tp -3: a number >= 1 expected"),
    ],
)
def test_rows_that_cannot_be_read_say_why(
    tmp_path: Path, columns: dict[str, str], problem: str
) -> None:
    (row,) = rows_of(tmp_path, columns)
    assert row.problem == problem


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"backend": "tgi"}, "engine: an engine"),
        ({"system": "gb999"}, "a name in the catalogue of gpus"),
        ({"model_path": "acme/Unknown-7B"}, "llm: a catalogue name"),
        ({"system": "mi300x"}, "no measured relative of mi300x"),
        ({"tp_size": "3", "moe_tp_size": "3"}, "TP3 does not divide the 64 heads"),
        ({"isl": "9000000"}, "kv_cache: room for one request expected"),
        ({"osl": "1"}, "output_tokens"),
    ],
)
def test_rows_that_cannot_be_simulated_are_counted_by_reason(
    tmp_path: Path, columns: dict[str, str], reason: str
) -> None:
    known = {"id": "known", "source": "2027-01-01; x=1"}
    cases, reasons = silicon.cases_of(
        rows_of(tmp_path, known, {"id": "other", **columns})
    )
    found = silicon.predictions(cases, reasons)
    assert list(found) == ["known"]
    assert reason in reasons["other"]


def test_a_file_may_lack_columns_and_repeat_ids(tmp_path: Path) -> None:
    first, second = rows_of(tmp_path, {}, {})
    assert (first.id, second.id) == ("1", "1 #2")
    assert first.version == ""
    assert not first.problem
