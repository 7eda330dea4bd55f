"""Reading a trace of any known format, recognised by its first line."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from clusters.fields import InputError
from clusters.mapping import nearest
from planner.workload.prefix_blocks import MOONCAKE_BLOCK_TOKENS
from planner.workload.requests import Requests
from planner.workload.traces.azure import AZURE, azure_rows
from planner.workload.traces.burstgpt import BURSTGPT, burstgpt_rows
from planner.workload.traces.csv_rows import header_of
from planner.workload.traces.lines import first_line, read_lines, read_pieces
from planner.workload.traces.mooncake import (
    BAILIAN_BLOCK_TOKENS,
    MOONCAKE,
    bailian_rows,
    mooncake_rows,
)
from planner.workload.traces.own import is_own, own_csv_rows, own_jsonl_rows
from planner.workload.traces.rows import TraceRow, collect
from planner.workload.traces.sharegpt import sharegpt_rows


class TraceFormat(StrEnum):
    """Formats of trace files."""

    AZURE = "azure"
    MOONCAKE = "mooncake"
    BAILIAN = "bailian"
    BURSTGPT = "burstgpt"
    SHAREGPT = "sharegpt"
    CSV = "csv"
    JSONL = "jsonl"

    @property
    def has_times(self) -> bool:
        """Whether requests have arrival times; without, all arrive at 0."""
        return self is not TraceFormat.SHAREGPT


class _Reader(Protocol):
    def __call__(self, lines: Iterator[str], *, file: str) -> Iterator[TraceRow]: ...


class _ModelReader(Protocol):
    def __call__(
        self, lines: Iterator[str], *, file: str, model: str | None = None
    ) -> Iterator[TraceRow]: ...


_READERS: dict[TraceFormat, _Reader] = {
    TraceFormat.AZURE: azure_rows,
    TraceFormat.MOONCAKE: mooncake_rows,
    TraceFormat.BAILIAN: bailian_rows,
    TraceFormat.BURSTGPT: burstgpt_rows,
    TraceFormat.SHAREGPT: sharegpt_rows,
    TraceFormat.CSV: own_csv_rows,
    TraceFormat.JSONL: own_jsonl_rows,
}

_READERS_OF_MODELS: dict[TraceFormat, _ModelReader] = {
    TraceFormat.BURSTGPT: burstgpt_rows,
    TraceFormat.CSV: own_csv_rows,
    TraceFormat.JSONL: own_jsonl_rows,
}
"""Formats whose rows may say which model they were sent to."""


def read_trace(
    path: str | Path,
    *,
    format: str | None = None,
    model: str | None = None,
    head: int | None = None,
) -> Requests:
    """Requests of a trace file, in order of arrival.

    Parameters
    ----------
    path
        The file.
    format
        A `TraceFormat`; None looks at the first line.
    model
        Only the rows of this model, in a format that tells them apart; None: all.
    head
        Only the first `head` usable rows (of these) of the file.

    Returns
    -------
    Requests
        Times as recorded, in ms; for dates, ms after the earliest.

    Raises
    ------
    InputError
        Naming file, line, column and range of the first value that cannot be used.

    Warns
    -----
    TraceWarning
        If rows were dropped or sorted, or something had to be interpreted.
    """
    kind = trace_format(path) if format is None else _named(format)
    file = str(path)
    # An array may be one long line, so its text does not come by line.
    read = read_pieces if kind is TraceFormat.SHAREGPT else read_lines
    with closing(read(path)) as lines:
        return collect(
            _rows(kind, lines, file, model),
            file=file,
            head=head,
            is_calendar=kind is TraceFormat.AZURE,
            block_tokens=(
                BAILIAN_BLOCK_TOKENS
                if kind is TraceFormat.BAILIAN
                else MOONCAKE_BLOCK_TOKENS
            ),
        )


def _rows(
    kind: TraceFormat, lines: Iterator[str], file: str, model: str | None
) -> Iterator[TraceRow]:
    if model is None:
        return _READERS[kind](lines, file=file)
    if kind not in _READERS_OF_MODELS:
        known = ", ".join(_READERS_OF_MODELS)
        form = f"null: only {known} traces tell models apart"
        raise InputError("model", model, form, file=file)
    return _READERS_OF_MODELS[kind](lines, file=file, model=model)


def trace_format(path: str | Path) -> TraceFormat:
    """The format of a file, from its first line.

    Raises
    ------
    InputError
        If the file is empty or the line fits no format.
    """
    line = first_line(path)
    if not line:
        raise InputError("trace", "no rows", "at least one request", file=str(path))
    if line.startswith("["):
        return TraceFormat.SHAREGPT
    names = _object_keys(line) if line.startswith("{") else header_of(line)
    for kind, fits in _SIGNS:
        if line.startswith("{") == (kind in _JSON_FORMATS) and fits(names):
            return kind
    known = ", ".join(TraceFormat)
    expected = f"a trace in a known format ({known})"
    raise InputError("", line, expected, file=f"{path}:1")


_JSON_FORMATS = {TraceFormat.BAILIAN, TraceFormat.MOONCAKE, TraceFormat.JSONL}

_SIGNS: tuple[tuple[TraceFormat, Callable[[list[str]], bool]], ...] = (
    (TraceFormat.AZURE, lambda names: AZURE.input in names),
    (TraceFormat.BURSTGPT, lambda names: BURSTGPT.input in names),
    (TraceFormat.BAILIAN, lambda names: "chat_id" in names and is_own(names)),
    (
        TraceFormat.MOONCAKE,
        lambda names: {MOONCAKE.arrival, MOONCAKE.input, MOONCAKE.output} <= set(names),
    ),
    (TraceFormat.CSV, is_own),
    (TraceFormat.JSONL, is_own),
)


def _object_keys(line: str) -> list[str]:
    """Keys of a JSON object; an object that is malformed is left to the reader."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return ["arrival_ms", "input_tokens", "output_tokens"]
    return list(found)


def _named(name: str) -> TraceFormat:
    if name not in set(TraceFormat):
        known = [member.value for member in TraceFormat]
        expected = f"one of {', '.join(known)} ({nearest(name, known)})"
        raise InputError("format", name, expected)
    return TraceFormat(name)
