"""A step table sampled from anything that can tell how long a step takes.

Steps
    1. Prefill of one prompt, and of four of a quarter, at the same numbers of tokens:
       the difference is the share of the squares, what is left a curve in tokens.
    2. Decode at every batch: a line in the attended tokens through several contexts.
    3. Both are kept from falling with tokens, requests and context.
"""

from collections.abc import Callable

import numpy as np

from models.latency.attention_costs import never_cheaper
from models.latency.knots import choose_knots
from models.latency.step_table import StepTable

StepLatency = Callable[[int, int], float]
"""Milliseconds of a step of so many requests with so many tokens each."""

KNOT_TOLERANCE = 0.004
"""Largest relative distance of the prefill knots' lines from the samples."""
_TOKENS = np.unique(np.round(np.geomspace(4, 65536, 57)))
_BATCHES = np.asarray([1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512])
_CONTEXTS = np.asarray([256, 1024, 4096, 16384])
_FEW = 4
"""Prompts of the second prefill."""
_SQUARES_TOKENS = 2048
"""Prompts from which the squares are told from the tokens."""


def sampled_table(prefill_ms: StepLatency, decode_ms: StepLatency) -> StepTable:
    """The table nearest to the two functions in relative terms."""
    tokens, curve, per_sq_token_ms = _prefill(prefill_ms)
    fixed, per_token = _decode(decode_ms)
    knots, values = choose_knots(tokens, curve, tolerance=KNOT_TOLERANCE)
    return StepTable(
        prefill_tokens=knots,
        prefill_ms=values,
        prefill_per_sq_token_ms=per_sq_token_ms,
        decode_batch=tuple(float(size) for size in _BATCHES),
        decode_ms=tuple(fixed.tolist()),
        decode_per_kv_token_ms=tuple(per_token.tolist()),
    )


def _prefill(
    prefill_ms: StepLatency,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Step 1: token counts, time in tokens, and the coefficient of the squares."""
    tokens = _FEW * np.unique(np.round(_TOKENS / _FEW))
    one = np.asarray([prefill_ms(1, int(n)) for n in tokens])
    few = np.asarray([prefill_ms(_FEW, int(n) // _FEW) for n in tokens])
    squares = tokens**2 * (1.0 - 1.0 / _FEW)
    weight = np.where(tokens >= _SQUARES_TOKENS, 1.0 / one**2, 0.0)
    found = (weight * squares * (one - few)).sum() / (weight * squares**2).sum()
    coefficient = max(float(found), 0.0)
    curve = (one + few - coefficient * tokens**2 * (1.0 + 1.0 / _FEW)) / 2.0
    return tokens, np.maximum.accumulate(np.maximum(curve, 0.0)), coefficient


def _decode(decode_ms: StepLatency) -> tuple[np.ndarray, np.ndarray]:
    """Steps 2 and 3: G and H at `_BATCHES`."""
    fixed, slopes = [], []
    for batch in _BATCHES:
        attended = batch * _CONTEXTS
        times = np.asarray([decode_ms(int(batch), int(c)) for c in _CONTEXTS])
        slope = max(0.0, float(np.polyfit(attended, times, 1, w=1.0 / times)[0]))
        slopes.append(slope)
        fixed.append(float(np.average(times - slope * attended, weights=times**-2.0)))
    at_zero = np.maximum.accumulate(np.maximum(fixed, 0.0))
    return at_zero, never_cheaper(_BATCHES.astype(np.float64), np.asarray(slopes))
