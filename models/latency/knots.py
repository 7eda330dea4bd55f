"""Knots: the few points whose straight lines reproduce a sampled curve.

Reference
    Douglas, Peucker, "Algorithms for the Reduction of the Number of Points Required to
    Represent a Digitized Line or its Caricature", Cartographica 1973, with the relative
    vertical distance as the measure.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def choose_knots(
    grid: FloatArray, values: FloatArray, *, tolerance: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots and values such that lines between them stay within `tolerance`.

    Parameters
    ----------
    grid
        Rising sample points, shape ``(num_samples,)``.
    values
        Positive values there, shape ``(num_samples,)``. Knots are samples, so a curve
        that rises gives lines that rise.
    tolerance
        Largest relative distance of the lines from a sample.
    """
    keep = {0, len(grid) - 1}
    pending = [(0, len(grid) - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        xs, ys = grid[first : last + 1], values[first : last + 1]
        slope = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
        distance = np.abs(ys[0] + slope * (xs - xs[0]) - ys) / ys
        worst = int(distance.argmax())
        if distance[worst] > tolerance:
            middle = first + worst
            keep.add(middle)
            pending += [(first, middle), (middle, last)]
    chosen = sorted(keep)
    return (
        tuple(float(x) for x in grid[chosen]),
        tuple(float(y) for y in values[chosen]),
    )
