"""Azure LLM inference traces of 2023 and 2024.

``TIMESTAMP,ContextTokens,GeneratedTokens``. Times are dates with a fraction of up to
7 digits; those of 2024 carry an offset from UTC.
Source: github.com/Azure/AzurePublicDataset.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from clusters.units import s_to_ms
from planner.workload.traces.csv_rows import csv_rows
from planner.workload.traces.rows import Columns, TraceRow

AZURE = Columns(arrival="TIMESTAMP", input="ContextTokens", output="GeneratedTokens")

_MINUTE = len("2023-11-16 18:15")
_EXPECTED = "a date and time like 2023-11-16 18:15:46.6805900"


class _Clock:
    """Dates to ms after the minute of the first one.

    Milliseconds since 1970 would take all digits of a float; and most requests come in
    the same minute as the one before, so only the seconds are read each time.
    """

    def __init__(self) -> None:
        self._zero: datetime | None = None
        self._minute = ""
        self._minute_ms = 0.0

    def ms(self, text: str) -> float:
        """Milliseconds of a date; ValueError if it is not one."""
        zone_at = max(text.find("+", _MINUTE), text.find("-", _MINUTE))
        if zone_at < 0:
            zone_at = len(text) - (text[-1:] == "Z")
        minute = text[:_MINUTE] + text[zone_at:]
        if minute != self._minute:
            self._start_minute(minute)
        try:
            seconds = float(text[_MINUTE + 1 : zone_at])
        except ValueError:
            raise ValueError(_EXPECTED) from None
        if text[_MINUTE] != ":" or not 0 <= seconds <= 61:
            raise ValueError(_EXPECTED)
        return self._minute_ms + s_to_ms(seconds)

    def _start_minute(self, minute: str) -> None:
        try:
            moment = datetime.fromisoformat(minute)
        except ValueError:
            raise ValueError(_EXPECTED) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if self._zero is None:
            self._zero = moment
        self._minute_ms = s_to_ms((moment - self._zero).total_seconds())
        self._minute = minute


def azure_rows(lines: Iterator[str], *, file: str) -> Iterator[TraceRow]:
    """Rows of an Azure trace; times may be negative, counted from the first row."""
    return csv_rows(lines, file=file, columns=AZURE, to_ms=_Clock().ms)
