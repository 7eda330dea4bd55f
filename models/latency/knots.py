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
    x, y = grid.tolist(), values.tolist()  # a few dozen points: no work for arrays
    keep = {0, len(x) - 1}
    pending = [(0, len(x) - 1)]
    while pending:
        first, last = pending.pop()
        slope = (y[last] - y[first]) / (x[last] - x[first]) if last > first else 0.0
        worst, furthest = first, tolerance
        for place in range(first + 1, last):
            line = y[first] + slope * (x[place] - x[first])
            distance = abs(line - y[place]) / y[place]
            if distance > furthest:
                worst, furthest = place, distance
        if worst > first:
            keep.add(worst)
            pending += [(first, worst), (worst, last)]
    chosen = sorted(keep)
    return tuple(x[i] for i in chosen), tuple(y[i] for i in chosen)
