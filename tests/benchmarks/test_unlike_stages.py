"""The benchmark of unlike stages: its cases, and a split with layers moved."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from planner.solve import solve
from tests.planner.search.pipelines.test_method import QUICK, small_types
from tests.planner.unlike_problems import LIBRARY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        import unlike_stages
    finally:
        sys.path.pop(0)
    return unlike_stages


def test_every_case_has_gpus_of_several_types(script) -> None:
    for problem in script.problems().values():
        assert len(problem.cluster.gpu_types()) > 1
        assert problem.search.max_pp >= 4


def test_an_unknown_case_is_told_in_a_line(script, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["unlike_stages.py", "8 L5"])
    with pytest.raises(SystemExit, match="no case '8 L5'; known: 8 L4, 8 T4") as error:
        script.main()
    assert "\n" not in str(error.value)


def test_layers_move_between_first_and_later_stages(script, monkeypatch) -> None:
    monkeypatch.setattr(script, "FINAL", QUICK)
    monkeypatch.setattr(script, "SHIFTS", (0, -1))
    monkeypatch.setattr(script, "library_for", lambda *_: LIBRARY)
    problem = small_types()
    best = solve(problem, LIBRARY, method="pipelines", effort=QUICK).best
    (first, *_) = best.deployment.replicas
    one = replace(best, deployment=replace(best.deployment, replicas=(first,)))
    same, moved = script.shifts(one)
    assert sum(same["layers"]) == sum(moved["layers"]) == 6
    assert moved["layers"][0] == same["layers"][0] - 1
    assert same["goodput_rps"] > 0
