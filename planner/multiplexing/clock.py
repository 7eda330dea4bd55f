"""The one clock that the traffic of all services is put on.

Days are simulated in less time: every part of a day lasts a part of the span, at its
full rate, so that queues see each rate and peaks of different services keep their
order. Recorded requests keep the clock of their files.
"""

import math
from collections.abc import Sequence

from clusters.units import MS_PER_S
from planner.workload.rate_schedule import PiecewiseRateArrivals
from planner.workload.requests import Requests
from planner.workload.workload import Workload

SPAN_S = 300.0
"""Time that is simulated where rates do not change."""
DAY_SPAN_S = 600.0
"""Time that a day is simulated in."""
MOST_REQUESTS = 1_000_000
"""Requests up to which whole traces are replayed."""


def span_of_workloads(workloads: Sequence[Workload], rate_scale: float = 1.0) -> float:
    """Time that a simulation of the workloads spans, in s.

    Longer for days, and for traces as long as they last, up to `MOST_REQUESTS`.
    """
    span_s, total_rps = SPAN_S, 0.0
    for workload in workloads:
        total_rps += (workload.mean_rate_rps or 0.0) * rate_scale
        if day_s(workload) > span_s:
            span_s = max(span_s, DAY_SPAN_S)
        if workload.trace is not None:
            stretch = stretch_of(workload, rate_scale)
            lasts_s = workload.trace.duration_ms / MS_PER_S * stretch
            span_s = max(span_s, lasts_s)
    return max(SPAN_S, min(span_s, MOST_REQUESTS / total_rps))


def squeeze_of(workloads: Sequence[Workload], span_s: float) -> float:
    """How much shorter than real days are, the longest of which lasts the span."""
    longest_s = max((day_s(workload) for workload in workloads), default=0.0)
    return min(1.0, span_s / longest_s) if longest_s > 0 else 1.0


def replayed(
    workload: Workload, num: int, span_s: float, rate_scale: float = 1.0
) -> Requests:
    """Recorded requests from the beginning of their file's clock on, over the span."""
    trace = workload.trace
    assert trace is not None, "a recorded workload"
    rate = (workload.mean_rate_rps or 0.0) * rate_scale
    drawn = workload.draw(num, seed=0, rate_rps=rate)
    late_ms = float(trace.arrival_ms[0]) * stretch_of(workload, rate_scale)
    kept = drawn.arrival_ms + late_ms <= span_s * MS_PER_S
    kept[0] = True
    return Requests(
        arrival_ms=drawn.arrival_ms[kept] + late_ms,
        input_tokens=drawn.input_tokens[kept],
        output_tokens=drawn.output_tokens[kept],
    )


def stretch_of(workload: Workload, rate_scale: float = 1.0) -> float:
    """How much slower than recorded a trace is replayed."""
    assert workload.trace is not None, "a recorded workload"
    rate = (workload.mean_rate_rps or 0.0) * rate_scale
    return workload.trace.rate_rps / rate if rate > 0 else math.inf


def day_s(workload: Workload) -> float:
    """Time after which the rates of a workload repeat; 0: they do not change."""
    if isinstance(workload.arrivals, PiecewiseRateArrivals):
        return workload.arrivals.period_s
    return 0.0


def changes(workload: Workload) -> bool:
    """Whether the rate of a workload changes over time, as far as it is known."""
    return workload.trace is not None or day_s(workload) > 0
