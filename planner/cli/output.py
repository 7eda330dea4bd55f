"""Output: data to stdout or a file, messages to stderr, both decided here.

Consoles read no markup, so that text from users is printed as it stands.
"""

import io
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusters.fields import InputError
from planner.errors import PlannerError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDTH = 100
"""Columns of a table that is not printed to a terminal."""


class OutputFormat(StrEnum):
    """Forms in which a command gives its data."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def check_output(path: Path | None) -> Path | None:
    """Refuse a path that cannot be written, before any work is done."""
    return check_writable(path, option="--output")


def check_writable(path: Path | None, *, option: str) -> Path | None:
    """The same for the path given with another option.

    Raises
    ------
    InputError
        If its folder does not exist or takes no files, or it is a folder itself.
    """
    if path is not None and path.is_dir():
        raise InputError(option, str(path), "a file, not a folder")
    if path is not None and not path.parent.is_dir():
        raise InputError(option, str(path), "a file in an existing folder")
    if path is not None and not os.access(path.parent, os.W_OK):
        raise InputError(option, str(path), "a folder that takes new files")
    return path


FormatOption = Annotated[
    OutputFormat | None,
    typer.Option(
        "--format", help="Default: by the suffix of --output, otherwise table."
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        callback=check_output,
        help="Write to this file, not to stdout.",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no messages.")
]


def emit(
    data: dict[str, Any] | list[Any],
    *,
    fmt: OutputFormat | None,
    table: Callable[[], "RenderableType"],
    output: Path | None = None,
) -> None:
    """Give the data of a command to the user.

    Parameters
    ----------
    data
        Plain mappings, lists, text and numbers.
    fmt
        The form asked for; None follows the suffix of `output`, otherwise a table.
    table
        Makes the table; called only if a table is wanted.
    output
        File to write, whole or not at all; None: stdout.

    Raises
    ------
    PlannerError
        If the file cannot be written.
    """
    from clusters.serde import dump_json, dump_yaml, write_text_atomic

    match fmt or _format_of(output):
        case OutputFormat.JSON:
            text = dump_json(data)
        case OutputFormat.YAML:
            text = dump_yaml(data)
        case OutputFormat.TABLE if output is None:
            stdout_console().print(table())
            return
        case OutputFormat.TABLE:
            text = _plain_text(table())
    if output is None:
        sys.stdout.write(text)
        return
    try:
        write_text_atomic(output, text)
    except InputError as error:
        # The path looked fine, so this is a failure and no slip of the user.
        raise PlannerError(str(error)) from None


def stdout_console() -> "Console":
    """Console for data: as wide as the terminal, or `WIDTH` where there is none."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


def stderr_console(*, quiet: bool = False) -> "Console":
    """Console for progress and messages; a quiet one prints nothing."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, markup=False, emoji=False, highlight=False)


def say(text: str, *, label: str = "", style: str = "", quiet: bool = False) -> None:
    """Print one line to stderr, after a coloured label such as ``error``."""
    from rich.text import Text

    line = Text.assemble(
        (f"{label}: " if label else "", style), " ".join(text.splitlines())
    )
    stderr_console(quiet=quiet).print(line, soft_wrap=True)


def _format_of(output: Path | None) -> OutputFormat:
    by_suffix = {
        ".json": OutputFormat.JSON,
        ".yaml": OutputFormat.YAML,
        ".yml": OutputFormat.YAML,
    }
    suffix = output.suffix.lower() if output is not None else ""
    return by_suffix.get(suffix, OutputFormat.TABLE)


def _plain_text(renderable: "RenderableType") -> str:
    from rich.console import Console

    text = io.StringIO()
    console = Console(
        file=text, width=WIDTH, markup=False, emoji=False, highlight=False
    )
    console.print(renderable)
    return text.getvalue()
