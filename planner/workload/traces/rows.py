"""From the rows of any trace file to `Requests`: ranges, order and counted drops."""

import math
import warnings
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from clusters.fields import InputError
from clusters.mapping import nearest
from planner.workload.prefix_blocks import MOONCAKE_BLOCK_TOKENS, PrefixBlocks
from planner.workload.requests import MAX_TOKENS, Requests

TraceRow = tuple[int, float, int, int, tuple[int, ...] | None]
"""Line number, arrival in ms, input tokens, output tokens, prefix hashes."""

T = TypeVar("T")

_TOKENS = f"a whole number from 1 to {MAX_TOKENS}"


class TraceWarning(UserWarning):
    """A trace needed sorting, lost rows, or had to be interpreted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the columns (or JSON keys) that hold what we need."""

    arrival: str
    input: str
    output: str
    hashes: str | None = None
    model: str | None = None


class ModelRows:
    """Which rows of a trace of several models are those of one; None: all rows."""

    def __init__(self, wanted: str | None, column: str | None, *, file: str) -> None:
        self._wanted, self._column, self._file = wanted, column, file
        self._seen: dict[str, None] = {}
        if wanted is not None and column is None:
            form = "null: this trace does not say whose rows are whose"
            raise InputError("model", wanted, form, file=file)

    @property
    def column(self) -> str | None:
        """Name of the column to look at; None: every row counts."""
        return None if self._wanted is None else self._column

    def keeps(self, model: str) -> bool:
        """Whether a row of this model counts."""
        self._seen[model] = None
        return model == self._wanted

    def check(self) -> None:
        """Refuse a model that no row had.

        Raises
        ------
        InputError
            Naming the nearest model of the trace.
        """
        if self._wanted is not None and self._wanted not in self._seen:
            form = f"a model of the trace ({nearest(self._wanted, self._seen)})"
            raise InputError("model", self._wanted, form, file=self._file)


def parsed(parse: Callable[[Any], T], value: object, *, key: str, place: str) -> T:
    """`parse(value)`; its ValueError says what is expected and becomes an InputError.

    Raises
    ------
    InputError
        With `key` and `place` (file and line).
    """
    try:
        return parse(value)
    except ValueError as error:
        raise InputError(key, value, str(error), file=place) from None


def whole_number(value: object) -> int:
    """A count in a text cell or a JSON value; ``12.0`` counts as 12.

    Raises
    ------
    ValueError
        If it is not a whole number.
    """
    if type(value) is int:
        return value
    number = finite_number(value)
    if not number.is_integer():
        raise ValueError("a whole number")
    return int(number)


