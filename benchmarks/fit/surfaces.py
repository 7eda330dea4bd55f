"""One surface over columns of a measured table: knots, floor, groups, fit."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from models.latency.fit import Rows, fit_surface, made_monotone
from models.latency.fit_file import Evidence, FittedOperator
from models.latency.operators.gemm import Peaks
from models.latency.operators.surface import Axis, FloatArray, Surface

STORED_BYTES = {
    "bfloat16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int8_wo": 1.0,
    "sq": 1.0,
    "int4_wo": 0.52,
    "nvfp4": 0.5625,
    "w4a16_mxfp4": 0.53125,
    "w4a8_mxfp4_mxfp8": 0.53125,
}
"""Bytes of a weight with its scales, by the package's name of the number format."""
FEWEST_ROWS, FEWEST_EXCHANGE_ROWS = 300, 20
Fitted = Iterator[tuple[str, FittedOperator]]
PeaksOf = Callable[[str], Peaks | None]


def fit_rising(
    points: tuple[FloatArray, ...],
    axes: tuple[Axis, ...],
    latency: pd.Series,
    groups: np.ndarray,
    ideal: Callable[..., FloatArray],
    rng: np.random.Generator,
    *,
    along: tuple[int, ...],
) -> tuple[Surface, Evidence]:
    """Fit, with time at the knots made to rise along the axes numbered `along`."""
    rows = Rows(
        coordinates=points,
        ideal_ms=ideal(*points),
        measured_ms=floats(latency),
        groups=groups,
    )
    knots = np.meshgrid(*(np.asarray(axis.knots) for axis in axes), indexing="ij")
    at_knots = ideal(*knots)
    return fit_surface(
        rows,
        axes,
        rng,
        repair=lambda surface: made_monotone(surface, at_knots, along),
    )


def axis_of(name: str, knots: tuple[float, ...], seen: FloatArray) -> Axis:
    """The knots within the data; a tile edge only where the data has its far side."""
    present = set(np.unique(seen).tolist())
    low, high = seen.min(), seen.max()
    kept = [
        float(knot)
        for knot in dict.fromkeys(knots)
        if low <= knot <= high
        and (knot - 1 not in knots or knot in present or knot < 16)
    ]
    return Axis(name=name, knots=tuple(kept or [float(np.median(seen))]))


def floor_of(latency: pd.Series) -> float:
    """Nine tenths of the second percentile: below nearly every row."""
    return round(0.9 * float(latency.quantile(0.02)), 6)


def groups_of(*columns: FloatArray) -> np.ndarray:
    """Rows with equal values in every column make one group."""
    keys = pd.MultiIndex.from_arrays(list(columns))
    return pd.factorize(keys)[0].astype(np.int64)


def floats(column: pd.Series) -> FloatArray:
    """A column as floats."""
    return column.to_numpy(dtype=np.float64)
