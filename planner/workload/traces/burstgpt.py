"""BurstGPT traces: seconds, request and response tokens, and columns we do not need.

``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``; later releases
add ``Session ID`` and ``Elapsed time``. A failed request has 0 response tokens.
Source: github.com/HPMLL/BurstGPT.
"""

from collections.abc import Iterator

from clusters.units import s_to_ms
from planner.workload.traces.csv_rows import csv_rows
from planner.workload.traces.rows import Columns, TraceRow, finite_number

BURSTGPT = Columns(
    arrival="Timestamp",
    input="Request tokens",
    output="Response tokens",
    model="Model",
)


def burstgpt_rows(
    lines: Iterator[str], *, file: str, model: str | None = None
) -> Iterator[TraceRow]:
    """Rows of a BurstGPT trace; failed requests are rows with 0 output tokens."""
    return csv_rows(
        lines, file=file, columns=BURSTGPT, to_ms=_seconds_to_ms, model=model
    )


def _seconds_to_ms(cell: str) -> float:
    return s_to_ms(finite_number(cell))
