"""Fixtures of the tests of the command line."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from planner import Problem, solve, write_plan
from planner.cli.main import run


@dataclass(frozen=True)
class Ended:
    """How a run of ``phaseplan`` ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def phaseplan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Run the console script in this process."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.delenv("PHASEPLAN_DEBUG", raising=False)

    def run_with(*arguments: object) -> Ended:
        words = ["phaseplan", *(str(argument) for argument in arguments)]
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        written = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code=code, stdout=written.out, stderr=written.err)

    return run_with


def one_error(ended: Ended, *fragments: str) -> None:
    """Assert exit code 2, and one line on stderr with all these fragments."""
    assert (ended.code, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert [each for each in fragments if each not in line] == []


TINY_PROBLEM = """\
api_version: phaseplan/v1
cluster: a100_1x4
services:
  - llm: opt-13b
    workload: {lengths: 512x64, rate_rps: 4}
    slo: {ttft_ms: 200, tpot_ms: 100}
objective: {goal: max_goodput_per_gpu}
search: {max_pp: 1, tp: [1]}
"""
"""OPT-13B on four A100 of one node: planned within a second."""


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    """The tiny problem in a folder of its own."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_PROBLEM, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the tiny problem's plan file."""
    path = tmp_path_factory.mktemp("planned") / "tiny.yaml"
    path.write_text(TINY_PROBLEM, encoding="utf-8")
    best = solve(Problem.load(path)).best
    assert best is not None
    write_plan(best, path.with_suffix(".json"))
    return path.with_suffix(".json").read_text(encoding="utf-8")


@pytest.fixture
def plan_file(planned: str, tmp_path: Path) -> Path:
    """The plan of the tiny problem."""
    path = tmp_path / "plan.json"
    path.write_text(planned, encoding="utf-8")
    return path
