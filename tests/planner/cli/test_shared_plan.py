"""Several services on one cluster: plan, simulate, export, and mistakes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.cli.problem_file import SHARED_METHODS
from planner.multiplexing.shared_plan import METHODS
from tests.planner.cli.conftest import one_error

Run = Callable[..., Any]

SHARED = """\
api_version: phaseplan/v1
cluster: a100_1x4
objective: {goal: served_load}
search: {sm_shares: [0.3, 0.4], stretches: [1.0, 2.0], prefills: [[0.5, 1]]}
services:
  - name: popular
    llm: llama-2-7b
    workload: {lengths: 161x200, rate_rps: 4}
    slo: {ttft_ms: 1000, tpot_ms: 60}
  - name: rare
    llm: llama-2-7b
    workload: {lengths: 161x200, rate_rps: 0.5}
    slo: {ttft_ms: 1000, tpot_ms: 60}
"""


@pytest.fixture
def shared_file(tmp_path: Path) -> Path:
    path = tmp_path / "shared.yaml"
    path.write_text(SHARED, encoding="utf-8")
    return path


def test_methods_of_the_help_are_those_that_exist() -> None:
    assert {"auto", *SHARED_METHODS} == set(METHODS)


def test_plan_simulate_and_export(
    phaseplan: Run, shared_file: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    ended = phaseplan("plan", shared_file, "-o", plan)
    assert (ended.code, ended.stderr) == (0, "")
    assert max(len(line) for line in ended.stdout.splitlines()) <= 100
    assert "popular" in ended.stdout
    assert "within SLO" in ended.stdout

    again = phaseplan("simulate", plan, "--format", "json")
    assert again.code == 0
    assert json.loads(again.stdout) == json.loads(plan.read_text())["evaluation"]
    assert phaseplan("simulate", plan, "--rate", "4000").code == 3

    folder = tmp_path / "vllm"
    ended = phaseplan("export", plan, "-o", folder)
    assert ended.code == 0
    scripts = sorted(folder.glob("unit-*.sh"))
    members = [
        m
        for u in json.loads(plan.read_text())["placed"]["units"]
        for m in u["unit"]["members"]
    ]
    assert len(scripts) == len(members)
    for script in scripts:
        assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=" in script.read_text()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: rare", "name: popular", ["services[1].name = 'popular'"]),
        ("rate_rps: 0.5", "rate_rps: 0", ["services[1].workload.rate_rps = 0"]),
        ("[0.3, 0.4]", "[0.7]", ["search.sm_shares", "add up to 1"]),
        ("goal: served_load", "goal: max_goodput", ["objective.goal", "served_load"]),
        ("llm: llama-2-7b", "llm: deepseek-v3", ["services[0]", "popular", "fits"]),
    ],
)
def test_mistake_is_one_line(
    phaseplan: Run, shared_file: Path, old: str, new: str, told: list[str]
) -> None:
    shared_file.write_text(SHARED.replace(old, new, 1), encoding="utf-8")
    one_error(phaseplan("plan", shared_file), "shared.yaml", *told)


def test_methods_are_for_one_service_or_for_several(
    phaseplan: Run, shared_file: Path, problem_file: Path
) -> None:
    one_error(
        phaseplan("plan", shared_file, "--method", "distserve"), "several services"
    )
    one_error(phaseplan("plan", problem_file, "--method", "spatial"), "one service")


def test_options_of_one_service_are_refused(
    phaseplan: Run, shared_file: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    phaseplan("plan", shared_file, "-o", plan, "--method", "exact")
    one_error(phaseplan("simulate", plan, "--concurrency", "4"), "--concurrency")
    events = tmp_path / "events.yaml"
    events.write_text("events: []\n", encoding="utf-8")
    one_error(phaseplan("simulate", plan, "--events", events), "--events")
    one_error(phaseplan("export", plan, "--to", "dynamo"), "--to")
    one_error(phaseplan("explain", plan), "api_version")
