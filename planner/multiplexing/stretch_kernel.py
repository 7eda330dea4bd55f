"""Steps of a unit as they run together: time alone on their SMs, and the stretch.

The compiled twin of `models.latency.contention.together_ms`, which a test holds it to.
"""

from typing import Any

from planner.multiplexing.unit_state import NONE
from planner.simulator.compiled import compiled, inlined

MAX_TURNS = 40
CLOSE = 1e-9


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
    job = w.job[place]
    job.base_ms = max(row.whole0 + row.whole1 * kv, busy)
    job.memory_ms = row.least_memory0 + row.least_memory1 * kv
    job.arithmetic_ms = row.least_arithmetic0 + row.least_arithmetic1 * kv


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


@inlined
def memory_stretch(w: Any, num_jobs: int, by_arithmetic: float) -> float:
    """Least factor on the memory parts with which all steps fit the GPU's rate.

    Newton's steps from below: the time asked for falls with the factor and is convex.
    """
    factor = 1.0
    for _ in range(MAX_TURNS):
        asked, slope = -1.0, 0.0
        for i in range(num_jobs):
            job = w.job[i]
            time = job.base_ms + (by_arithmetic - 1.0) * job.arithmetic_ms
            time += (factor - 1.0) * job.memory_ms
            asked += job.memory_ms / time
            slope += (job.memory_ms / time) ** 2
        if asked <= CLOSE:
            break
        factor += asked / slope
    return float(factor)


@inlined
def arithmetic_stretch(w: Any, num_jobs: int, by_memory: float) -> float:
    """The same of the arithmetic parts."""
    factor = 1.0
    for _ in range(MAX_TURNS):
        asked, slope = -1.0, 0.0
        for i in range(num_jobs):
            job = w.job[i]
            time = job.base_ms + (by_memory - 1.0) * job.memory_ms
            time += (factor - 1.0) * job.arithmetic_ms
            asked += job.arithmetic_ms / time
            slope += (job.arithmetic_ms / time) ** 2
        if asked <= CLOSE:
            break
        factor += asked / slope
    return float(factor)


@compiled
def stretches(w: Any, num_jobs: int) -> tuple[float, float]:
    """Factors on the memory and arithmetic parts of the steps in `w.job`.

    Each falls as the other grows, so taking turns closes in on both.
    """
    by_memory, by_arithmetic = 1.0, 1.0
    for _ in range(MAX_TURNS):
        memory = memory_stretch(w, num_jobs, by_arithmetic)
        arithmetic = arithmetic_stretch(w, num_jobs, memory)
        moved = abs(memory - by_memory) + abs(arithmetic - by_arithmetic)
        by_memory, by_arithmetic = memory, arithmetic
        if moved <= CLOSE:
            break
    return by_memory, by_arithmetic


@compiled
def gather_jobs(w: Any) -> int:
    """Put all steps under way into `w.job`, a prefill first; returns their number."""
    num = 0
    if w.prefill[0].llm != NONE:
        job = w.job[0]
        job.base_ms = w.prefill[0].alone_ms
        job.memory_ms = w.prefill[0].memory_ms
        job.arithmetic_ms = w.prefill[0].arithmetic_ms
        num = 1
    for llm in range(w.llm.shape[0]):
        if w.llm[llm].is_decoding:
            set_decode_job(w, llm, num)
            num += 1
    return num
