"""``phaseplan explain``: tables and data of an explanation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_tables_fit_a_hundred_columns(phaseplan: Run, plan_file: Path) -> None:
    ended = phaseplan("explain", plan_file)
    assert (ended.code, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert max(len(line) for line in lines) <= 100
    titles = {"Each phase alone", "Margins", "Sensitivity", "Candidates", "Latencies"}
    assert titles <= set(lines)
    assert "-0%" not in ended.stdout


def test_free_gpus_are_told(phaseplan: Run, plan_file: Path, planned: str) -> None:
    replicas = json.loads(planned)["deployment"]["replicas"]
    used = sum(len(stage) for each in replicas for stage in each["stage_gpus"])
    title = f"One replica more or fewer ({4 - used} GPUs are free)"
    assert title in phaseplan("explain", plan_file).stdout.splitlines()


def test_data_has_the_counts_and_the_evidence(
    phaseplan: Run, plan_file: Path, planned: str
) -> None:
    data = json.loads(phaseplan("explain", plan_file, "--format", "json").stdout)
    plan = json.loads(planned)
    assert list(data) == ["verdict", "explanation", "counts", "evidence"]
    assert data["verdict"] == plan["verdict"]
    assert data["counts"] == plan["counts"]
    changes = [each["change"] for each in data["explanation"]["sensitivities"]]
    assert changes == [
        f"{what} {step}"
        for what in ("rate", "input length", "output length")
        for step in ("-10%", "+10%")
    ]
