"""Text of a trace file, piece by piece: the one place where traces are opened.

A week of requests is a file of half a gigabyte, so nothing here or in the readers
holds more than a line or an item of it.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from clusters.fields import InputError

_MAX_LINE_CHARS = 50_000_000
_PIECE_CHARS = 100_000
_FIRST_LINE_CHARS = 5_000_000


def read_lines(path: str | Path) -> Generator[str, None, None]:
    """Lines of a UTF-8 file with their ends.

    Bytes that are not UTF-8 become replacement characters: in a number they are an
    error of that line, in a text column they do no harm.

    Raises
    ------
    InputError
        If there is no such file, it cannot be read, or a line is absurdly long.
    """
    with _opened(path) as source:
        num_lines = 0
        while line := source.readline(_MAX_LINE_CHARS):
            num_lines += 1
            if len(line) >= _MAX_LINE_CHARS:
                expected = f"lines shorter than {_MAX_LINE_CHARS} characters"
                raise InputError("", line[:60], expected, file=f"{path}:{num_lines}")
            yield line


def read_pieces(path: str | Path) -> Generator[str, None, None]:
    """The same text in pieces of bounded size, wherever its lines end."""
    with _opened(path) as source:
        while piece := source.read(_PIECE_CHARS):
            yield piece


def first_line(path: str | Path) -> str:
    """The first line that is not blank, without its end; empty if there is none."""
    with _opened(path) as source:
        while line := source.readline(_FIRST_LINE_CHARS):
            if line.strip():
                return line.strip()
    return ""


@contextmanager
def _opened(path: str | Path) -> Iterator[TextIO]:
    try:
        with Path(path).open(encoding="utf-8-sig", errors="replace", newline="") as it:
            yield it
    except FileNotFoundError:
        problem = "an existing file"
    except IsADirectoryError:
        problem = "a file, not a folder"
    except OSError as error:
        problem = f"a readable file ({error.strerror})"
    else:
        return
    raise InputError("", str(path), problem, file=str(path))
