"""Arrivals whose rate changes over time in steps, e.g. over a day.

A process with unit rate is drawn first and its clock is then stretched so that it runs
faster in busy segments (time change of a renewal process). All rates therefore see the
same draws, and the mean over a whole period is the asked rate.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S, S_PER_HOUR
from planner.workload.arrivals import gamma_unit_gaps
from planner.workload.requests import FloatArray

_HOURS_PER_DAY = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyArrivals:
    """A day in a problem file: one cosine, with its peak at an hour."""

    peak_to_mean: float = spec("Rate of the peak over the mean, below 2.", unit="1")
    peak_hour: float = spec("Hour of the peak.", unit="h", ge=0, lt=24, default=12.0)
    cv: float = spec(
        "Coefficient of variation of the gaps at one rate (1: Poisson).",
        unit="1",
        gt=0,
        le=100,
        default=1.0,
    )
    kind: Literal["daily"] = spec("Tag in files.", default="daily")

    def __post_init__(self) -> None:
        check_fields(self)
        self.schedule()

    def schedule(self) -> "PiecewiseRateArrivals":
        """The rates by the hour; the peak is at the hour that is nearest."""
        noon = PiecewiseRateArrivals.diurnal(peak_to_mean=self.peak_to_mean, cv=self.cv)
        later = round(self.peak_hour - _HOURS_PER_DAY / 2) % _HOURS_PER_DAY
        hours = noon.segments[-later:] + noon.segments[:-later] if later else None
        return noon if hours is None else replace(noon, segments=hours)


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

    @property
    def period_s(self) -> float:
        """Time after which it repeats."""
        return sum(segment.duration_s for segment in self.segments)

    @property
    def ends_s(self) -> tuple[float, ...]:
        """When each segment ends, to the nanosecond."""
        edges = np.cumsum([segment.duration_s for segment in self.segments])
        return tuple(round(float(edge), 9) for edge in edges)

    @property
    def peak_to_mean(self) -> float:
        """Rate of the busiest segment over the mean."""
        return max(self.rate_at(start) for start in (0.0, *self.ends_s[:-1]))

    def rate_at(self, time_s: float) -> float:
        """Rate at a time of the first period, over the mean."""
        loads = [each.duration_s * each.multiplier for each in self.segments]
        mean = sum(loads) / self.period_s
        index = int(np.searchsorted(self.ends_s, time_s, side="right"))
        return self.segments[min(index, len(self.segments) - 1)].multiplier / mean

    def squeezed(self, period_s: float) -> Self:
        """The same rates, one period in another time."""
        factor = period_s / self.period_s
        segments = tuple(
            replace(segment, duration_s=segment.duration_s * factor)
            for segment in self.segments
        )
        return replace(self, segments=segments)

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
