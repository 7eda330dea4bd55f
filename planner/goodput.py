"""Goodput: the highest rate at which a system meets its SLO, with its uncertainty.

Bracketed bisection on the rate under common random numbers: for one seed every rate and
every system sees the same lengths and the same unit-rate gaps, scaled, so two systems
differ by what they are and not by luck. Runs stop as soon as the SLO cannot be met any
more. The rate never exceeds the capacity bound: a finite run can look good beyond what
lasts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

from clusters.fields import InputError, check_fields, spec
from planner.capacity import system_capacity_rps
from planner.simulator.simulate import is_within_limits, simulate
from planner.simulator.system import ServingSystem
from planner.slo import Slo
from planner.workload.requests import Requests
from planner.workload.workload import Workload

_CONFIDENCE_FRAC = 0.95
_LOWEST_FRAC = 1e-6
"""Share of the capacity below which no rate is tried."""
_FIRST_STRIDE = 2.0
"""Steps of the bisection that the second guess of a rate lies from the first."""

Verdicts = dict[tuple[int, int, float], bool]
"""Whether the SLO was met, by seed, number of requests and their rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard to look: length of the runs, seeds, and tolerance of the bisection."""

    min_requests: int = spec(
        "Fewest requests of a run.", unit="requests", ge=1, default=300
    )
    max_requests: int = spec(
        "Most requests of a run.", unit="requests", ge=1, default=3000
    )
    span_s: float = spec(
        "Arrivals a run should span, within these bounds.", unit="s", ge=0, default=60.0
    )
    num_seeds: int = spec("Runs with different seeds.", unit="1", ge=1, default=1)
    tolerance_frac: float = spec(
        "Relative width at which the bisection ends.",
        unit="1",
        gt=0,
        lt=1,
        default=0.01,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_requests < self.min_requests:
            raise InputError(
                "max_requests", self.max_requests, f"at least {self.min_requests}"
            )

    def num_requests(self, rate_rps: float) -> int:
        """Requests of a run at `rate_rps`."""
        wanted = math.ceil(self.span_s * rate_rps)
        return min(max(wanted, self.min_requests), self.max_requests)


SCREENING = Effort(tolerance_frac=0.02)
"""For the many candidates of a search."""
FINAL = Effort(
    min_requests=2000,
    max_requests=20000,
    span_s=200.0,
    num_seeds=5,
    tolerance_frac=0.01,
)
"""For the few that a search ends with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """Highest rate within the SLO: mean over seeds, with a confidence interval."""

    rate_rps: float = spec("Mean over the seeds.", unit="requests/s", ge=0)
    low_rps: float = spec("Lower end of the interval.", unit="requests/s", ge=0)
    high_rps: float = spec("Upper end of the interval.", unit="requests/s", ge=0)
    confidence_frac: float = spec("Confidence of the interval.", unit="1", ge=0, le=1)
    num_seeds: int = spec("Seeds.", unit="1", ge=1)
    capacity_rps: float = spec("Bound no schedule exceeds.", unit="requests/s", ge=0)
    light_load_frac: float = spec(
        "Where the SLO is met at no rate: share of good requests at a very low one.",
        unit="1",
        ge=0,
        le=1,
        default=1.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)


def goodput(
    system: ServingSystem,
    workload: Workload,
    slo: Slo,
    *,
    effort: Effort = SCREENING,
    seed: int = 0,
    floor_rps: float = 0.0,
    near_rps: float = 0.0,
    verdicts: Verdicts | None = None,
) -> Goodput:
    """Find the highest rate at which `system` meets `slo` on `workload`.

    Parameters
    ----------
    system, workload, slo
        What serves, what arrives, and what must hold.
    effort
        Length and number of runs.
    seed
        First seed; seed + i for run i.
    floor_rps
        Rates below are of no interest: when the first seed misses the SLO there, the
        answer is 0.
    near_rps
        A guess at the answer, which saves runs; 0: none.
    verdicts
        What runs of this system, workload and SLO came to before; those of this search
        are added. Searches of unlike effort have many runs in common.

    Returns
    -------
    Goodput
        0 when the SLO is missed at any rate.
    """
    rates = []
    known = {} if verdicts is None else verdicts
    capacity = math.inf
    for run in range(effort.num_seeds):
        bound = rate_limit_rps(system, workload, effort=effort, seed=seed + run)
        capacity = min(capacity, bound)
        floor = floor_rps if run == 0 else 0.0

        def is_met(rate: float, seed: int = seed + run) -> bool:
            num = effort.num_requests(rate)
            key = (seed, num, rate)
            if key not in known:
                requests = workload.draw(num, seed=seed, rate_rps=rate)
                known[key] = meets(system, requests, slo)
            return known[key]

        rate = bisect_rate(is_met, bound, effort.tolerance_frac, floor, near_rps)
        near_rps = rate
        rates.append(_lasting(rate, system, workload, slo, effort, seed + run))
        if rates[0] == 0.0:
            break
    low, high = _interval(rates)
    light_load_frac = 1.0
    if rates[0] == 0.0:
        lowest = floor_rps or capacity * _LOWEST_FRAC
        requests = workload.draw(effort.min_requests, seed=seed, rate_rps=lowest)
        light_load_frac = slo.binding_frac(slo.judge(simulate(system, requests)))
    return Goodput(
        rate_rps=float(np.mean(rates)),
        low_rps=low,
        high_rps=high,
        confidence_frac=_CONFIDENCE_FRAC if len(rates) > 1 else 0.0,
        num_seeds=len(rates),
        capacity_rps=capacity,
        light_load_frac=light_load_frac,
    )


