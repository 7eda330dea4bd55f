"""Nobody with a borrowed GPU waits for a compiler."""

import pytest

from planner.cli import profile_simulator
from planner.cli.profile_simulator import SimulatorCompiler


def compiler(monkeypatch: pytest.MonkeyPatch, code: str) -> SimulatorCompiler:
    """One that runs `code` instead of compiling."""
    monkeypatch.setattr(profile_simulator, "_COMMAND", ("-c", code))
    return SimulatorCompiler()


def test_simulator_that_is_compiled_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiler(monkeypatch, "pass")
    assert found.why_not_ready(30.0) is None
    # Asked again, it still is.
    assert found.why_not_ready(0.0) is None
    assert not found.is_running


def test_compiler_that_takes_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = compiler(monkeypatch, "import time; time.sleep(60)")
    assert found.why_not_ready(0.05) == "it is still being compiled"
    assert found.is_running
    found.end()
    assert not found.is_running


def test_simulator_that_does_not_run_here_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = compiler(monkeypatch, "raise ModuleNotFoundError('no numba')")
    assert found.why_not_ready(30.0) == "ModuleNotFoundError: no numba"
    assert found.why_not_ready(0.0) == "ModuleNotFoundError: no numba"
    silent = compiler(monkeypatch, "raise SystemExit(3)")
    assert silent.why_not_ready(30.0) == "exit code 3"
