"""The traffic of all services together, on one clock.

Days are simulated in less time: every part of a day lasts a part of the span, at its
full rate, so that queues see each rate and peaks of different services keep their
order. Recorded requests keep the clock of their files.
"""

import math
from dataclasses import replace

import numpy as np

from clusters.units import MS_PER_S
from planner.multiplexing.problem import SharedProblem
from planner.workload.rate_schedule import PiecewiseRateArrivals
from planner.workload.requests import Requests
from planner.workload.workload import Workload

SPAN_S = 300.0
"""Time that is simulated where rates do not change."""
DAY_SPAN_S = 600.0
"""Time that a day is simulated in."""
MOST_REQUESTS = 1_000_000
"""Requests up to which whole traces are replayed."""


def span_of(problem: SharedProblem, *, rate_scale: float = 1.0) -> float:
    """Time that a simulation of the services spans, in s.

    Longer for days, and for traces as long as they last, up to `MOST_REQUESTS`.
    """
    span_s = SPAN_S
    total_rps = 0.0
    for service in problem.services:
        workload = service.workload
        total_rps += (workload.mean_rate_rps or 0.0) * rate_scale
        if _day_s(workload) > span_s:
            span_s = max(span_s, DAY_SPAN_S)
        if workload.trace is not None:
            stretch = _stretch(workload, rate_scale)
            lasts_s = workload.trace.duration_ms / MS_PER_S * stretch
            span_s = max(span_s, lasts_s)
    return max(SPAN_S, min(span_s, MOST_REQUESTS / total_rps))


def draw_all(
    problem: SharedProblem, *, span_s: float, seed: int, rate_scale: float = 1.0
) -> dict[str, Requests]:
    """Requests of every service over a span, by name.

    Parameters
    ----------
    problem
        The services.
    span_s
        Time that the arrivals span, in s.
    seed
        Seed of the traffic; each service draws apart.
    rate_scale
        Factor on all rates.
    """
    longest_s = max(_day_s(service.workload) for service in problem.services)
    squeeze = min(1.0, span_s / longest_s) if longest_s > 0 else 1.0
    found = {}
    for index, service in enumerate(problem.services):
        workload = service.workload
        rate = (workload.mean_rate_rps or 0.0) * rate_scale
        num = max(1, round(rate * span_s))
        if workload.trace is not None:
            found[service.name] = _replayed(workload, num + 1, span_s, rate_scale)
            continue
        arrivals = workload.arrivals
        if isinstance(arrivals, PiecewiseRateArrivals) and squeeze < 1.0:
            day = arrivals.squeezed(arrivals.period_s * squeeze)
            workload = replace(workload, arrivals=day)
        drawn = workload.draw(num, seed=_seed(seed, index), rate_rps=rate)
        found[service.name] = drawn
    return found


def _replayed(
    workload: Workload, num: int, span_s: float, rate_scale: float
) -> Requests:
    """Recorded requests from the beginning of their file's clock on, over the span."""
    trace = workload.trace
    assert trace is not None, "a recorded workload"
    rate = (workload.mean_rate_rps or 0.0) * rate_scale
    drawn = workload.draw(num, seed=0, rate_rps=rate)
    late_ms = float(trace.arrival_ms[0]) * _stretch(workload, rate_scale)
    kept = drawn.arrival_ms + late_ms <= span_s * MS_PER_S
    kept[0] = True
    return Requests(
        arrival_ms=drawn.arrival_ms[kept] + late_ms,
        input_tokens=drawn.input_tokens[kept],
        output_tokens=drawn.output_tokens[kept],
    )


def _stretch(workload: Workload, rate_scale: float) -> float:
    """How much slower than recorded a trace is replayed."""
    assert workload.trace is not None, "a recorded workload"
    rate = (workload.mean_rate_rps or 0.0) * rate_scale
    return workload.trace.rate_rps / rate if rate > 0 else math.inf


def _day_s(workload: Workload) -> float:
    """Time after which the rates of a workload repeat; 0: they do not change."""
    if isinstance(workload.arrivals, PiecewiseRateArrivals):
        return workload.arrivals.period_s
    return 0.0


def _seed(seed: int, index: int) -> int:
    """A seed for each service, far from those of the next seeds."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
