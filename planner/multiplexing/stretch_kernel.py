"""Steps of a unit as they run together: time alone on their SMs, and the stretch.

The law is `models.latency.stretch`, compiled; a test holds it to what
`models.latency.contention.together_ms` says of the same steps.
"""

from typing import Any

from models.latency.stretch import stretch_factors
from planner.multiplexing.unit_state import NONE
from planner.simulator.compiled import compiled

_stretch_factors = compiled(stretch_factors)


@compiled
def set_decode_job(w: Any, llm: int, place: int) -> None:
    """What the decode step of `llm` asks for now, alone on its share of the SMs."""
    model = w.llm[llm]
    row = w.decode_step[llm, model.num_members]
    kv = float(model.kv_tokens)
    busy = (
        (row.memory0 + row.memory1 * kv) / model.decode_memory_part
        + (row.arithmetic0 + row.arithmetic1 * kv) / model.decode_arithmetic_part
        + row.exchange0
        + row.exchange1 * kv
    )
    w.job_base_ms[place] = max(row.whole0 + row.whole1 * kv, busy)
    w.job_memory_ms[place] = row.least_memory0 + row.least_memory1 * kv
    w.job_arithmetic_ms[place] = row.least_arithmetic0 + row.least_arithmetic1 * kv


@compiled
def set_decode_speed(w: Any, llm: int, by_memory: float, by_arithmetic: float) -> None:
    """Fixed time and time for each KV token of a step under the stretches."""
    model = w.llm[llm]
    row = w.decode_step[llm, model.num_members]
    kv = float(model.kv_tokens)
    m, a = model.decode_memory_part, model.decode_arithmetic_part
    fixed = row.memory0 / m + row.arithmetic0 / a + row.exchange0
    slope = row.memory1 / m + row.arithmetic1 / a + row.exchange1
    if row.whole0 + row.whole1 * kv >= fixed + slope * kv:
        fixed, slope = row.whole0, row.whole1
    model.fixed_ms = (
        fixed
        + (by_memory - 1.0) * row.least_memory0
        + (by_arithmetic - 1.0) * row.least_arithmetic0
    )
    model.slope_ms = (
        slope
        + (by_memory - 1.0) * row.least_memory1
        + (by_arithmetic - 1.0) * row.least_arithmetic1
    )


@compiled
def set_prefill_demand(w: Any, llm: int, tokens: float, squares: float) -> None:
    """What the prefill step that starts now asks for, alone on its SMs."""
    knots = w.prefill_knot[llm]
    low, high = 0, knots.shape[0] - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if knots[middle].tokens <= tokens:
            low = middle
        else:
            high = middle
    one, two = knots[low], knots[high]
    part = max(0.0, (tokens - one.tokens) / (two.tokens - one.tokens))
    linear = max(0.0, one.linear_ms + part * (two.linear_ms - one.linear_ms))
    whole = linear + w.per_square_ms[llm] * squares
    # The parts of a step keep their proportions where prompts are longer than usual.
    usual = one.whole_ms + part * (two.whole_ms - one.whole_ms)
    scale = whole / usual if usual > 0.0 else 0.0
    clock, job = w.clock[0], w.prefill[0]
    memory = one.memory_ms + part * (two.memory_ms - one.memory_ms)
    arithmetic = one.arithmetic_ms + part * (two.arithmetic_ms - one.arithmetic_ms)
    exchange = one.exchange_ms + part * (two.exchange_ms - one.exchange_ms)
    busy = (
        memory / clock.prefill_memory_part
        + arithmetic / clock.prefill_arithmetic_part
        + exchange
    )
    job.alone_ms = max(whole, busy * scale)
    least = one.least_memory_ms + part * (two.least_memory_ms - one.least_memory_ms)
    job.memory_ms = least * scale
    least = one.least_arithmetic_ms + part * (
        two.least_arithmetic_ms - one.least_arithmetic_ms
    )
    job.arithmetic_ms = least * scale


@compiled
def stretches(w: Any, num_jobs: int) -> tuple[float, float]:
    """Factors on the memory and arithmetic parts of the steps under way."""
    factors = _stretch_factors(
        w.job_base_ms, w.job_memory_ms, w.job_arithmetic_ms, num_jobs
    )
    return float(factors[0]), float(factors[1])


@compiled
def gather_jobs(w: Any) -> int:
    """Put all steps under way among the jobs, a prefill first; returns their number."""
    num = 0
    if w.prefill[0].llm != NONE:
        w.job_base_ms[0] = w.prefill[0].alone_ms
        w.job_memory_ms[0] = w.prefill[0].memory_ms
        w.job_arithmetic_ms[0] = w.prefill[0].arithmetic_ms
        num = 1
    for llm in range(w.llm.shape[0]):
        if w.llm[llm].is_decoding:
            set_decode_job(w, llm, num)
            num += 1
    return num
