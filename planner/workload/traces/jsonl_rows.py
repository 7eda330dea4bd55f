"""Rows of a trace with one JSON object a line, given which keys mean what."""

import json
from collections.abc import Callable, Iterator

from clusters.fields import InputError
from clusters.mapping import nearest
from planner.workload.traces.rows import (
    Columns,
    ModelRows,
    TraceRow,
    finite_number,
    parsed,
    whole_number,
)


def jsonl_rows(
    lines: Iterator[str],
    *,
    file: str,
    columns: Columns,
    to_ms: Callable[[float], float],
    model: str | None = None,
) -> Iterator[TraceRow]:
    """Rows of a JSON-lines file; `columns` names its keys, hashes may be absent.

    Of one `model`, or of all.

    Raises
    ------
    InputError
        Naming file, line and key of the first value that cannot be read.
    """
    rows = ModelRows(model, columns.model, file=file)
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        place = f"{file}:{line}"
        record = json_object(text, place=place)
        if rows.column is not None and not rows.keeps(str(record.get(rows.column))):
            continue
        for key in (columns.arrival, columns.input, columns.output):
            if key not in record:
                expected = f"the key {key!r} ({nearest(key, record)})"
                raise InputError("", text.strip(), expected, file=place)
        arrival = record[columns.arrival]
        hashes = None
        if columns.hashes is not None and columns.hashes in record:
            hashes = parsed(
                _whole_numbers, record[columns.hashes], key=columns.hashes, place=place
            )
        yield (
            line,
            to_ms(parsed(finite_number, arrival, key=columns.arrival, place=place)),
            parsed(whole_number, record[columns.input], key=columns.input, place=place),
            parsed(
                whole_number, record[columns.output], key=columns.output, place=place
            ),
            hashes,
        )
    rows.check()


def json_object(text: str, *, place: str) -> dict[str, object]:
    """One JSON object in a line of text.

    Raises
    ------
    InputError
        If the line is anything else.
    """
    try:
        record = json.loads(text)
    except ValueError as error:
        problem = getattr(error, "msg", "malformed number")
        raise InputError("", text.strip(), f"JSON ({problem})", file=place) from None
    except RecursionError:
        expected = "JSON that is not nested so deeply"
        raise InputError("", "...", expected, file=place) from None
    if not isinstance(record, dict):
        raise InputError("", record, "a JSON object on every line", file=place)
    return record


def _whole_numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ValueError("a list of whole numbers")
    return tuple(value)
