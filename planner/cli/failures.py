"""What a failure is to a user: one line on stderr and an exit code, no traceback.

With ``PHASEPLAN_DEBUG=1`` errors keep their traceback.
"""

import os
import sys
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import TextIO

from clusters.fields import InputError
from planner.cli.output import say
from planner.errors import PlannerError


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NO_PLAN = 3
    INTERRUPTED = 130


def exit_code_of(command: Callable[[], object]) -> int:
    """Run a command to its end and tell how it went.

    Failures that a user can do something about become one line. Any other exception
    is a bug and passes through, to `show_bug` if that is the hook.
    """
    try:
        code = _run(command)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return ExitCode.FAILURE
    except (OSError, PlannerError, ValueError) as error:
        expected = exit_code_for(error)
        if expected is None or is_debugging():
            raise
        if isinstance(error, OSError):
            _abandon_stdout()
        say(_message(error), label="error", style="bold red")
        return expected
    if code == ExitCode.INTERRUPTED:
        say("interrupted")
    return code


def exit_code_for(error: Exception) -> ExitCode | None:
    """The exit code of an error that users are told about, None for a bug."""
    if isinstance(error, InputError):
        return ExitCode.USAGE
    if isinstance(error, PlannerError | OSError):
        return ExitCode.FAILURE
    # Imported here for the sake of `--help`: it brings NumPy.
    from models.latency.request import LatencyUnavailableError

    return ExitCode.USAGE if isinstance(error, LatencyUnavailableError) else None


def is_debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("PHASEPLAN_DEBUG") == "1"


def show_bug(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Hook for uncaught exceptions (`sys.excepthook`)."""
    if is_debugging():
        sys.__excepthook__(kind, error, traceback)
        return
    text = f"unexpected {kind.__name__}: {error} (PHASEPLAN_DEBUG=1 shows where)"
    say(text, label="error", style="bold red")


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line (`warnings.showwarning`)."""
    say(str(message), label="warning", style="yellow")


def _run(command: Callable[[], object]) -> int:
    """Run the command; typer ends it by `SystemExit`, 130 after an interrupt."""
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return ExitCode.OK


def _message(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.filename or 'stdout'}: {error.strerror or error}"


def _abandon_stdout() -> None:
    """Point stdout to nowhere, so that Python does not fail to flush it at exit."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # not a real file
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
