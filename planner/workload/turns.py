"""Turns: requests that come a while after another one of their session has ended."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, spec

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FIRST_TURN = -1
"""Previous turn of a request that opens a session."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turns:
    """Which requests follow which, first turns before all others.

    Attributes
    ----------
    previous
        Index of the request before, or -1, shape ``(num_requests,)``.
    think_ms
        Time from the end of that one to the arrival, shape ``(num_requests,)``.
    """

    previous: IntArray = spec("Index of the turn before; -1: none.")
    think_ms: FloatArray = spec("From its end to this arrival.", unit="ms")

    def __post_init__(self) -> None:
        later = self.previous[self.num_first :]
        is_known = (later >= 0) & (later < np.arange(self.num_first, len(self)))
        if not is_known.all() or (self.previous[: self.num_first] != FIRST_TURN).any():
            raise InputError(
                "previous", "...", "first turns (-1), then turns of requests before"
            )
        if len(np.unique(later)) != len(later):
            raise InputError("previous", "...", "one turn after each request")
        times = self.think_ms
        if len(times) != len(self) or not np.isfinite(times).all() or times.min() < 0:
            raise InputError("think_ms", "...", f"{len(self)} finite times >= 0")

    def __len__(self) -> int:
        return len(self.previous)

    @property
    def num_first(self) -> int:
        """How many requests open a session."""
        return int((self.previous == FIRST_TURN).sum())

    def roots(self) -> IntArray:
        """The request that opened the session of each, shape ``(num_requests,)``."""
        root = np.arange(len(self))
        for turn in range(self.num_first, len(self)):
            root[turn] = root[self.previous[turn]]
        return root

    def take(self, index: IntArray) -> Self:
        """Those of the requests at `index`, which rises.

        Raises
        ------
        InputError
            If a turn is taken without the one before it.
        """
        place = np.full(len(self) + 1, FIRST_TURN)  # one more, for -1
        place[index] = np.arange(len(index))
        previous = place[self.previous[index]]
        if ((previous == FIRST_TURN) != (self.previous[index] == FIRST_TURN)).any():
            raise InputError("index", "...", "sessions from their first turn on")
        return type(self)(previous=previous, think_ms=self.think_ms[index])
