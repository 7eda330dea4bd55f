"""Every failure has an exit code and one line; bugs are told from user errors."""

import sys
import warnings

import pytest

from clusters.fields import InputError
from models.latency.request import LatencyUnavailableError
from planner.cli.failures import ExitCode, exit_code_of, show_bug, show_warning
from planner.errors import PlannerError


def failing(error: BaseException) -> int:
    def command() -> None:
        raise error

    return exit_code_of(command)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            InputError("rate_rps", -1, "a number > 0", file="p.yaml"),
            ExitCode.USAGE,
            "error: p.yaml: rate_rps = -1: expected a number > 0\n",
        ),
        (
            LatencyUnavailableError("TP3 does not divide the 40 heads"),
            ExitCode.USAGE,
            "error: TP3 does not divide the 40 heads\n",
        ),
        (PlannerError("no such method"), ExitCode.FAILURE, "error: no such method\n"),
        (
            OSError(28, "No space left on device", "plan.json"),
            ExitCode.FAILURE,
            "error: plan.json: No space left on device\n",
        ),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted\n"),
        (SystemExit(130), ExitCode.INTERRUPTED, "interrupted\n"),
        (SystemExit(3), ExitCode.NO_PLAN, ""),
    ],
)
def test_failures_become_one_line_and_a_code(
    error: BaseException,
    code: ExitCode,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing(error) == code
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", line)


def test_closed_pipe_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(BrokenPipeError()) == ExitCode.FAILURE
    assert capsys.readouterr().err == ""


def test_message_of_several_lines_becomes_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(PlannerError("first\nsecond"))
    assert capsys.readouterr().err == "error: first second\n"


def test_message_keeps_what_looks_like_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(PlannerError("[bold]nodes[0][/bold] :smile:"))
    assert capsys.readouterr().err == "error: [bold]nodes[0][/bold] :smile:\n"


def test_long_message_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    failing(PlannerError("word " * 100))
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("bug", [ValueError("bad"), KeyError("key")], ids=repr)
def test_bug_is_not_taken_for_a_user_error(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        failing(bug)


def test_bug_says_how_to_see_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PHASEPLAN_DEBUG", raising=False)
    show_bug(RuntimeError, RuntimeError("oh"), None)
    assert capsys.readouterr().err == (
        "error: unexpected RuntimeError: oh (PHASEPLAN_DEBUG=1 shows where)\n"
    )


def test_debugging_keeps_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEPLAN_DEBUG", "1")
    with pytest.raises(InputError):
        failing(InputError("a", 1, "2"))


def test_warning_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show_warning)
        warnings.warn("trace.csv: sorted\nby arrival", stacklevel=1)
    written = capsys.readouterr()
    assert written.err == "warning: trace.csv: sorted by arrival\n"
    assert written.out == ""


def test_text_as_exit_code_is_a_failure() -> None:
    assert exit_code_of(lambda: sys.exit("no")) == ExitCode.FAILURE
