"""``phaseplan compare``: plans, or all methods on a problem, side by side."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.cli.compare_tables import short_names
from tests.planner.cli.conftest import TINY_PROBLEM

Run = Callable[..., Any]


METHODS = [
    "aggregated",
    "distserve-high",
    "distserve-low",
    "provisioning",
    "hexgen2",
    "local-search",
    "pipelines",
    "per-type",
    "homogeneous",
    "exhaustive",
]


def test_problem_compares_every_method(phaseplan: Run, problem_file: Path) -> None:
    ended = phaseplan("compare", problem_file, "--format", "json")
    assert ended.code == 0
    assert ended.stderr == "no plan by pipelines: all GPUs are of one type\n"
    rows = json.loads(ended.stdout)
    assert [row["name"] for row in rows] == [
        name for name in METHODS if name != "pipelines"
    ]
    # All on the same requests.
    assert len({row["evaluation"]["num_requests"] for row in rows}) == 1
    assert len({row["evaluation"]["rate_rps"] for row in rows}) == 1


def test_method_without_a_plan_is_told(phaseplan: Run, problem_file: Path) -> None:
    words = ("--set", "cluster=two_nodes_a100", "--set", "search.max_replicas=1")
    ended = phaseplan("compare", problem_file, *words)
    assert ended.code == 0
    of_types, too_many = ended.stderr.splitlines()
    assert of_types == "no plan by pipelines: all GPUs are of one type"
    assert too_many.startswith("no plan by exhaustive: 16 GPUs are too many")
    assert max(len(line) for line in ended.stdout.splitlines()) <= 100


def test_problem_without_any_plan_exits_with_three(
    phaseplan: Run, problem_file: Path
) -> None:
    ended = phaseplan("compare", problem_file, "--set", "search.tp=[3]", "--quiet")
    assert (ended.code, ended.stdout) == (3, "")
    told = [line.split(":")[0] for line in ended.stderr.splitlines()]
    assert told == [f"no plan by {name}" for name in METHODS]


def test_plans_are_compared_at_the_rate_asked_for(
    phaseplan: Run, plan_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text(plan_file.read_text())
    words = ("--rate", "2.5", "--format", "json")
    first, second = json.loads(phaseplan("compare", plan_file, other, *words).stdout)
    assert first["evaluation"]["offered_rps"] == 2.5
    assert first.pop("name") == str(plan_file)
    assert second.pop("name") == str(other)
    assert first == second


def test_file_given_twice_is_refused(phaseplan: Run, plan_file: Path) -> None:
    ended = phaseplan("compare", plan_file, plan_file)
    assert ended.code == 2
    assert "expected each file once" in ended.stderr


def test_problem_beside_a_plan_is_refused(
    phaseplan: Run, plan_file: Path, problem_file: Path
) -> None:
    ended = phaseplan("compare", plan_file, problem_file)
    assert ended.code == 2
    assert "api_version = 'phaseplan/v1'" in ended.stderr


def test_plans_of_other_models_are_refused(
    phaseplan: Run, plan_file: Path, tmp_path: Path
) -> None:
    problem = tmp_path / "other.yaml"
    problem.write_text(TINY_PROBLEM.replace("opt-13b", "llama-2-13b"))
    other = tmp_path / "other.json"
    assert phaseplan("plan", problem, "-o", other).code == 0
    ended = phaseplan("compare", plan_file, other)
    assert ended.code == 2
    assert "other.json: llm = 'llama-2-13b': expected the model" in ended.stderr


def test_names_are_shortened_unless_they_clash() -> None:
    assert short_names(["a/x.json", "b/y.json"]) == ["x.json", "y.json"]
    assert short_names(["a/x.json", "b/x.json"]) == ["a/x.json", "b/x.json"]
