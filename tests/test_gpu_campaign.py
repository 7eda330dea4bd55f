"""The script keeps a campaign going: after crashes, hangs, and to the very end."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "gpu_campaign"


@pytest.fixture
def script() -> ModuleType:
    loader = SourceFileLoader("gpu_campaign", str(SCRIPT))
    spec = importlib.util.spec_from_loader("gpu_campaign", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def run(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[list[str]]]]:
    """Run a campaign of processes with the given ends; the commands they were given."""

    def run(*ends: object, minutes: float = 10.0) -> tuple[int, list[list[str]]]:
        commands: list[list[str]] = []

        def start(words: list[str], environment: object) -> subprocess.Popen:
            end = ends[min(len(commands), len(ends) - 1)]
            commands.append(words)
            code = f"import os, time; {end}" if isinstance(end, str) else f"exit({end})"
            return subprocess.Popen([sys.executable, "-c", code])

        monkeypatch.setattr(script, "_start", start)
        code = script._campaign(["--suite", "quick"], tmp_path, minutes, {})
        return code, commands

    return run


def test_campaign_that_ends_well_runs_once(run: Callable) -> None:
    code, (command,) = run(0)
    assert code == 0
    assert command[:2] == ["profile", "campaign"]
    assert command[-2:] == ["--suite", "quick"]
    assert "--after-crash" not in command


@pytest.mark.parametrize("end", ["exit(75)", "os.abort()"], ids=["lost", "signal"])
def test_crash_is_followed_by_a_start_with_the_time_left(
    run: Callable, end: str
) -> None:
    code, (first, second) = run(f"time.sleep(0.2); {end}", 0)
    assert code == 0
    assert "--after-crash" in second
    minutes = [float(c[c.index("--minutes") + 1]) for c in (first, second)]
    assert 9.0 < minutes[1] < minutes[0] <= 10.0


@pytest.mark.parametrize("code", [1, 2])
def test_mistake_is_not_repeated(run: Callable, code: int) -> None:
    assert run(code)[0] == code
    assert len(run(code)[1]) == 1


def test_campaign_that_always_crashes_is_reported_all_the_same(
    run: Callable, script: ModuleType
) -> None:
    code, commands = run(75)
    assert code == 75
    assert len(commands) == script.MAX_STARTS + 1
    assert "--report-only" in commands[-1]


def test_campaign_that_hangs_is_killed_and_started_again(
    run: Callable, script: ModuleType
) -> None:
    script.HANG_S = 1.0
    code, commands = run("time.sleep(60)", 0)
    assert code == 0
    assert "--after-crash" in commands[1]


def test_campaign_that_does_not_end_is_ended_and_reported(
    run: Callable, script: ModuleType
) -> None:
    script.GRACE_S = 0.5
    code, commands = run("time.sleep(60)", 0, minutes=0.01)
    assert code == script.TIME_OVER
    assert len(commands) == 2
    assert "--report-only" in commands[1]


def test_minutes_that_are_no_number_are_a_mistake(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "PACKAGES", ())
    monkeypatch.setattr(sys, "argv", ["gpu_campaign", "--minutes", "soon"])
    assert script.main() == 2
    assert capsys.readouterr().err == (
        "error: --minutes = 'soon'; a number is needed\n"
    )


def test_packages_that_are_missing_are_named_at_once(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "PACKAGES", ("sys", "no_such_one", "nor_this"))
    monkeypatch.setattr(sys, "argv", ["gpu_campaign"])
    assert script.main() == 2
    told = capsys.readouterr().err
    assert told == f"error: {sys.executable} has no no_such_one, nor_this\n"


def test_options_are_taken_in_both_spellings(script: ModuleType) -> None:
    words = ["--suite", "full", "--out=there", "--minutes", "3"]
    assert script._take(words, "--minutes", 8.0) == "3"
    assert script._take(words, "--out", "here") == "there"
    assert script._take(words, "--seed", 0) == "0"
    assert words == ["--suite", "full"]
