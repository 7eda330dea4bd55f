"""Arrivals whose rate changes over time in steps, e.g. over a day.

A process with unit rate is drawn first and its clock is then stretched so that it runs
faster in busy segments (time change of a renewal process). All rates therefore see the
same draws, and the mean over a whole period is the asked rate.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S, S_PER_HOUR
from planner.workload.arrivals import gamma_unit_gaps
from planner.workload.requests import FloatArray

_HOURS_PER_DAY = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSegment:
    """A stretch of time with one rate."""

    duration_s: float = spec("How long it lasts.", unit="s", gt=0)
    multiplier: float = spec("Rate relative to the other segments.", unit="1", gt=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecewiseRateArrivals:
    """Segments one after the other, repeated; multipliers are scaled to a mean of 1."""

    segments: tuple[RateSegment, ...] = spec("At least one segment.")
    cv: float = spec(
        "Coefficient of variation of the gaps within a segment (1: Poisson).",
        unit="1",
        gt=0,
        le=100,
        default=1.0,
    )
    kind: Literal["piecewise"] = spec("Tag in files.", default="piecewise")

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.segments:
            raise InputError("segments", (), "at least one segment")

    @classmethod
    def diurnal(
        cls, *, peak_to_mean: float, num_segments: int = 24, cv: float = 1.0
    ) -> Self:
        """One cosine over a day, from the trough at midnight to the peak at noon."""
        if not 1 <= peak_to_mean < 2:
            raise InputError("peak_to_mean", peak_to_mean, "a number >= 1 and < 2")
        if num_segments < 1:
            raise InputError("num_segments", num_segments, "a whole number >= 1")
        angles = (2 * math.pi * (i + 0.5) / num_segments for i in range(num_segments))
        return cls(
            segments=tuple(
                RateSegment(
                    duration_s=_HOURS_PER_DAY * S_PER_HOUR / num_segments,
                    multiplier=1 - (peak_to_mean - 1) * math.cos(angle),
                )
                for angle in angles
            ),
            cv=cv,
        )

    def arrival_ms(
        self, num_requests: int, *, rate_rps: float, rng: np.random.Generator
    ) -> FloatArray:
        """Arrival times in ms: even time is drawn, then stretched by segment."""
        even_s = (
            np.cumsum(gamma_unit_gaps(num_requests, cv=self.cv, rng=rng)) / rate_rps
        )
        durations_s = np.array([segment.duration_s for segment in self.segments])
        loads = durations_s * [segment.multiplier for segment in self.segments]
        period_s = durations_s.sum()
        real_edges_s = np.concatenate([[0.0], durations_s.cumsum()])
        even_edges_s = np.concatenate([[0.0], loads.cumsum()]) * period_s / loads.sum()
        num_periods, within_s = np.divmod(even_s, period_s)
        times_s = num_periods * period_s + np.interp(
            within_s, even_edges_s, real_edges_s
        )
        # Rounding at the seam of two periods must not turn time back.
        times: FloatArray = np.maximum.accumulate(times_s) * MS_PER_S
        return times
