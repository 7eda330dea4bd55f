"""Fitting surfaces: robust least squares on relative error, then made monotone.

Reference
    Holland, Welsch, "Robust regression using iteratively reweighted least-squares",
    Communications in Statistics 1977 (the reweighting). Barlow, Bartholomew, Bremner,
    Brunk, "Statistical Inference under Order Restrictions", 1972 (isotonic means).

Idea
    A surface is linear in its knot values, and the residual of a logarithm is a
    relative error. So a fit is one sparse least-squares problem, repeated with weights
    that turn squares into absolute values, with a small penalty on the difference of
    neighbouring knots for places without data.

Steps
    1. Write every row as weights on the knots around it.
    2. Solve; weight each row by 1 / |residual|; repeat.
    3. Make the time at the knots rise along the axes named, by pooling.
    4. Repeat 1-3 without a quarter of the groups and score those, four times over:
       every row is held out once. One group alone leaves the held-out error unknown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import spsolve

from clusters.fields import spec
from models.latency.fit_file import Evidence
from models.latency.operators.surface import Axis, FloatArray, Surface

_SMOOTHNESS = 0.05
"""Weight of a neighbour difference against one row."""
_ROBUST_FROM = 0.02
"""Residuals beyond this count by their absolute value."""
_REPEATS = 5
_FOLDS = 4
Repair = Callable[[Surface], Surface]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Measurements of one operator.

    Arrays have shape ``(num_rows,)``; `coordinates` one such array per axis.
    """

    coordinates: tuple[FloatArray, ...] = spec("Where on the axes.")
    ideal_ms: FloatArray = spec("Ideal time of each row.", unit="ms")
    measured_ms: FloatArray = spec("Measured time.", unit="ms")
    groups: NDArray[np.int64] = spec("Rows of one group are held out together.")


def fit_surface(
    rows: Rows,
    axes: tuple[Axis, ...],
    rng: np.random.Generator,
    *,
    repair: Repair = lambda surface: surface,
) -> tuple[Surface, Evidence]:
    """The surface through `rows`, and its error on them and on held-out groups.

    `repair` is step 3; errors are those of repaired surfaces.
    """
    surface = repair(_solve(rows, axes, np.ones(len(rows.measured_ms), dtype=bool)))
    error = relative_errors(surface, rows)
    unseen = _held_out_errors(rows, axes, rng, repair)
    return surface, Evidence(
        rows_used=len(error),
        median_error_frac=_rounded(np.median(error)),
        p90_error_frac=_rounded(np.quantile(error, 0.9)),
        held_out_median_error_frac=(
            None if unseen is None else _rounded(np.median(unseen))
        ),
        held_out_p90_error_frac=(
            None if unseen is None else _rounded(np.quantile(unseen, 0.9))
        ),
    )


def relative_errors(surface: Surface, rows: Rows) -> FloatArray:
    """Absolute relative error of every row, shape ``(num_rows,)``."""
    predicted = rows.ideal_ms * surface.slowdown(*rows.coordinates)
    return np.abs(predicted / rows.measured_ms - 1.0)


def isotonic(values: FloatArray) -> FloatArray:
    """Nearest rising sequence to `values` in least squares (pooled neighbours)."""
    means: list[float] = []
    counts: list[int] = []
    for value in values.tolist():
        means.append(value)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            count = counts[-2] + counts[-1]
            mean = (means[-2] * counts[-2] + means[-1] * counts[-1]) / count
            means[-2:], counts[-2:] = [mean], [count]
    return np.repeat(means, counts)


def made_monotone(
    surface: Surface, ideal_ms: FloatArray, along: Sequence[int]
) -> Surface:
    """The surface with time at its knots rising along the axes numbered `along`.

    `ideal_ms` is the ideal time at the knots, shape `surface.shape`.
    """
    log_ideal = np.log(ideal_ms)
    log_ms = np.asarray(surface.log_slowdown).reshape(surface.shape) + log_ideal
    for _ in range(3):  # pooling along one axis can undo another by a little
        for axis in along:
            log_ms = np.apply_along_axis(isotonic, axis, log_ms)
    for axis in along:
        log_ms = np.maximum.accumulate(log_ms, axis=axis)
    return Surface(axes=surface.axes, log_slowdown=tuple((log_ms - log_ideal).ravel()))


def _held_out_errors(
    rows: Rows, axes: tuple[Axis, ...], rng: np.random.Generator, repair: Repair
) -> FloatArray | None:
    """Step 4: errors on rows that the fit did not see; None with a single group."""
    groups = rng.permutation(np.unique(rows.groups))
    if len(groups) < 2:
        return None
    errors = np.zeros_like(rows.measured_ms)
    for left_out in np.array_split(groups, min(_FOLDS, len(groups))):
        held = np.isin(rows.groups, left_out)
        surface = repair(_solve(rows, axes, ~held))
        errors[held] = relative_errors(surface, rows)[held]
    return errors


def _solve(rows: Rows, axes: tuple[Axis, ...], used: NDArray[np.bool_]) -> Surface:
    num_knots = int(np.prod([len(axis.knots) for axis in axes]))
    blank = Surface(axes=axes, log_slowdown=(0.0,) * num_knots)
    design = _design(blank, [x[used] for x in rows.coordinates], num_knots)
    differences = _differences(blank.shape)
    smooth = _SMOOTHNESS**2 * (differences.T @ differences)
    target = np.log(rows.measured_ms[used] / rows.ideal_ms[used])
    start = float(np.median(target))
    weight = np.ones(len(target))
    solution = np.zeros(num_knots)
    for _ in range(_REPEATS):
        weighted = (diags(weight) @ design).T
        normal = (weighted @ design + smooth).tocsc()
        solution = spsolve(normal, weighted @ (target - start))
        residual = np.abs(target - start - design @ solution)
        weight = _ROBUST_FROM / np.maximum(residual, _ROBUST_FROM)
    return Surface(axes=axes, log_slowdown=tuple((solution + start).tolist()))


def _design(surface: Surface, points: list[FloatArray], num_knots: int) -> csr_matrix:
    """Step 1: one row a measurement, its interpolation weights on the knots."""
    index, weight = surface.corners(*points)
    row = np.broadcast_to(np.arange(index.shape[1]), index.shape)
    return csr_matrix(
        (weight.ravel(), (row.ravel(), index.ravel())),
        shape=(index.shape[1], num_knots),
    )


def _differences(shape: tuple[int, ...]) -> csr_matrix:
    """One row a pair of neighbouring knots: their difference."""
    flat = np.arange(int(np.prod(shape))).reshape(shape)
    low, high = [], []
    for axis, size in enumerate(shape):
        low.append(np.take(flat, range(size - 1), axis).ravel())
        high.append(np.take(flat, range(1, size), axis).ravel())
    first, second = np.concatenate(low), np.concatenate(high)
    row = np.arange(len(first))
    ones = np.ones(len(first))
    return csr_matrix(
        (
            np.concatenate([ones, -ones]),
            (np.concatenate([row, row]), np.concatenate([first, second])),
        ),
        shape=(len(first), flat.size),
    )


def _rounded(value: float) -> float:
    return round(float(value), 4)
