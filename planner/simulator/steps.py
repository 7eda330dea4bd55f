"""Step latencies and the closed form of a run of decode steps.

A decode batch of B requests that attend to S tokens takes G + H*S; one step later it
attends to S + B. So k steps take

    T(k) = k*G + H*(k*S + B*k*(k-1)/2),

and the step under way at time t follows from the root of that quadratic.

A step that mixes prompt chunks of L tokens in all with those decodes takes

    F(L + B) + c*squares + max(0, G - F(B)) + H*S

(see `models.latency.step_table`); `batch` holds the third term for every B, and what
measured mixed steps differ by: in all, for each token attended to, for each square.
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined


@inlined
def prefill_ms(w: Any, stage: int, tokens: float, squares: float) -> float:
    """Latency of a prefill step: F(tokens) + c * squares, in ms."""
    st = w.stage[stage]
    knots = w.knot[st.table]
    last = knots.shape[0] - 1
    if tokens <= knots[0].tokens:
        return float(knots[0].ms + st.per_sq_token_ms * squares)
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) >> 1
        if knots[middle].tokens <= tokens:
            low = middle
        else:
            high = middle
    one, two = knots[low], knots[high]
    slope = (two.ms - one.ms) / (two.tokens - one.tokens)
    linear = one.ms + slope * (tokens - one.tokens)
    return float(max(linear, 0.0) + st.per_sq_token_ms * squares)


@inlined
def mixed_ms(w: Any, stage: int, group: int) -> float:
    """Latency of a step of prompt chunks and the decodes of `group` (if any), in ms."""
    grp = w.group[group]
    tokens = float(grp.chunk_tokens + grp.num_members)
    chunks_ms = prefill_ms(w, stage, tokens, grp.chunk_squares)
    added = w.batch[w.stage[stage].table, grp.num_members]
    decodes_ms = added.mixed_ms + added.mixed_slope_ms * float(grp.kv_tokens)
    decodes_ms += added.mixed_sq_ms * grp.chunk_squares
    return float(chunks_ms + decodes_ms)


@compiled
def run_ms(steps: int, fixed_ms: float, slope_ms: float, batch: int, kv: int) -> float:
    """T(steps): duration of `steps` decode steps of an unchanged batch, in ms."""
    k = float(steps)
    return float(k * fixed_ms + slope_ms * (k * kv + 0.5 * batch * k * (k - 1.0)))


@compiled
def steps_until(
    elapsed_ms: float, fixed_ms: float, slope_ms: float, batch: int, kv: int
) -> int:
    """Smallest k >= 1 with T(k) >= elapsed_ms: the boundary a newcomer joins at."""
    step = fixed_ms + slope_ms * kv
    if elapsed_ms <= step or step <= 0.0:
        return 1
    # The root of curve*k^2 + linear*k = elapsed, in the form that does not cancel.
    curve = 0.5 * slope_ms * batch
    linear = step - curve
    root = math.sqrt(linear * linear + 4.0 * curve * elapsed_ms)
    k = max(1, int(2.0 * elapsed_ms / (root + linear)))
    while run_ms(k, fixed_ms, slope_ms, batch, kv) < elapsed_ms:
        k += 1
    while k > 1 and run_ms(k - 1, fixed_ms, slope_ms, batch, kv) >= elapsed_ms:
        k -= 1
    return k
