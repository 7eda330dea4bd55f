"""Our own trace format, CSV with a header or JSON lines, both with the same names.

``arrival_ms`` (or ``arrival_s``), ``input_tokens``, ``output_tokens`` and, optionally,
``hash_ids`` (prefix hashes; blanks between them in CSV) and ``model``, where the trace
is of several models. Common other names are read
too. A plain ``timestamp`` is taken as ms, as in Mooncake's traces, with a warning.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from itertools import chain

from clusters.fields import InputError
from clusters.mapping import nearest
from clusters.units import s_to_ms
from planner.workload.traces.csv_rows import csv_rows, header_of
from planner.workload.traces.jsonl_rows import json_object, jsonl_rows
from planner.workload.traces.rows import Columns, TraceRow, TraceWarning, finite_number

OWN = Columns(
    arrival="arrival_ms",
    input="input_tokens",
    output="output_tokens",
    hashes="hash_ids",
)

ARRIVAL_TO_MS: dict[str, Callable[[float], float]] = {
    "arrival_ms": float,
    "arrival_s": s_to_ms,
    "timestamp": float,
}
INPUT_NAMES = ("input_tokens", "input_length", "input_len")
OUTPUT_NAMES = ("output_tokens", "output_length", "output_len")
MODEL_NAME = "model"
_IGNORED = ("req_id", "request_id", "id")


def is_own(names: Collection[str]) -> bool:
    """Whether a header or an object has the lengths of our format."""
    return any(name in names for name in INPUT_NAMES) and any(
        name in names for name in OUTPUT_NAMES
    )


def own_csv_rows(
    lines: Iterator[str], *, file: str, model: str | None = None
) -> Iterator[TraceRow]:
    """Rows of our CSV form."""
    first, lines = _peeked(lines)
    columns = _columns(header_of(first), file, has_models=model is not None)
    to_ms = ARRIVAL_TO_MS[columns.arrival]
    return csv_rows(
        lines,
        file=file,
        columns=columns,
        to_ms=lambda cell: to_ms(finite_number(cell)),
        model=model,
    )


def own_jsonl_rows(
    lines: Iterator[str], *, file: str, model: str | None = None
) -> Iterator[TraceRow]:
    """Rows of our JSON-lines form; the first object says which names are used."""
    first, lines = _peeked(lines)
    names = list(json_object(first, place=f"{file}:1"))
    columns = _columns(names, file, has_models=model is not None)
    to_ms = ARRIVAL_TO_MS[columns.arrival]
    return jsonl_rows(lines, file=file, columns=columns, to_ms=to_ms, model=model)


def _peeked(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first line that is not blank, and all lines including it."""
    seen = []
    for line in lines:
        seen.append(line)
        if line.strip():
            break
    return (seen[-1] if seen else ""), chain(seen, lines)


def _columns(names: list[str], file: str, *, has_models: bool) -> Columns:
    """Which of the names hold what.

    Raises
    ------
    InputError
        If one is missing or there are two for the same thing.
    """
    columns = Columns(
        arrival=_only(names, tuple(ARRIVAL_TO_MS), file),
        input=_only(names, INPUT_NAMES, file),
        output=_only(names, OUTPUT_NAMES, file),
        hashes="hash_ids" if "hash_ids" in names else None,
        model=MODEL_NAME if has_models and MODEL_NAME in names else None,
    )
    used = {columns.arrival, columns.input, columns.output, columns.hashes, *_IGNORED}
    used.add(columns.model)
    unused = [name for name in names if name not in used]
    notes = [f"columns not used: {', '.join(unused)}"] if unused else []
    if columns.arrival == "timestamp":
        notes.append("'timestamp' is read as ms; call it arrival_ms or arrival_s")
    if notes:
        warnings.warn(f"{file}: {'; '.join(notes)}", TraceWarning, stacklevel=5)
    return columns


def _only(names: list[str], wanted: tuple[str, ...], file: str) -> str:
    found = [name for name in names if name in wanted]
    if len(found) == 1:
        return found[0]
    hint = f" ({nearest(wanted[0], names)})" if not found else ""
    expected = f"one column of {', '.join(wanted)}{hint}"
    raise InputError("", ",".join(found or names), expected, file=file)
