"""Writing requests in our own trace format; reading them back gives the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from clusters.serde import write_text_atomic
from planner.workload.requests import FloatArray, IntArray, Requests
from planner.workload.traces.own import OWN

WriteFormat = Literal["csv", "jsonl"]


def write_requests(
    requests: Requests, path: str | Path, *, format: WriteFormat = "csv"
) -> None:
    """Write requests to a file as a whole, or not at all.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    write_text_atomic(path, requests_text(requests, format=format))


def requests_text(requests: Requests, *, format: WriteFormat) -> str:
    """The text of a trace file."""
    lines = _csv_lines(requests) if format == "csv" else _jsonl_lines(requests)
    return "\n".join(lines) + "\n"


def _csv_lines(requests: Requests) -> Iterator[str]:
    names = [OWN.arrival, OWN.input, OWN.output]
    columns = [array.tolist() for array in _arrays(requests)]
    if requests.prefix_blocks is not None:
        rows = requests.prefix_blocks.rows()
        names.append(str(OWN.hashes))
        columns.append([" ".join(map(str, ids)) for ids in rows])
    yield ",".join(names)
    # str() of a float is the shortest text that reads back as the same float.
    for row in zip(*columns, strict=True):
        yield ",".join(map(str, row))


def _jsonl_lines(requests: Requests) -> Iterator[str]:
    columns = [array.tolist() for array in _arrays(requests)]
    blocks = requests.prefix_blocks
    hashes = None if blocks is None else blocks.rows()
    for index, row in enumerate(zip(*columns, strict=True)):
        record = dict(zip((OWN.arrival, OWN.input, OWN.output), row, strict=True))
        if hashes is not None:
            record[str(OWN.hashes)] = hashes[index]
        yield json.dumps(record)


def _arrays(requests: Requests) -> tuple[FloatArray, IntArray, IntArray]:
    return requests.arrival_ms, requests.input_tokens, requests.output_tokens
