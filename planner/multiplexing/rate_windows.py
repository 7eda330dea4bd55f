"""Rates of services over time, as a placement counts with them.

Schedules tell their rates. Those of a recorded trace are counted in windows of the time
that is simulated. Counts vary by chance as well: as much as Poisson counts vary is
taken off (the method of moments, as in empirical Bayes), so that a trace of independent
users is as busy all the time as a Poisson workload is. Of many windows those stay in
which some services are busier than in any other one; the most alike of them become one,
as busy as the busier, until few are left.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from clusters.units import MS_PER_S
from planner.multiplexing.clock import replayed, span_of_workloads, squeeze_of
from planner.workload.popularity import MAX_PERIODS, busy_periods, without_dominated
from planner.workload.rate_schedule import PiecewiseRateArrivals
from planner.workload.requests import FloatArray
from planner.workload.workload import Workload

NUM_WINDOWS = 120
"""Windows that a trace is counted in: of half a minute for an hour."""


class RateProfile(StrEnum):
    """Which rates of the services units are planned for."""

    OVER_TIME = "over_time"
    """Those of every part of the day or trace: peaks at different times share."""
    PEAK = "peak"
    """The peak of each service, as if all came at once."""
    MEAN = "mean"
    """The mean of each service, whenever its peaks are."""


def busy_over_time(
    workloads: Sequence[Workload], profile: RateProfile = RateProfile.OVER_TIME
) -> tuple[tuple[float, ...], ...]:
    """Rates of workloads in the periods that a placement tells apart.

    Parameters
    ----------
    workloads
        Of each service.
    profile
        Which of its rates count.

    Returns
    -------
    tuple[tuple[float, ...], ...]
        Of each workload its rates over its mean one, shape (num_workloads,
        num_periods).
    """
    if profile is RateProfile.MEAN:
        return ((1.0,),) * len(workloads)
    if any(workload.trace is not None for workload in workloads):
        busy = _fewer(without_dominated(window_rates(workloads)), MAX_PERIODS)
        periods = tuple(tuple(row) for row in busy.tolist())
    else:
        periods = busy_periods(workloads)
    if profile is RateProfile.PEAK:
        return tuple((max(row),) for row in periods)
    return periods


def window_rates(workloads: Sequence[Workload]) -> FloatArray:
    """Rate of each workload in each window over its mean, (num_workloads, windows)."""
    span_s = span_of_workloads(workloads)
    squeeze = squeeze_of(workloads, span_s)
    edges_s = np.linspace(0.0, span_s, NUM_WINDOWS + 1)
    rows = [np.ones(NUM_WINDOWS)] * len(workloads)
    for index, workload in enumerate(workloads):
        if workload.trace is not None:
            rows[index] = _counted(workload, edges_s)
        elif isinstance(workload.arrivals, PiecewiseRateArrivals):
            rows[index] = _scheduled(workload.arrivals, squeeze, edges_s)
    return np.array(rows)


def _counted(workload: Workload, edges_s: FloatArray) -> FloatArray:
    """Rates of a trace by its counts, without what chance adds to their variance."""
    span_s = float(edges_s[-1])
    num = max(1, round((workload.mean_rate_rps or 0.0) * span_s))
    arrival_s = replayed(workload, num + 1, span_s).arrival_ms / MS_PER_S
    counts = np.histogram(arrival_s, bins=edges_s)[0].astype(np.float64)
    mean = max(counts.mean(), 1e-9)
    real_frac = max(0.0, 1.0 - mean / max(counts.var(), 1e-9))
    rates: FloatArray = 1.0 + real_frac * (counts / mean - 1.0)
    return rates


def _scheduled(
    arrivals: PiecewiseRateArrivals, squeeze: float, edges_s: FloatArray
) -> FloatArray:
    """The highest rate of a schedule in each window, shape (num_windows,)."""
    day = arrivals.squeezed(arrivals.period_s * squeeze)
    ends = np.array(day.ends_s)
    starts = np.array((0.0, *day.ends_s[:-1]))
    rates = np.array([day.rate_at(start) for start in starts.tolist()])
    lap_s = day.ends_s[-1]
    # What only touches a window is not in it, whichever way it was rounded.
    rounding_s = 1e-6 * float(edges_s[1])
    found = []
    for low, high in zip(edges_s[:-1].tolist(), edges_s[1:].tolist(), strict=True):
        if high - low >= lap_s:
            found.append(rates.max())
            continue
        first = math.floor(low / lap_s) * lap_s
        laps = np.array([[first], [first + lap_s]])
        shared = np.minimum(laps + ends, high) - np.maximum(laps + starts, low)
        found.append(rates[(shared > rounding_s).any(axis=0)].max())
    return np.array(found)


def _fewer(busy: FloatArray, most: int) -> FloatArray:
    """At most so many periods: again and again the two whose union is least busier."""
    while busy.shape[1] > most:
        union = np.maximum(busy[:, :, None], busy[:, None, :])
        more = (union - busy[:, :, None]).sum(axis=0)
        more += (union - busy[:, None, :]).sum(axis=0)
        np.fill_diagonal(more, np.inf)
        i, j = np.unravel_index(int(np.argmin(more)), more.shape)
        merged = busy.copy()
        merged[:, i] = union[:, i, j]
        busy = without_dominated(np.delete(merged, j, axis=1))
    return busy
