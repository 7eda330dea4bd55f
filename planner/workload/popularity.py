"""Popularity: how traffic divides among many LLMs, and when each has its peak.

Sharing GPUs pays where some LLMs are popular and others are not, and where they are
not popular at the same time. Both are made here: rates that fall with the rank by a
power law, and days whose peaks fall together or apart.

Reference
    Duan et al., "MuxServe", ICML 2024, arXiv 2404.02015, section 4: rates by a power
    law with exponents from 0.7 (even) to 2.1 (skewed), and one day of ChatLMSYS.
"""

from collections.abc import Sequence

import numpy as np

from clusters.fields import InputError
from clusters.units import S_PER_HOUR
from planner.workload.lengths import LengthDistribution
from planner.workload.rate_schedule import PiecewiseRateArrivals, RateSegment
from planner.workload.requests import FloatArray
from planner.workload.workload import Workload

CHATLMSYS_DAY: tuple[tuple[str, int], ...] = (
    ("llama-13b", 703),
    ("llama-13b", 101),
    ("llama-13b", 612),
    ("llama-7b", 704),
    ("llama-13b", 95),
    ("llama-13b", 160),
    ("llama-7b", 85),
    ("llama-30b", 177),
    ("llama-30b", 66),
    ("llama-65b", 69),
    ("llama-30b", 534),
    ("llama-13b", 164),
    ("llama-7b", 169),
    ("llama-65b", 76),
    ("llama-7b", 273),
    ("llama-65b", 117),
)
"""LLM and relative traffic of 16 services on day 55 of ChatLMSYS, as released with
MuxServe (github.com/hao-ai-lab/MuxServe, benchmark/chatlmsys/yamls, 2024-07)."""

MAX_PERIODS = 12
"""Periods of a day that are told apart: more would make every unit dearer to find."""
_HOURS_PER_DAY = 24.0
_DIGITS = 9
"""Of rates that are told apart."""


def power_law_rates(
    num_llms: int, *, alpha: float, busiest_rps: float
) -> tuple[float, ...]:
    """Rates that fall with the rank: busiest_rps * rank ** -alpha."""
    if num_llms < 1:
        raise InputError("num_llms", num_llms, "a whole number >= 1")
    if not 0 <= alpha < np.inf:
        raise InputError("alpha", alpha, "a number >= 0")
    if not 0 < busiest_rps < np.inf:
        raise InputError("busiest_rps", busiest_rps, "a number > 0")
    return tuple(float(busiest_rps * rank**-alpha) for rank in range(1, num_llms + 1))


def staggered_days(
    num_llms: int,
    *,
    peak_to_mean: float,
    spread_frac: float,
    day_s: float = _HOURS_PER_DAY * S_PER_HOUR,
    num_segments: int = 24,
) -> tuple[PiecewiseRateArrivals, ...]:
    """A day for each LLM: one cosine, its peak later from LLM to LLM.

    Parameters
    ----------
    num_llms
        How many days.
    peak_to_mean
        Rate of the peak over the mean, at least 1 and below 2.
    spread_frac
        Part of a day over which the peaks are spread: 0: all at once (correlated), 1:
        evenly over the day. Two LLMs at 1 are opposite (anti-correlated).
    day_s
        Length of the day; a shorter one repeats sooner.
    num_segments
        Steps of each day.
    """
    if not 0 <= spread_frac <= 1:
        raise InputError("spread_frac", spread_frac, "a number >= 0 and <= 1")
    if not 0 < day_s < np.inf:
        raise InputError("day_s", day_s, "a number > 0")
    noon = PiecewiseRateArrivals.diurnal(
        peak_to_mean=peak_to_mean, num_segments=num_segments
    )
    multipliers = [segment.multiplier for segment in noon.segments]
    days = []
    for index in range(num_llms):
        later = round(spread_frac * num_segments * index / num_llms)
        turned = multipliers[-later:] + multipliers[:-later] if later else multipliers
        segments = (
            RateSegment(duration_s=day_s / num_segments, multiplier=multiplier)
            for multiplier in turned
        )
        days.append(PiecewiseRateArrivals(segments=tuple(segments)))
    return tuple(days)


def staggered_workloads(
    rates_rps: Sequence[float],
    lengths: LengthDistribution | str,
    days: Sequence[PiecewiseRateArrivals],
) -> tuple[Workload, ...]:
    """A workload for each rate and day; draw each with a seed of its own."""
    return tuple(
        Workload.of_lengths(lengths, arrivals=day, rate_rps=rate)
        for rate, day in zip(rates_rps, days, strict=True)
    )


def combined_peak_frac(
    rates_rps: Sequence[float], days: Sequence[PiecewiseRateArrivals]
) -> float:
    """Peak of all traffic together over the sum of the peaks.

    1 where all peak at once: GPUs of their own waste nothing then. The further below 1,
    the more of dedicated GPUs idle while others are busy.
    """
    loads = []
    for rate, day in zip(rates_rps, days, strict=True):
        multipliers = np.array([segment.multiplier for segment in day.segments])
        loads.append(rate * multipliers / multipliers.mean())
    together = np.sum(loads, axis=0)
    return float(together.max() / sum(load.max() for load in loads))


def busy_periods(workloads: Sequence[Workload]) -> tuple[tuple[float, ...], ...]:
    """Rates of workloads in the periods of their day, over the mean rate of each.

    Periods in which every workload is at most as busy as in another are left out, and
    of many periods neighbours become one, as busy as the busier of them. So nothing is
    busier than what is returned. Workloads without a schedule are equally busy all day.
    Days of different lengths have no periods in common: all peaks then coincide.

    Returns
    -------
    tuple[tuple[float, ...], ...]
        Of each workload one number for each period, shape (num_workloads, num_periods).
    """
    days = [
        each.arrivals if isinstance(each.arrivals, PiecewiseRateArrivals) else None
        for each in workloads
    ]
    lengths = {round(day.period_s, 3) for day in days if day is not None}
    if len(lengths) > 1:
        return tuple((1.0 if day is None else day.peak_to_mean,) for day in days)
    ends = sorted({end for day in days if day is not None for end in day.ends_s})
    starts = [0.0, *ends[:-1]]
    busy = np.array(
        [
            [1.0] * max(1, len(ends))
            if day is None
            else [day.rate_at(start) for start in starts]
            for day in days
        ]
    )
    busy = without_dominated(busy)
    most = -(-busy.shape[1] // MAX_PERIODS)
    merged = [
        busy[:, first : first + most].max(axis=1)
        for first in range(0, busy.shape[1], most)
    ]
    columns = without_dominated(np.column_stack(merged))
    return tuple(tuple(row) for row in columns.tolist())


def without_dominated(busy: FloatArray) -> FloatArray:
    """Columns that no other is at least as large as in every row, in their order."""
    unique = np.unique(busy.round(_DIGITS), axis=1, return_index=True)[1]
    busy = busy[:, np.sort(unique)]
    rounded = busy.round(_DIGITS)
    is_kept = [
        not any(
            other != column and np.all(rounded[:, other] >= rounded[:, column])
            for other in range(busy.shape[1])
        )
        for column in range(busy.shape[1])
    ]
    kept: FloatArray = busy[:, is_kept]
    return kept
