"""Surface: how much slower than ideal an operator runs, over a few named axes.

Idea
    Physics gives every operator an ideal time (`smooth_max` of a floor, its bytes at
    the memory peak and its FLOPs at the compute peak). What kernels leave of it varies
    smoothly with the shape, apart from jumps at tile edges. A surface holds the
    logarithm of measured over ideal time at a few knots per axis and interpolates it
    linearly in the logarithm of the coordinates. Two knots one token apart are a tile
    edge. Outside its knots a surface keeps its edge value: the ideal time goes on,
    which is the fall-back on physics.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, spec

FloatArray = NDArray[np.float64]

_TINY = 1e-12
_STORED_STEPS = 200
"""A stored integer is half a hundredth of the natural logarithm: 0.5 % of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One coordinate of a surface and the knots along it."""

    name: str = spec("What the coordinate is.")
    knots: tuple[float, ...] = spec("Positive, strictly rising.", unit="1")

    def __post_init__(self) -> None:
        knots = np.asarray(self.knots, dtype=np.float64)
        good = len(knots) > 0 and np.isfinite(knots).all() and knots[0] > 0
        if not good or (np.diff(knots) <= 0).any():
            raise InputError("knots", self.knots, "positive, strictly rising knots")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Logarithm of time over ideal time at the knots of its axes."""

    axes: tuple[Axis, ...] = spec("Coordinates, slowest-varying first.")
    log_slowdown: tuple[float, ...] = spec(
        "Values at the knots, last axis fastest.", unit="1"
    )
    _log_knots: tuple[FloatArray, ...] = field(init=False, repr=False, compare=False)
    _values: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shape = self.shape
        values = np.asarray(self.log_slowdown, dtype=np.float64)
        if values.size != np.prod(shape) or not np.isfinite(values).all():
            raise InputError(
                "log_slowdown", len(self.log_slowdown), f"{shape} finite values"
            )
        knots = tuple(np.log(np.asarray(axis.knots)) for axis in self.axes)
        object.__setattr__(self, "_log_knots", knots)
        object.__setattr__(self, "_values", values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of knots along each axis."""
        return tuple(len(axis.knots) for axis in self.axes)

    def slowdown(self, *coordinates: FloatArray | float) -> FloatArray:
        """Measured over ideal time at points whose coordinates broadcast together.

        Single numbers are interpolated first: what is left is small.
        """
        values = self._values.reshape(self.shape)
        spread: list[tuple[FloatArray, FloatArray]] = []
        for x, log_knots in zip(coordinates, self._log_knots, strict=True):
            axis = len(spread)
            if isinstance(x, np.ndarray) and x.ndim:
                spread.append((x, log_knots))
            else:
                values = _between(values, axis, float(x), log_knots)
        flat_values, log_slowdown = values.ravel(), np.zeros(())
        for index, weight in _each_corner(spread):
            log_slowdown = log_slowdown + flat_values[index] * weight
        return np.exp(log_slowdown)

    def first_axis(self, *coordinates: FloatArray | float) -> FloatArray:
        """Measured over ideal time at the knots of the first axis, which come last.

        `coordinates` are those on the other axes: numbers, or arrays that broadcast
        with the knots of the first.
        """
        by_knot = self._values.reshape(self.shape[0], -1)
        rows, log_slowdown = np.arange(len(by_knot)), np.zeros(())
        points = [np.asarray(x, dtype=np.float64) for x in coordinates]
        spread = list(zip(points, self._log_knots[1:], strict=True))
        for index, weight in _each_corner(spread):
            if index.shape[-1:] == (1,):  # the same for all knots: whole rows
                values = by_knot.T[index[..., 0]]
            else:
                values = by_knot[rows, index]
            log_slowdown = log_slowdown + values * weight
        return np.exp(log_slowdown)

    def resampled(self, knots: FloatArray) -> "Surface":
        """The surface with other knots on its first axis, values as interpolated."""
        low, share = _place(knots, self._log_knots[0])
        values = self._values.reshape(self.shape)
        above = np.minimum(low + 1, len(values) - 1)
        share = share.reshape((-1,) + (1,) * (values.ndim - 1))
        between = (1.0 - share) * values[low] + share * values[above]
        first = Axis(name=self.axes[0].name, knots=tuple(knots.tolist()))
        return Surface(
            axes=(first, *self.axes[1:]), log_slowdown=tuple(between.ravel().tolist())
        )

    def corners(
        self, *coordinates: FloatArray | float
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """The knots around each point and their interpolation weights.

        Returns
        -------
        Two arrays of shape ``(2**num_axes, *points)``: flat indices and weights that
        add up to 1.
        """
        points = [np.asarray(x, dtype=np.float64) for x in coordinates]
        found = list(_each_corner(list(zip(points, self._log_knots, strict=True))))
        return np.stack([i for i, _ in found]), np.stack([w for _, w in found])

    def covers(self, *coordinates: float) -> bool:
        """Whether a point lies within the knots of every axis."""
        return all(
            axis.knots[0] <= x <= axis.knots[-1]
            for x, axis in zip(coordinates, self.axes, strict=True)
        )

    def to_json(self) -> dict[str, object]:
        """Plain form for a file: knots, and values in half per cent."""
        return {
            "axes": {axis.name: [_short(x) for x in axis.knots] for axis in self.axes},
            "log_slowdown_half_percent": [
                round(value * _STORED_STEPS) for value in self.log_slowdown
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "Surface":
        """Reverse of `to_json`."""
        axes, values = data["axes"], data["log_slowdown_half_percent"]
        assert isinstance(axes, dict)
        assert isinstance(values, Sequence)
        return cls(
            axes=tuple(
                Axis(name=name, knots=tuple(knots)) for name, knots in axes.items()
            ),
            log_slowdown=tuple(value / _STORED_STEPS for value in values),
        )


def smooth_max(*times_ms: FloatArray | float) -> FloatArray:
    """Maximum with rounded corners: resources overlap, but not perfectly.

    The 4-norm: 19 % above the maximum where two are equal, 2 % where one is half.
    """
    total: FloatArray = np.zeros(())
    for time_ms in times_ms:
        squared = np.square(time_ms, dtype=np.float64)
        total = total + squared * squared
    return np.asarray(np.sqrt(np.sqrt(total)))


def _each_corner(
    spread: Sequence[tuple[FloatArray, FloatArray]],
) -> Iterator[tuple[NDArray[np.int64], FloatArray]]:
    """Flat indices and weights of the knots around points, per (points, log knots)."""
    sizes = [len(log_knots) for _, log_knots in spread]
    places = [_place(x, log_knots) for x, log_knots in spread]
    for corner in product((0, 1), repeat=len(places)):
        flat: NDArray[np.int64] = np.zeros((), dtype=np.int64)
        weight: FloatArray = np.ones(())
        for (low, share), upper, size in zip(places, corner, sizes, strict=True):
            flat = flat * size + np.minimum(low + upper, size - 1)
            weight = weight * (share if upper else 1.0 - share)
        yield flat, weight


def _between(
    values: FloatArray, axis: int, x: float, log_knots: FloatArray
) -> FloatArray:
    """`values` at one coordinate of an axis, which disappears."""
    log_x = math.log(max(x, _TINY))
    low = int(np.searchsorted(log_knots, log_x, side="right")) - 1
    if low < 0 or len(log_knots) == 1:
        return np.asarray(values.take(0, axis))
    if low >= len(log_knots) - 1:
        return np.asarray(values.take(-1, axis))
    share = (log_x - log_knots[low]) / (log_knots[low + 1] - log_knots[low])
    below, above = values.take(low, axis), values.take(low + 1, axis)
    between: FloatArray = below + share * (above - below)
    return between


def _place(
    x: FloatArray, log_knots: FloatArray
) -> tuple[NDArray[np.int64], FloatArray]:
    """Knot below each point, and the share of the knot above it."""
    if len(log_knots) == 1:
        return np.zeros(x.shape, dtype=np.int64), np.zeros(x.shape)
    log_x = np.log(np.maximum(x, _TINY))
    low = np.searchsorted(log_knots, log_x, side="right") - 1
    low = np.minimum(np.maximum(low, 0), len(log_knots) - 2)
    share = (log_x - log_knots[low]) / (log_knots[low + 1] - log_knots[low])
    return low, np.minimum(np.maximum(share, 0.0), 1.0)


def _short(x: float) -> float:
    return int(x) if float(x).is_integer() else x
