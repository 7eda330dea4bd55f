"""How much steps that run together slow each other down.

Step i takes t_i = base_i + (f - 1) memory_i + (g - 1) arithmetic_i: its memory traffic
takes f times as long, its arithmetic g times. All of them fit the GPU if

    sum memory_i / t_i <= 1   and   sum arithmetic_i / t_i <= 1,

and the factors are the least ones >= 1: f > 1 only where memory is full, g > 1 only
where arithmetic is. These are the conditions at the minimum of the convex function

    f + g - sum log t_i   over f, g >= 1,

which Newton's steps, kept within the bounds, reach in a few turns.

Plain functions of numbers and indexable sequences, so that a compiled simulator can use
the same law.
"""

import math
from collections.abc import Sequence
from typing import Any

MAX_TURNS = 100
CLOSE = 1e-10
FULL_STEP = 0.25
"""Newton decrement below which a whole step converges quadratically."""


def stretch_factors(
    base: Any, memory: Any, arithmetic: Any, num_steps: int
) -> tuple[float, float]:
    """Factors (f, g) on the memory and arithmetic parts of the first `num_steps`.

    Parameters
    ----------
    base, memory, arithmetic
        Time of each step alone and of its parts, at most that long, in ms.
    num_steps
        How many steps there are.
    """
    f, g = 1.0, 1.0
    for _ in range(MAX_TURNS):
        slope_f, slope_g = 1.0, 1.0
        ff, fg, gg = 0.0, 0.0, 0.0
        for i in range(num_steps):
            time = base[i] + (f - 1.0) * memory[i] + (g - 1.0) * arithmetic[i]
            m, a = memory[i] / time, arithmetic[i] / time
            slope_f -= m
            slope_g -= a
            ff += m * m
            fg += m * a
            gg += a * a
        is_f_free = f > 1.0 or slope_f < 0.0
        is_g_free = g > 1.0 or slope_g < 0.0
        largest = 0.0
        if is_f_free:
            largest = abs(slope_f)
        if is_g_free:
            largest = max(largest, abs(slope_g))
        if largest <= CLOSE:
            break
        # Steps whose parts are in one proportion leave a direction without curvature.
        ridge = CLOSE * (ff + gg)
        move_f, move_g = 0.0, 0.0
        if is_f_free and is_g_free:
            scale = (ff + ridge) * (gg + ridge) - fg * fg
            move_f = -((gg + ridge) * slope_f - fg * slope_g) / scale
            move_g = -((ff + ridge) * slope_g - fg * slope_f) / scale
            # A factor at its bound that would fall stays, and the other moves alone.
            is_f_free = f > 1.0 or move_f > 0.0
            is_g_free = g > 1.0 or move_g > 0.0
        if not is_g_free:
            move_f, move_g = -slope_f / (ff + ridge), 0.0
        elif not is_f_free:
            move_f, move_g = 0.0, -slope_g / (gg + ridge)
        # The damped step of self-concordant functions, which never overshoots.
        decrement = math.sqrt(max(0.0, -(slope_f * move_f + slope_g * move_g)))
        part = 1.0 if decrement < FULL_STEP else 1.0 / (1.0 + decrement)
        if f + part * move_f < 1.0:
            part = min(part, (1.0 - f) / move_f)
        if g + part * move_g < 1.0:
            part = min(part, (1.0 - g) / move_g)
        f = max(1.0, f + part * move_f)
        g = max(1.0, g + part * move_g)
    return f, g


def stretched(
    base: Sequence[float], parts: Sequence[float], factor: float
) -> list[float]:
    """Times in which one part of each step takes `factor` as long."""
    return [b + (factor - 1.0) * p for b, p in zip(base, parts, strict=True)]
