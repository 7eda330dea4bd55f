"""Several services on one cluster: plan, simulate, export, and mistakes."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.llm import LlmSpec
from planner.cli.problem_file import SHARED_METHODS
from planner.export.vllm_shared import caveats
from planner.multiplexing.shared_files import read_shared_plan
from planner.multiplexing.shared_plan import METHODS
from tests.models.latency.test_measured import profile
from tests.planner.cli.conftest import one_error

Run = Callable[..., Any]

APART = Path(__file__).parents[3] / "examples" / "one_disaggregated_a100.yaml"

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

    # Limits that vLLM has no flags for are named, as for plans of one service.
    made = read_shared_plan(plan)
    engine = made.problem.engine
    assert not any("left out" in text for text in caveats(made))
    limits = replace(engine.limits, max_step_prompts=4, is_output_reserved=True)
    problem = replace(made.problem, engine=replace(engine, limits=limits))
    told = caveats(replace(made, problem=problem))
    assert "vLLM has no limit like max_step_prompts: it is left out." in told
    assert any("is_output_reserved is left out" in text for text in told)


def test_rates_that_change_and_costs_are_told_apart(
    phaseplan: Run, shared_file: Path
) -> None:
    daily = "rate_rps: 4, arrivals: {kind: daily, peak_to_mean: 1.5}"
    text = SHARED.replace("rate_rps: 4", daily).replace("served_load", "min_cost")
    shared_file.write_text(text, encoding="utf-8")
    ended = phaseplan("plan", shared_file, "--method", "temporal")
    assert (ended.code, ended.stderr) == (0, "")
    assert max(len(line) for line in ended.stdout.splitlines()) <= 100
    worst = ended.stdout.split("Worst part of the time")[1].splitlines()
    (row,) = [line.split() for line in worst if line.startswith("popular")]
    start, end, num, attained = row[1:]
    assert float(end) - float(start) == pytest.approx(25.0)
    assert int(num) >= 20
    assert attained.endswith("%")
    # A least cost is no negative most.
    bound = re.search(r"min_cost: at least ([0-9.]+) \$/h", ended.stdout)
    assert bound is not None
    assert float(bound.group(1)) > 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: rare", "name: popular", ["services[1].name = 'popular'"]),
        ("rate_rps: 0.5", "rate_rps: 0", ["services[1].workload.rate_rps = 0"]),
        ("[0.3, 0.4]", "[0.7]", ["search.sm_shares", "add up to 1"]),
        ("goal: served_load", "goal: max_goodput", ["objective.goal", "served_load"]),
        ("llm: llama-2-7b", "llm: deepseek-v3", ["services[0]", "popular", "fits"]),
        ("[1.0, 2.0]", "[0.5]", ["search.stretches[0]"]),
        ("objective:", "popularity: {alpha: 1}\nobjective:", ["popularity.total_rps"]),
        (
            "objective:",
            "popularity: {alpha: 1, total_rps: 4}\nobjective:",
            ["services[0].workload.rate_rps = 4", "popularity"],
        ),
        ("rate_rps: 0.5", "rate_rps: 0.5, model: x", ["services[1].workload", "model"]),
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


def test_shares_of_a_plan_that_do_not_add_up_are_refused(
    phaseplan: Run, shared_file: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    phaseplan("plan", shared_file, "-o", plan, "--method", "exact")
    data = json.loads(plan.read_text())
    for unit in data["placed"]["units"]:
        unit["unit"]["prefill_share_frac"] = 0.9
        unit["unit"]["cycle_ms"] = None
    plan.write_text(json.dumps(data))
    one_error(
        phaseplan("simulate", plan), "plan.json", "placed.units[0]", "add up to 1"
    )


def test_what_sm_shares_rest_on_is_told(
    phaseplan: Run, shared_file: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    options = ("--method", "exact", "--set", "cluster=two_nodes_h100")
    ended = phaseplan("plan", shared_file, "-o", plan, *options)
    (told,) = (
        text for text in json.loads(plan.read_text())["warnings"] if "SM shares" in text
    )
    assert "no SM shares measured on h100_sxm" in told
    assert "stands in for h100_sxm" in told
    assert "no SM shares measured" in ended.stdout
    in_turns = ("--method", "temporal", "-o", plan)
    phaseplan("plan", shared_file, *in_turns)
    assert json.loads(plan.read_text())["warnings"] == []


@pytest.mark.parametrize("goal", ["served_load", "min_cost", "rate_weighted"])
def test_every_goal_is_reached_from_the_file_and_the_command_line(
    phaseplan: Run, shared_file: Path, tmp_path: Path, goal: str
) -> None:
    plan = tmp_path / "plan.json"
    options = ("--method", "exact", "--set", f"objective.goal={goal}")
    ended = phaseplan("plan", shared_file, "-o", plan, *options)
    assert ended.code == 0
    way = "at least" if goal == "min_cost" else "at most"
    assert f"{goal}: {way}" in ended.stdout
    assert json.loads(plan.read_text())["problem"]["objective"]["goal"] == goal


def test_end_to_end_limits_are_kept_and_shown(
    phaseplan: Run, shared_file: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    text = SHARED.replace("{ttft_ms: 1000, tpot_ms: 60}", "{e2e_ms: 9000}", 1)
    shared_file.write_text(text, encoding="utf-8")
    ended = phaseplan("plan", shared_file, "-o", plan, "--method", "exact")
    assert ended.code == 0
    assert "E2E p90 ms" in ended.stdout
    assert "of 9000" in ended.stdout
    first, _ = json.loads(plan.read_text())["evaluation"]["services"]
    assert first["attainment"]["e2e_frac"] >= 0.9


def test_measured_latencies_come_first(
    phaseplan: Run, shared_file: Path, tmp_path: Path
) -> None:
    measured = tmp_path / "profile.json"
    measured.write_text(profile(1, 2, llm=LlmSpec.load("llama-2-7b")).to_json())
    plan = tmp_path / "plan.json"
    text = SHARED.replace("a100_1x4", "eight_nodes_h200").replace(
        "llm: llama-2-7b", "llm: llama-3.1-8b", 1
    )
    shared_file.write_text(text, encoding="utf-8")
    ended = phaseplan(
        *("plan", shared_file, "-o", plan, "--method", "spatial"),
        *("--profile", measured),
    )
    assert ended.code == 0, ended.stderr
    by_service = {
        each["shape"].split()[0]: each["latency_source"]
        for each in json.loads(plan.read_text())["evidence"]
    }
    # Of two models the profile has one.
    assert by_service["rare"] == "measured"
    assert by_service["popular"] != "measured"
    measured.unlink()
    assert phaseplan("simulate", plan, "-q").code == 0
    measured.write_text(profile(1).to_json())
    other = SHARED.replace("llama-2-7b", "llama-2-13b")
    shared_file.write_text(other, encoding="utf-8")
    one_error(
        phaseplan("plan", shared_file, "--profile", measured), "profile", "llama-3.1-8b"
    )


def test_one_llm_disaggregated_is_planned_drawn_and_exported(
    phaseplan: Run, tmp_path: Path
) -> None:
    plan, folder = tmp_path / "plan.json", tmp_path / "vllm"
    ended = phaseplan("plan", APART, "--method", "exact", "-o", plan)
    assert ended.code == 0
    assert "phases apart for assistant" in ended.stdout
    assert "prefill only" in ended.stdout
    assert phaseplan("simulate", plan).code == 0
    picture = tmp_path / "plan.svg"
    assert phaseplan("cluster", "show", "--plan", plan, "-o", picture).code == 0
    assert "assistant (decode)" in picture.read_text()

    ended = phaseplan("export", plan, "-o", folder)
    assert ended.code == 0, ended.stderr
    text = "".join(path.read_text() for path in sorted(folder.rglob("*.sh")))
    assert "NixlPushConnector" in text or "NixlConnector" in text
    # No two engines of a node listen at one port.
    places = [
        (node, port)
        for path in sorted(folder.rglob("*.sh"))
        for node in re.findall(r"^# .* on (node\d),", path.read_text(), re.M)
        for port in re.findall(r"^  --port (\d+)", path.read_text(), re.M)
    ]
    # An engine for each LLM of each unit, whether it shares it or not.
    units = json.loads(plan.read_text())["placed"]["units"]
    assert len(places) == sum(len(each["unit"]["members"]) for each in units)
    assert len(set(places)) == len(places)
    assert "apart-0" in (folder / "README.md").read_text()
    again = phaseplan("export", plan, "-o", folder, "--overwrite")
    assert (again.code, "not of this plan" in again.stderr) == (0, False)

    data = json.loads(plan.read_text())
    kept = [u for u in data["placed"]["units"] if u["unit"]["phase"] != "decode"]
    plan.write_text(json.dumps({**data, "placed": {"units": kept}}))
    one_error(
        phaseplan("simulate", plan), "plan.json", "prefill-only and a decode-only"
    )