def finite_number(value: object) -> float:
    """A number in a text cell or a JSON value.

    Raises
    ------
    ValueError
        If it is not one, or NaN or infinite.
    """
    is_readable = isinstance(value, str | int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_readable else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


def collect(
    rows: Iterable[TraceRow],
    *,
    file: str,
    head: int | None = None,
    is_calendar: bool = False,
    block_tokens: int = MOONCAKE_BLOCK_TOKENS,
) -> Requests:
    """Check every row and gather them, sorted by arrival.

    Reading stops after `head` usable rows. With `is_calendar`, times come from dates
    and may have any sign; the earliest becomes 0. Otherwise they stay as they are.
    `block_tokens` is what a prefix hash stands for.

    Raises
    ------
    InputError
        Naming file, line and column of the first bad value, or for an empty trace.

    Warns
    -----
    TraceWarning
        If rows without tokens were dropped, or rows were not in order of arrival.
    """
    if head is not None and head < 1:
        raise InputError("head", head, "a whole number >= 1")
    arrivals, inputs, outputs = array("d"), array("q"), array("q")
    hashes, num_hashes = array("q"), array("q")
    earliest_ms = -math.inf if is_calendar else 0.0
    num_dropped = 0
    for row in rows:
        _, arrival_ms, input_tokens, output_tokens, row_hashes = row
        if not (
            0 < input_tokens <= MAX_TOKENS
            and 0 < output_tokens <= MAX_TOKENS
            and earliest_ms <= arrival_ms < math.inf
        ):
            _check_row(row, file, earliest_ms)
            num_dropped += 1
            continue
        if row_hashes is not None:
            num_hashes.extend(0 for _ in range(len(arrivals) - len(num_hashes)))
            num_hashes.append(len(row_hashes))
            _extend(hashes, row_hashes, place=f"{file}:{row[0]}")
        arrivals.append(arrival_ms)
        inputs.append(input_tokens)
        outputs.append(output_tokens)
        if len(arrivals) == head:
            break
    _warn_of_drops(file, num_dropped, len(arrivals))
    blocks = None
    if num_hashes:
        num_hashes.extend(0 for _ in range(len(arrivals) - len(num_hashes)))
        blocks = _prefix_blocks(hashes, num_hashes, block_tokens)
    return _sorted_requests(arrivals, inputs, outputs, blocks, file, is_calendar)


def _extend(hashes: "array[int]", added: tuple[int, ...], *, place: str) -> None:
    try:
        hashes.extend(added)
    except OverflowError:
        raise InputError(
            "hash_ids", max(added, key=abs), "whole numbers of 64 bits", file=place
        ) from None


def _prefix_blocks(
    hashes: "array[int]", num_hashes: "array[int]", block_tokens: int
) -> PrefixBlocks:
    """The hashes as flat arrays, not copied."""
    offsets = np.zeros(len(num_hashes) + 1, dtype=np.int64)
    np.cumsum(np.frombuffer(num_hashes, dtype=np.int64), out=offsets[1:])
    return PrefixBlocks(
        ids=np.frombuffer(hashes, dtype=np.int64),
        offsets=offsets,
        block_tokens=block_tokens,
    )


def _check_row(row: TraceRow, file: str, earliest_ms: float) -> None:
    """Raise for a value out of range; rows with zero tokens pass (they are dropped)."""
    line, arrival_ms, input_tokens, output_tokens, _ = row
    place = f"{file}:{line}"
    if not earliest_ms <= arrival_ms < math.inf:
        raise InputError("arrival_ms", arrival_ms, "a finite time >= 0", file=place)
    for key, tokens in (
        ("input_tokens", input_tokens),
        ("output_tokens", output_tokens),
    ):
        if not 0 <= tokens <= MAX_TOKENS:
            raise InputError(key, tokens, _TOKENS, file=place)


def _warn_of_drops(file: str, num_dropped: int, num_kept: int) -> None:
    if num_kept == 0:
        found = f"{num_dropped} rows without tokens" if num_dropped else "no rows"
        raise InputError("trace", found, "at least one request", file=file)
    if num_dropped:
        warnings.warn(
            f"{file}: {num_dropped} of {num_dropped + num_kept} rows have no input or "
            "no output tokens (failed requests); dropped",
            TraceWarning,
            stacklevel=4,
        )


def _sorted_requests(
    arrivals: "array[float]",
    inputs: "array[int]",
    outputs: "array[int]",
    prefix_blocks: PrefixBlocks | None,
    file: str,
    is_calendar: bool,
) -> Requests:
    # The arrays are read in place: a second copy of a long trace would cost as much.
    arrival_ms = np.frombuffer(arrivals, dtype=np.float64)
    input_tokens = np.frombuffer(inputs, dtype=np.int64)
    output_tokens = np.frombuffer(outputs, dtype=np.int64)
    num_early = int((np.diff(arrival_ms) < 0).sum())
    if num_early:
        warnings.warn(
            f"{file}: {num_early} of {len(arrival_ms)} rows arrive before the row "
            "above them; sorted by arrival",
            TraceWarning,
            stacklevel=4,
        )
        order = np.argsort(arrival_ms, kind="stable")
        arrival_ms, input_tokens = arrival_ms[order], input_tokens[order]
        output_tokens = output_tokens[order]
        if prefix_blocks is not None:
            prefix_blocks = prefix_blocks.take(order)
    if is_calendar:
        arrival_ms = arrival_ms - arrival_ms[0]
    return Requests(
        arrival_ms=arrival_ms,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        prefix_blocks=prefix_blocks,
    )
