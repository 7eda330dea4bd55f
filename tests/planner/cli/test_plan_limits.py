"""Limits of what can be planned, through the command line: each told in plain words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.planner.cli.conftest import TINY_PROBLEM, one_error

Run = Callable[..., Any]

CLUSTER = "cluster: a100_1x4"
A10G = "{type: {base: g5.48xlarge, num_gpus: 4}, usd_per_hour: 6}"
L4 = "{type: {base: g6.48xlarge, num_gpus: 4}, usd_per_hour: 5}"
ISLANDS = """\
cluster:
  nodes:
    - {name: one, type: {base: g6e.48xlarge, num_gpus: 4, num_nics: 0}}
    - {name: two, type: {base: g6e.48xlarge, num_gpus: 4, num_nics: 0}}
  fabric: {allow_islands: true}"""
DOWN = """\
cluster:
  nodes:
    - {name: one, type: {base: g6e.48xlarge, num_gpus: 4}}
    - {name: two, type: {base: g6e.48xlarge, num_gpus: 4}}
  fabric:
    links: [{between: [one, two], gb_per_s: 0}]"""


@pytest.fixture
def plan(phaseplan: Run, problem_file: Path) -> Callable[..., Any]:
    """Plan the tiny problem on another cluster, with settings; JSON where it can."""

    def run(cluster: str = CLUSTER, *settings: str) -> Any:
        problem_file.write_text(TINY_PROBLEM.replace(CLUSTER, cluster))
        words = [word for each in settings for word in ("--set", each)]
        return phaseplan("plan", problem_file, *words, "--format", "json")

    return run


def test_a_gpu_without_a_profile_is_planned_and_marked(plan: Run) -> None:
    made_up = (
        "cluster: {nodes: [{type: {name: own, gpu: {name: made_up, vendor: own, "
        "architecture: own, memory_bytes: 80e9, memory_bytes_per_s: 2e12, flops: "
        "[{dtype: fp16, flops_per_s: 3e14}], pcie_generation: 5, pcie_bytes_per_s: "
        "64e9, num_sms: 100}, num_gpus: 2, interconnect: pcie}}]}"
    )
    ended = plan(made_up)
    data = json.loads(ended.stdout)
    assert (ended.code, data["status"]) == (0, "FEASIBLE")
    assert {e["latency_provenance"] for e in data["evidence"]} == {"datasheet"}
    assert any("latencies are datasheet" in each for each in data["warnings"])
    # Nothing says its power or price: the goals that need them refuse in one line.
    refused = plan(made_up, "objective.goal=min_power")
    one_error(refused, "objective.goal = 'min_power'", "made_up has none", "tdp_w")
    refused = plan(made_up, "objective={goal: min_gpus, then: min_cost}")
    one_error(
        refused, "objective.goal = 'min_cost'", "usd_per_hour of cluster.nodes[0]"
    )
    refused = plan(made_up, "search.max_usd_per_hour=10")
    one_error(refused, "search.max_usd_per_hour = 10", "has none")
    assert data["usd_per_hour"] is data["power_w"] is None


def test_types_that_are_not_available_are_not_used(plan: Run) -> None:
    both = f"cluster: {{nodes: [{A10G}, {L4}]}}"
    words = ("objective={goal: max_goodput}", "search.tp=[2]")
    data = json.loads(plan(both, *words, "search.available_gpus.l4=0").stdout)
    assert {r["gpu_type"] for r in data["deployment"]["replicas"]} == {"a10g"}
    few = json.loads(
        plan(both, *words, "search.available_gpus={l4: 2, a10g: 2}").stdout
    )
    used = [r["gpu_type"] for r in few["deployment"]["replicas"]]
    assert sorted(used) == ["a10g", "l4"]
    assert few["bound"] < data["bound"] * 2
    none = plan(both, "search.available_gpus={l4: 0, a10g: 0}")
    one_error(none, "search.available_gpus", "at least one GPU")
    typing_error = plan(both, "search.available_gpus.l5=0")
    one_error(typing_error, "search.available_gpus.l5", "a10g, l4")


def test_a_budget_and_a_power_limit_are_kept(plan: Run) -> None:
    words = ("objective.goal=max_goodput", "search.max_power_w=900")
    data = json.loads(plan(CLUSTER, *words).stdout)
    # An A100 has 400 W: two of the four.
    assert (data["power_w"], len(data["deployment"]["replicas"])) == (800.0, 2)
    priced = CLUSTER.replace("a100_1x4", f"{{nodes: [{L4}]}}")
    words = ("objective.goal=max_goodput", "search={tp: [2], max_usd_per_hour: 2.5}")
    data = json.loads(plan(priced, *words).stdout)
    assert data["usd_per_hour"] == 2.5


def test_islands_are_planned_apart(plan: Run) -> None:
    ended = plan(ISLANDS, "objective.goal=max_goodput", "search.max_pp=1")
    data = json.loads(ended.stdout)
    assert ended.code == 0
    nodes = {
        r["name"]: r["stage_gpus"][0][0] // 4 for r in data["deployment"]["replicas"]
    }
    assert set(nodes.values()) == {0, 1}
    for route in data["deployment"]["routes"]:
        assert nodes[route["source"]] == nodes[route["target"]]
    assert any("2 parts that nothing joins" in each for each in data["warnings"])
    forgotten = plan(ISLANDS.replace("  fabric: {allow_islands: true}", ""))
    one_error(forgotten, "num_nics = 0", "allow_islands: true")


def test_a_link_of_zero_bandwidth_joins_nothing(plan: Run) -> None:
    one_error(plan(DOWN), "fabric.links", "'one', 'two'", "allow_islands: true")
    ended = plan(DOWN + "\n    allow_islands: true", "objective.goal=max_goodput")
    data = json.loads(ended.stdout)
    assert ended.code == 0
    for route in data["deployment"]["routes"]:
        assert route["kind"] != "network"


def test_one_gpu_serves_aggregated(plan: Run) -> None:
    ended = plan("cluster: {nodes: [{type: {base: g6e.48xlarge, num_gpus: 1}}]}")
    data = json.loads(ended.stdout)
    assert (ended.code, len(data["deployment"]["replicas"])) == (0, 1)
    assert data["deployment"]["replicas"][0]["phase"] == "aggregated"


def test_an_slo_out_of_reach_tells_the_nearest_one(plan: Run) -> None:
    ended = plan(CLUSTER, "services[0].slo.ttft_ms=1")
    data = json.loads(ended.stdout)
    assert (ended.code, data["status"]) == (3, "NOT_FOUND")
    (line,) = ended.stderr.splitlines()
    assert "the nearest SLO that is met with hardly any load is TTFT <=" in line
    nearest = data["nearest_slo"]
    assert nearest["ttft_ms"] > 1
    assert nearest["tpot_ms"] == 100.0
    # What it says is so: with that SLO there is a plan.
    again = plan(CLUSTER, f"services[0].slo.ttft_ms={nearest['ttft_ms']}")
    assert (again.code, json.loads(again.stdout)["status"]) == (0, "FEASIBLE")
    # And with limits a hair tighter there is none.
    tight = plan(CLUSTER, f"services[0].slo.ttft_ms={nearest['ttft_ms'] * 0.97}")
    assert tight.code == 3


def test_goals_and_limits_are_shown(phaseplan: Run, problem_file: Path) -> None:
    words = [
        *("--set", "objective={goal: min_power, then: min_gpus, give_up_frac: 0.1}"),
        *("--set", "search.max_power_w=1600"),
    ]
    ended = phaseplan("plan", problem_file, *words)
    lines = {line.split("  ")[0]: line for line in ended.stdout.splitlines()}
    assert "min_power, then min_gpus for up to 10% of the first" in lines["Goal"]
    assert "at most 1,600 W" in lines["Goal"]
    assert "W of board limits" in lines["Size"]
    wrong = phaseplan(
        "plan", problem_file, "--set", "objective.then=max_goodput_per_gpu"
    )
    one_error(wrong, "objective.then", "one of")
