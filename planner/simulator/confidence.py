"""Confidence intervals by batch means: how sure a figure of one simulation is.

Reference
    Law and Kelton, "Simulation Modeling and Analysis", section 9.5.3; Asmussen and
    Glynn, "Stochastic Simulation", section IV.5 (also for percentiles).

Idea
    Requests that follow each other share their queue, so their times are dependent and
    the spread of single requests says little about the error of a mean. Means of long
    batches of successive requests are nearly independent, and so are their percentiles.

Steps
    1. Leave out the requests that arrive while the system fills.
    2. Cut the rest, in order of arrival, into equal batches.
    3. Take the mean, or a percentile, of every batch; Student's t of their spread.

Differences from the textbook
    - The value is that of all requests, not the mean over batches: percentiles of small
      batches are biased.

Assumes   batches much longer than a busy period; a steady state after the warm-up
Cost      one pass
Guarantee the level, asymptotically; too narrow when batches are correlated
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec

FloatArray = NDArray[np.float64]

MIN_BATCHES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMeans:
    """How a figure is cut into batches."""

    num_batches: int = spec("Batches.", unit="1", ge=MIN_BATCHES, default=20)
    warmup_frac: float = spec(
        "Requests left out at the start.", unit="1", ge=0, lt=1, default=0.1
    )
    level_frac: float = spec("Confidence level.", unit="1", gt=0, lt=1, default=0.95)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and how far the true one may be from it."""

    value: float = spec("The figure.", unit="of the sample")
    half_width: float | None = spec(
        "Half the confidence interval. None: too few requests to say.",
        unit="of the sample",
        default=None,
    )


def estimate(
    values: FloatArray,
    *,
    percent: float | None = None,
    batches: BatchMeans | None = None,
) -> Estimate:
    """Mean or percentile of `values`, with its confidence interval by batch means.

    Parameters
    ----------
    values
        One figure a request, in order of arrival, shape ``(num_requests,)``; NaN where
        a request has none.
    percent
        Which percentile; None: the mean.
    batches
        How to cut; by default 20 batches after a tenth of warm-up, at 95 %.
    """
    how = batches or BatchMeans()
    if percent is not None and not 0.0 <= percent <= 100.0:
        raise InputError("percent", percent, "a number >= 0 and <= 100")
    # 1. Leave out the warm-up.
    kept = values[int(how.warmup_frac * len(values)) :]
    kept = kept[np.isfinite(kept)]
    if len(kept) == 0:
        return Estimate(value=math.nan)
    value = _statistic(kept[np.newaxis], percent)[0]
    # 2. Equal batches; a remainder at the end is in the value only.
    length = len(kept) // how.num_batches
    if length < 1:
        return Estimate(value=float(value))
    cut = kept[: length * how.num_batches].reshape(how.num_batches, length)
    # 3. Spread of the batches.
    spread = float(np.std(_statistic(cut, percent), ddof=1))
    quantile = _student_t(how.num_batches - 1, how.level_frac)
    return Estimate(
        value=float(value), half_width=quantile * spread / math.sqrt(how.num_batches)
    )


def _statistic(rows: FloatArray, percent: float | None) -> FloatArray:
    """Mean or percentile of every row."""
    if percent is None:
        return np.asarray(rows.mean(axis=1), dtype=np.float64)
    return np.asarray(np.percentile(rows, percent, axis=1), dtype=np.float64)


def _student_t(degrees: int, level_frac: float) -> float:
    """Two-sided quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + level_frac / 2.0))
