"""Rows of a CSV trace, given which columns mean what."""

import csv
from collections.abc import Callable, Iterator
from typing import Protocol

from clusters.fields import InputError
from clusters.mapping import nearest
from planner.workload.traces.rows import (
    Columns,
    ModelRows,
    TraceRow,
    parsed,
    whole_number,
)


def csv_rows(
    lines: Iterator[str],
    *,
    file: str,
    columns: Columns,
    to_ms: Callable[[str], float],
    model: str | None = None,
) -> Iterator[TraceRow]:
    """Rows of a CSV file with a header line, of one `model` or of all.

    `to_ms` turns a cell of the arrival column into ms, or raises a ValueError that says
    what is expected. Hashes are separated by blanks.

    Raises
    ------
    InputError
        Naming file, line and column of the first cell that cannot be read.
    """
    reader = csv.reader(lines)
    records = _records(reader, file)
    header = [name.strip() for name in next(records, [])]
    at_arrival = _position(columns.arrival, header, file)
    at_input = _position(columns.input, header, file)
    at_output = _position(columns.output, header, file)
    at_hashes = None
    if columns.hashes is not None:
        at_hashes = _position(columns.hashes, header, file)
    rows = ModelRows(model, columns.model, file=file)
    at_model = None if rows.column is None else _position(rows.column, header, file)
    for cells in records:
        line = reader.line_num
        if len(cells) != len(header):
            expected = f"{len(header)} columns ({', '.join(header)})"
            raise InputError("", ",".join(cells), expected, file=f"{file}:{line}")
        if at_model is not None and not rows.keeps(cells[at_model].strip()):
            continue
        try:
            # The common case first: a long trace has millions of these.
            arrival_ms = to_ms(cells[at_arrival])
            input_tokens, output_tokens = int(cells[at_input]), int(cells[at_output])
        except ValueError:
            found = cells[at_arrival], cells[at_input], cells[at_output]
            arrival_ms, input_tokens, output_tokens = _read_one_by_one(
                found, columns, to_ms=to_ms, place=f"{file}:{line}"
            )
        hashes = None
        if at_hashes is not None:
            cell, key = cells[at_hashes], header[at_hashes]
            hashes = parsed(_whole_numbers, cell, key=key, place=f"{file}:{line}")
        yield line, arrival_ms, input_tokens, output_tokens, hashes
    rows.check()


def _read_one_by_one(
    cells: tuple[str, str, str],
    columns: Columns,
    *,
    to_ms: Callable[[str], float],
    place: str,
) -> tuple[float, int, int]:
    """Arrival, input and output of a row of which `int()` could not read all."""
    arrival, input_cell, output_cell = cells
    return (
        parsed(to_ms, arrival, key=columns.arrival, place=place),
        parsed(whole_number, input_cell, key=columns.input, place=place),
        parsed(whole_number, output_cell, key=columns.output, place=place),
    )


def header_of(line: str) -> list[str]:
    """Column names of the first line of a CSV file."""
    return [name.strip() for name in next(csv.reader([line]), [])]


class _CsvReader(Protocol):
    """What `csv.reader` returns."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


def _records(reader: _CsvReader, file: str) -> Iterator[list[str]]:
    """Records that are not blank; errors of the CSV syntax with their line."""
    try:
        for cells in reader:
            if cells and not (len(cells) == 1 and not cells[0].strip()):
                yield cells
    except csv.Error as error:
        place = f"{file}:{reader.line_num}"
        raise InputError("", "...", f"a CSV line ({error})", file=place) from None


def _position(name: str, header: list[str], file: str) -> int:
    if name not in header:
        hint = nearest(name, header)
        raise InputError("", ",".join(header), f"a column {name!r} ({hint})", file=file)
    return header.index(name)


def _whole_numbers(cell: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, cell.split()))
    except ValueError:
        raise ValueError("whole numbers separated by blanks") from None