def total(parts: Sequence[tuple[Goodput, int]]) -> Goodput:
    """Goodput of systems side by side, each with how often it is there.

    Interval ends add up too, as if all parts erred the same way.
    """
    return Goodput(
        rate_rps=sum(part.rate_rps * n for part, n in parts),
        low_rps=sum(part.low_rps * n for part, n in parts),
        high_rps=sum(part.high_rps * n for part, n in parts),
        confidence_frac=min(part.confidence_frac for part, _ in parts),
        num_seeds=min(part.num_seeds for part, _ in parts),
        capacity_rps=sum(part.capacity_rps * n for part, n in parts),
        light_load_frac=min(part.light_load_frac for part, _ in parts),
    )


def rate_limit_rps(
    system: ServingSystem,
    workload: Workload,
    *,
    effort: Effort,
    seed: int,
    slo: Slo | None = None,
) -> float:
    """Capacity bound under the requests of the longest run, in requests/s.

    With an `slo` the rate at which it can be met for long, if that is less.
    """
    sample = capacity_sample(workload, effort, seed)
    limit_rps = system_capacity_rps(system, sample)
    if slo is None:
        return limit_rps
    return _lasting(limit_rps, system, workload, slo, effort, seed)


@lru_cache(maxsize=16)
def capacity_sample(workload: Workload, effort: Effort, seed: int) -> Requests:
    """The requests that capacity bounds of an effort are for: always the same ones."""
    return workload.draw(effort.max_requests, seed=seed, rate_rps=1.0)


def _lasting(
    rate_rps: float,
    system: ServingSystem,
    workload: Workload,
    slo: Slo,
    effort: Effort,
    seed: int,
) -> float:
    """The rate, or the one at which the SLO can be met for long, if that is less.

    A short run ends before the queue of a replica slightly too slow is too long.
    """
    if rate_rps <= 0.0:
        return 0.0
    sample = capacity_sample(workload, effort, seed)
    limit_rps = system_capacity_rps(system, sample, slo)
    return min(rate_rps, limit_rps) if limit_rps > 0.0 else rate_rps


def meets(system: ServingSystem, requests: Requests, slo: Slo) -> bool:
    """Whether `system` serves `requests` within `slo` (runs that miss stop early)."""
    return is_within_limits(system, requests, slo.stop_limits(len(requests)))


def bisect_rate(
    is_met: Callable[[float], bool],
    bound_rps: float,
    tolerance_frac: float,
    floor_rps: float = 0.0,
    near_rps: float = 0.0,
) -> float:
    """Highest rate in (0, `bound_rps`] with `is_met`, to a relative tolerance.

    Looks at `floor_rps` first and returns 0 when it is missed there. The search goes
    down by factors of 4 until a rate is met, and gives up at a millionth of the bound.

    Where `near_rps` is given, the step that the search would end with there is looked
    at first, and then those beside it: the answer is the same wherever a lower rate is
    never missed and a higher one met, with fewer runs.
    """
    if floor_rps > 0.0 and (floor_rps > bound_rps or not is_met(floor_rps)):
        return 0.0
    if near_rps <= 0.0:
        return _bisected(is_met, bound_rps, tolerance_frac, floor_rps)[0]
    met, missed, stride = floor_rps, math.inf, _FIRST_STRIDE

    def is_taken_for_met(rate: float) -> bool:
        return rate <= met or (rate < missed and rate <= near_rps)

    while True:
        low, high = _bisected(is_taken_for_met, bound_rps, tolerance_frac, floor_rps)
        if low > met:
            if is_met(low):
                met = low
            else:
                missed = low
        if low <= met and high < min(bound_rps, missed):
            if is_met(high):
                met = high
            else:
                missed = high
        if low <= met and (high >= missed or high >= bound_rps):
            return low
        if math.isinf(missed):
            near_rps = met + stride * (high - low)
        elif met <= floor_rps:
            near_rps = max(missed - stride * (high - low), 0.5 * (met + missed))
        else:
            near_rps = 0.5 * (met + missed)
        stride *= 2.0


def _bisected(
    is_met: Callable[[float], bool],
    bound_rps: float,
    tolerance_frac: float,
    floor_rps: float,
) -> tuple[float, float]:
    """The last step of the bisection: met at its lower end, missed at its upper."""
    if floor_rps > 0.0:
        low, high = floor_rps, bound_rps
    else:
        low, high = bound_rps / 2.0, bound_rps
        while not is_met(low):
            low, high = low / 4.0, low
            if low < bound_rps * _LOWEST_FRAC:
                return 0.0, high
    while high - low > tolerance_frac * high:
        middle = 0.5 * (low + high)
        if is_met(middle):
            low = middle
        else:
            high = middle
    return low, high


def _interval(rates: list[float]) -> tuple[float, float]:
    """Student's t interval of the mean; the value itself for one seed."""
    mean = float(np.mean(rates))
    if len(rates) < 2:
        return mean, mean
    error = float(np.std(rates, ddof=1)) / math.sqrt(len(rates))
    half = float(stdtrit(len(rates) - 1, 0.5 + _CONFIDENCE_FRAC / 2)) * error
    return max(0.0, mean - half), mean + half
