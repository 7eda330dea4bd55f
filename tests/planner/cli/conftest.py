"""Fixtures of the tests of the command line."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

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
