"""Arrival processes: when requests come.

An open process draws *unit gaps* (mean 1, the first 0) and scales them by the rate. So
for one seed all rates see the same gaps, only shorter or longer: a comparison of two
rates or two plans is not blurred by luck (common random numbers).
"""

from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S
from planner.workload.requests import FloatArray, Requests


class ArrivalProcess(Protocol):
    """When requests come, at a given mean rate."""

    def arrival_ms(
        self, num_requests: int, *, rate_rps: float, rng: np.random.Generator
    ) -> FloatArray:
        """Arrival times in ms, shape ``(num_requests,)``, rising, the first at 0."""


def arrivals_of_unit_gaps(unit_gaps: FloatArray, *, rate_rps: float) -> FloatArray:
    """Arrival times in ms of gaps that are counted in mean gaps."""
    times: FloatArray = np.cumsum(unit_gaps) * (MS_PER_S / rate_rps)
    return times


def gamma_unit_gaps(
    num_requests: int, *, cv: float, rng: np.random.Generator
) -> FloatArray:
    """Gamma gaps with mean 1 and coefficient of variation `cv`, after a first 0."""
    gaps = np.zeros(num_requests)
    shape = 1 / cv**2
    gaps[1:] = rng.gamma(shape, 1 / shape, size=num_requests - 1)
    return gaps


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonArrivals:
    """Independent users: exponential gaps."""

    kind: Literal["poisson"] = spec("Tag in files.", default="poisson")

    def arrival_ms(
        self, num_requests: int, *, rate_rps: float, rng: np.random.Generator
    ) -> FloatArray:
        """Exponential gaps with mean 1/rate."""
        gaps = np.zeros(num_requests)
        gaps[1:] = rng.standard_exponential(num_requests - 1)
        return arrivals_of_unit_gaps(gaps, rate_rps=rate_rps)


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaArrivals:
    """Burstier (cv > 1) or smoother (cv < 1) than Poisson (cv = 1)."""

    cv: float = spec(
        "Standard deviation of the gaps over their mean.", unit="1", gt=0, le=100
    )
    kind: Literal["gamma"] = spec("Tag in files.", default="gamma")

    def __post_init__(self) -> None:
        check_fields(self)

    def arrival_ms(
        self, num_requests: int, *, rate_rps: float, rng: np.random.Generator
    ) -> FloatArray:
        """Gamma gaps with mean 1/rate."""
        gaps = gamma_unit_gaps(num_requests, cv=self.cv, rng=rng)
        return arrivals_of_unit_gaps(gaps, rate_rps=rate_rps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedGapArrivals:
    """A metronome: one request every 1/rate."""

    kind: Literal["fixed_gap"] = spec("Tag in files.", default="fixed_gap")

    def arrival_ms(
        self, num_requests: int, *, rate_rps: float, rng: np.random.Generator
    ) -> FloatArray:
        """Equal gaps; the generator is not used."""
        times: FloatArray = np.arange(num_requests, dtype=np.float64) * (
            MS_PER_S / rate_rps
        )
        return times


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceArrivals:
    """Recorded gaps, from a random start, again from the front when they run out.

    Attributes
    ----------
    gaps_ms
        Recorded gaps, shape ``(num_gaps,)``, not negative.
    """

    gaps_ms: FloatArray

    def __post_init__(self) -> None:
        gaps = self.gaps_ms
        if len(gaps) == 0 or not np.isfinite(gaps).all() or gaps.min() < 0:
            raise InputError("gaps_ms", "...", "at least one gap, all finite and >= 0")
        if gaps.max() == 0:
            raise InputError("gaps_ms", 0, "requests that do not all arrive at once")

    @classmethod
    def of(cls, requests: Requests) -> Self:
        """The gaps between recorded requests."""
        return cls(gaps_ms=np.diff(requests.arrival_ms))

    def arrival_ms(
        self, num_requests: int, *, rate_rps: float, rng: np.random.Generator
    ) -> FloatArray:
        """The recorded gaps, scaled so that their mean is 1/rate."""
        start = rng.integers(len(self.gaps_ms))
        index = (start + np.arange(num_requests - 1)) % len(self.gaps_ms)
        gaps: FloatArray = np.zeros(num_requests)
        gaps[1:] = self.gaps_ms[index] / float(self.gaps_ms.mean())
        return arrivals_of_unit_gaps(gaps, rate_rps=rate_rps)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """A fixed number of clients, each sending its next request when one is answered.

    It has no arrival times of its own: they follow from how fast the system answers.
    """

    concurrency: int = spec(
        "Requests in the system at any time.", unit="requests", ge=1, le=10_000_000
    )
    ramp_s: float = spec(
        "The clients begin one after the other over this time.",
        unit="s",
        ge=0,
        default=0.0,
    )
    kind: Literal["closed_loop"] = spec("Tag in files.", default="closed_loop")

    def __post_init__(self) -> None:
        check_fields(self)
