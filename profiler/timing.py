"""Timing: run a step until the confidence interval of its median is narrow enough.

Reference
    Hoefler, Belli, "Scientific Benchmarking of Parallel Computing Systems", SC 2015
    (rules 5-7: medians with non-parametric confidence intervals). The interval of a
    median by ranks: Conover, "Practical Nonparametric Statistics", section 3.2.

A sample that does not settle is taken once more from the start; if that does not
settle either it is marked unstable, never averaged away.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from models.profile_records import Conditions, Spread

FloatArray = NDArray[np.float64]
Step = Callable[[], object]

_NORMAL_95 = 1.96


class DeviceClock(Protocol):
    """Times steps on a device."""

    def times_ms(self, step: Step, count: int) -> FloatArray:
        """Duration of `count` runs of `step`, in ms, shape ``(count,)``."""
        ...

    def now_s(self) -> float:
        """Wall-clock time in s, for limits on the measurement itself."""
        ...

    @property
    def conditions(self) -> Conditions | None:
        """State of the device while it was last busy; None: nobody looked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSettings:
    """When a measurement is good enough, and when it is given up."""

    target_ci_frac: float = spec(
        "Half width of the interval over the median.", unit="1", gt=0, default=0.02
    )
    num_warmup: int = spec("Runs that do not count.", unit="runs", ge=0, default=3)
    min_samples: int = spec("Fewest samples.", unit="samples", ge=6, default=10)
    max_samples: int = spec("Most samples of a try.", unit="samples", ge=6, default=200)
    max_s: float = spec("Longest time of a try.", unit="s", gt=0, default=2.0)
    num_tries: int = spec("Tries before it is unstable.", unit="tries", ge=1, default=2)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A spread, and whether it settled."""

    spread: Spread = spec("Median and spread.")
    is_stable: bool = spec("Whether the interval is as narrow as asked.")


def measure(
    step: Step, clock: DeviceClock, settings: TimingSettings | None = None
) -> Measurement:
    """Time `step` until its median is known well enough, or the limits are reached."""
    settings = settings or TimingSettings()
    best: Spread | None = None
    for _ in range(settings.num_tries):
        if settings.num_warmup:
            clock.times_ms(step, settings.num_warmup)
        spread = _one_try(step, clock, settings)
        if spread.ci_frac <= settings.target_ci_frac:
            return Measurement(spread=spread, is_stable=True)
        if best is None or spread.ci_frac < best.ci_frac:
            best = spread
    assert best is not None
    return Measurement(spread=best, is_stable=False)


def _one_try(step: Step, clock: DeviceClock, settings: TimingSettings) -> Spread:
    started = clock.now_s()
    samples = clock.times_ms(step, settings.min_samples)
    while True:
        spread = spread_of(samples)
        is_over = clock.now_s() - started >= settings.max_s
        room = settings.max_samples - len(samples)
        if spread.ci_frac <= settings.target_ci_frac or is_over or room <= 0:
            return spread
        more = clock.times_ms(step, min(room, len(samples)))
        samples = np.concatenate([samples, more])


def spread_of(samples_ms: FloatArray) -> Spread:
    """Median, percentiles and the interval of the median by ranks."""
    ordered = np.sort(samples_ms)
    num = len(ordered)
    median = float(np.median(ordered))
    reach = _NORMAL_95 * math.sqrt(num) / 2.0
    low = max(0, math.floor(num / 2.0 - reach))
    high = min(num - 1, math.ceil(num / 2.0 + reach))
    return Spread(
        ms=median,
        p10_ms=float(np.percentile(ordered, 10)),
        p90_ms=float(np.percentile(ordered, 90)),
        ci_frac=float(ordered[high] - ordered[low]) / 2.0 / median,
        num_samples=num,
    )


@dataclass(frozen=True, slots=True)
class CpuClock:
    """Times steps with the host's clock."""

    def times_ms(self, step: Step, count: int) -> FloatArray:
        """Duration of each run, in ms."""
        found = np.empty(count)
        for index in range(count):
            started = time.perf_counter()
            step()
            found[index] = (time.perf_counter() - started) * MS_PER_S
        return found

    def now_s(self) -> float:
        """Wall-clock time in s."""
        return time.perf_counter()

    @property
    def conditions(self) -> Conditions | None:
        """A CPU tells nothing."""
        return None


@dataclass(slots=True)
class SyntheticClock:
    """A device that exists on paper: a step returns its own duration in ms.

    Noise is relative and normal; a share of the samples are outliers. Time passes only
    as steps run.
    """

    rng: np.random.Generator
    noise_frac: float = 0.0
    outlier_frac: float = 0.0
    outlier_factor: float = 3.0
    elapsed_s: float = field(default=0.0, init=False)

    def times_ms(self, step: Step, count: int) -> FloatArray:
        """Duration of each run, in ms."""
        exact = np.array([float(step()) for _ in range(count)])  # type: ignore[arg-type]
        noise = 1.0 + self.noise_frac * self.rng.standard_normal(count)
        is_outlier = self.rng.random(count) < self.outlier_frac
        found: FloatArray = exact * np.maximum(noise, 0.1)
        found[is_outlier] *= self.outlier_factor
        self.elapsed_s += float(found.sum()) / MS_PER_S
        return found

    def now_s(self) -> float:
        """Time that has passed on the device, in s."""
        return self.elapsed_s

    @property
    def conditions(self) -> Conditions | None:
        """There is no device."""
        return None
