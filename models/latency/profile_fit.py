"""Profile fit: from measured steps to a step table, and its held-out error.

Reference
    Lawson, Hanson, "Solving Least Squares Problems", 1974, chapter 23 (non-negative
    least squares). Huber, "Robust Estimation of a Location Parameter", 1964.

Idea
    A step table is linear in its values at the knots, and no value, slope of F or G, or
    cost per token may be negative. So relative errors are minimised by non-negative
    least squares, points far off are weighted down, and the number of knots is the one
    that predicts points it has not seen best.

Steps
    1. For every number of knots: columns for F and c, or for G and H.
    2. Solve, weight by the residuals (Huber), solve again until it settles.
    3. Keep the smallest number of knots whose cross-validated error is as good as the
       best, within `_PARSIMONY`.
    4. Errors at the points set apart (or by cross-validation without any); then the
       table is fitted to all points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from clusters.fields import InputError, spec
from models.latency.profile import FitError
from models.latency.profile_shares import refuse_shares
from models.latency.step_table import StepTable
from models.profile_records import Role, StepRecord

FloatArray = NDArray[np.float64]

_HUBER = 1.5
"""Residuals beyond this many standard deviations count less."""
_ROUNDS = 12
_FOLDS = 5
_MAX_KNOTS = 16
_PARSIMONY = 1.05
_EXACT_FRAC = 1e-4
"""Errors below this are alike when numbers of knots are compared."""
_WORST_FRAC = 0.25
"""Larger errors count as this when numbers of knots are compared: outliers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFit:
    """F and c of prefill, or G and H of decode, with their error."""

    knots: tuple[float, ...] = spec("Prompt tokens, or requests.", unit="1")
    values_ms: tuple[float, ...] = spec("F or G at the knots.", unit="ms")
    slopes_ms: tuple[float, ...] = spec(
        "c (one value), or H at the knots.", unit="ms/token"
    )
    error: FitError = spec("At points not fitted.")


@dataclass(frozen=True, slots=True)
class _Points:
    """Steps of one phase as arrays: the knot variable, the slope variable, the time."""

    x: FloatArray
    load: FloatArray
    ms: FloatArray
    is_holdout: NDArray[np.bool_]

    def subset(self, mask: NDArray[np.bool_]) -> "_Points":
        return _Points(
            self.x[mask], self.load[mask], self.ms[mask], self.is_holdout[mask]
        )


def fit_prefill(
    records: Sequence[StepRecord], *, has_attention: bool = True
) -> PhaseFit:
    """Fit F and c to prefill steps; without attention c is 0.

    Raises
    ------
    InputError
        With fewer than three usable points.
    """
    used = _usable(records, "prefill")
    rows = [(r.point.prompt_tokens, r.point.squares, _ms(r), r.role) for r in used]
    return _fit(_points(rows, "prefill", has_attention), _prefill_columns)


def fit_decode(
    records: Sequence[StepRecord], *, has_attention: bool = True
) -> PhaseFit:
    """Fit G and H to decode steps; without attention H is 0.

    Raises
    ------
    InputError
        With fewer than three usable points.
    """
    used = _usable(records, "decode")
    rows = [(r.point.num_decodes, r.point.kv_tokens, _ms(r), r.role) for r in used]
    return _fit(_points(rows, "decode", has_attention), _decode_columns)


def step_table_of(prefill: PhaseFit, decode: PhaseFit) -> StepTable:
    """The step table of the two phases."""
    return StepTable(
        prefill_tokens=prefill.knots,
        prefill_ms=prefill.values_ms,
        prefill_per_sq_token_ms=prefill.slopes_ms[0],
        decode_batch=decode.knots,
        decode_ms=decode.values_ms,
        decode_per_kv_token_ms=decode.slopes_ms,
    )


def rising_columns(x: FloatArray, knots: FloatArray) -> FloatArray:
    """Columns of a rising piecewise-linear curve: its first value, then its rises.

    The last rise continues beyond the last knot. Shape (len(x), len(knots)).
    """
    columns = [np.ones_like(x)]
    for index in range(1, len(knots)):
        share = (x - knots[index - 1]) / (knots[index] - knots[index - 1])
        is_last = index == len(knots) - 1
        columns.append(np.clip(share, 0.0, np.inf if is_last else 1.0))
    return np.stack(columns, axis=1)


def hat_columns(x: FloatArray, knots: FloatArray) -> FloatArray:
    """Columns of a piecewise-linear curve by its values at the knots."""
    identity = np.eye(len(knots))
    return np.stack([np.interp(x, knots, row) for row in identity], axis=1)


def _prefill_columns(points: _Points, knots: FloatArray) -> FloatArray:
    return np.column_stack([rising_columns(points.x, knots), points.load])


def _decode_columns(points: _Points, knots: FloatArray) -> FloatArray:
    per_token = hat_columns(points.x, knots) * points.load[:, None]
    return np.column_stack([rising_columns(points.x, knots), per_token])


_Columns = Callable[[_Points, FloatArray], FloatArray]
"""Of points and knots: what multiplies the unknowns, shape (points, unknowns)."""


def _fit(points: _Points, columns: _Columns) -> PhaseFit:
    seen = points.subset(~points.is_holdout)
    # 1-3. The number of knots that predicts best.
    knots = _choose_knots(seen, columns)
    # 4. Errors at points that were set apart, then everything is used.
    if points.is_holdout.any():
        apart = points.subset(points.is_holdout)
        values = _solve(columns(seen, knots), seen.ms)
        errors = np.abs(columns(apart, knots) @ values / apart.ms - 1.0)
        error = FitError.of(errors, "held out")
        knots = _choose_knots(points, columns)
    else:
        errors = _cross_errors(seen, knots, columns)
        error = FitError.of(errors, "cross-validation")
    values, num = _solve(columns(points, knots), points.ms), len(knots)
    return PhaseFit(
        knots=_floats(knots),
        values_ms=_floats(np.cumsum(values[:num])),
        slopes_ms=_floats(values[num:]),
        error=error,
    )


def _choose_knots(points: _Points, columns: _Columns) -> FloatArray:
    distinct = np.unique(points.x)
    most = min(len(distinct), _MAX_KNOTS, max(2, len(points.x) // 2))
    trials = []
    for num in range(min(2, len(distinct)), most + 1):
        knots = _spread(distinct, num)
        errors = _cross_errors(points, knots, columns)
        trials.append((float(np.minimum(errors, _WORST_FRAC).mean()), knots))
    best = min(score for score, _ in trials)
    enough = best * _PARSIMONY + _EXACT_FRAC
    return next(knots for score, knots in trials if score <= enough)


def _spread(distinct: FloatArray, num: int) -> FloatArray:
    """`num` of the sorted values, evenly by rank, the ends included."""
    ranks = np.round(np.linspace(0, len(distinct) - 1, num)).astype(int)
    chosen: FloatArray = distinct[np.unique(ranks)]
    return chosen


def _cross_errors(points: _Points, knots: FloatArray, columns: _Columns) -> FloatArray:
    """Relative error of every point when the others of its fold are left out too."""
    order = np.argsort(np.lexsort((points.load, points.x)))
    errors = np.empty(len(points.x))
    matrix = columns(points, knots)
    for fold in range(min(_FOLDS, len(points.x))):
        out = order % _FOLDS == fold
        values = _solve(matrix[~out], points.ms[~out])
        errors[out] = np.abs(matrix[out] @ values / points.ms[out] - 1.0)
    return errors


def _solve(matrix: FloatArray, ms: FloatArray) -> FloatArray:
    """Non-negative unknowns of least relative error, far points weighted down."""
    # A column's unit must not decide how exactly it is solved.
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    relative = matrix / scale / ms[:, None]
    weights = np.ones(len(ms))
    values = np.zeros(matrix.shape[1])
    for _ in range(_ROUNDS):
        previous = values
        root = np.sqrt(weights)
        values, _norm = nnls(relative * root[:, None], root)
        residuals = np.abs(relative @ values - 1.0)
        sigma = max(1.4826 * float(np.median(residuals)), 1e-4)
        weights = np.minimum(1.0, _HUBER * sigma / np.maximum(residuals, 1e-12))
        if np.allclose(values, previous, rtol=1e-4, atol=1e-12):
            break
    solved: FloatArray = values / scale
    return solved


def _points(
    rows: Sequence[tuple[float, float, float, Role]], phase: str, has_attention: bool
) -> _Points:
    if len(rows) < 3:
        raise InputError(f"{phase} records", len(rows), "at least 3 measured points")
    x, load, ms, role = zip(*rows, strict=True)
    apart = np.array([r is Role.HOLDOUT for r in role])
    if (~apart).sum() < 3:
        apart[:] = False
    return _Points(
        np.array(x, dtype=np.float64),
        # Where nothing attends, context would only take over what the batch costs.
        np.array(load, dtype=np.float64) * has_attention,
        np.array(ms, dtype=np.float64),
        apart,
    )


def _usable(records: Sequence[StepRecord], phase: str) -> list[StepRecord]:
    refuse_shares(records)
    return [
        r
        for r in records
        if r.step is not None and r.role is not Role.PROBE and r.point.phase == phase
    ]


def _ms(record: StepRecord) -> float:
    assert record.step is not None
    return record.step.ms


def _floats(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
