"""The table of loads: its columns, and the compiled functions that fill its rows.

A placement of 40 LLMs asks for hundreds of thousands of loads, so they are compiled.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from models.latency.step_table import FloatArray

SMS, MEMORY, PREFILLS, BANDWIDTH, ARITHMETIC, PLACES = range(6)
"""What loads take parts of."""
NUM_RESOURCES = 6
"""In each period of a day; in the first one, what does not change over a day."""
LLM, SERVED, SHARE, PREFILL, LONGEST, BATCH, TPOT, TAKES = range(8)
"""Columns of a load; from `TAKES` on its resources, period by period."""


_LEAST_PULL = 0.01
"""Least part of the pull back to the mean: there is no queue without any."""


class LoadFacts(NamedTuple):
    """What `_take` needs of an LLM at an operating point."""

    rate_per_ms: float
    decode_steps: float
    quantile: float
    """Of a standard normal."""
    tpot_ms: float
    prefill_ms: float
    """Prefill step."""
    longest_ms: float
    """Longest prefill step of the unit."""
    prompt_ms: float
    """Part of a prefill step for each prompt."""
    prompt_memory_ms: float
    prompt_arithmetic_ms: float
    kept_frac: float
    """Of the memory, whatever the load."""
    kv_frac: float
    """Of the memory, each request."""
    prefill_load_frac: float
    stretch: float
    cycle_ms: float
    """0: side by side."""


@numba.njit(cache=True)
def _at(values: FloatArray, batch: float) -> float:
    """Value at a batch between whole ones; below 1 that of a batch of 1."""
    last = len(values) - 1
    batch = min(max(batch, 1.0), float(last))
    low = int(batch)
    if low == last:
        return float(values[last])
    return float(values[low] + (batch - low) * (values[low + 1] - values[low]))


@numba.njit(cache=True)
def _mean_batch(step_ms: FloatArray, tokens_per_ms: float) -> float:
    """Mean number of requests N that decode `tokens_per_ms` together: N = x * t(N)."""
    if tokens_per_ms * step_ms[1] <= 1.0:
        return float(tokens_per_ms * step_ms[1])
    low, high = 1.0, float(len(step_ms) - 1)
    while high - low > 1e-6 * high:
        middle = (low + high) / 2.0
        if middle / _at(step_ms, middle) < tokens_per_ms:
            low = middle
        else:
            high = middle
    return high


@numba.njit(cache=True)
def _variance(step_ms: FloatArray, mean: float) -> float:
    """Variance of the number of requests around its mean N.

    Poisson if steps took the same time whatever the batch. More requests make longer
    steps, which hold requests back: small deviations then die away more slowly by
    1 - N t'(N) / t(N), and their variance grows by as much (linear noise).
    """
    step = _at(step_ms, mean)
    slope = _at(step_ms, mean + 1.0) - step if mean >= 1.0 else 0.0
    return mean * step / max(step - mean * slope, _LEAST_PULL * step)


@numba.njit(cache=True)
def _take(
    step_ms: FloatArray,
    memory_ms: FloatArray,
    arithmetic_ms: FloatArray,
    facts: LoadFacts,
    rate: float,
    row: FloatArray,
) -> None:
    """What serving `rate` requests a ms takes, into a row of the table."""
    tokens_per_ms, cycle_ms = rate * facts.decode_steps, facts.cycle_ms
    if cycle_ms > 0:
        mean = tokens_per_ms * cycle_ms
    else:
        mean = _mean_batch(step_ms, tokens_per_ms)
    batch = mean + facts.quantile * math.sqrt(_variance(step_ms, mean))
    mean_ms, decode_ms = _at(step_ms, mean), _at(step_ms, batch)
    busy = min(1.0, mean)
    row[SERVED] = rate
    row[PREFILL], row[LONGEST] = facts.prefill_ms, facts.longest_ms
    row[BATCH] = max(1.0, batch)
    takes = row[TAKES:]
    takes[MEMORY] = facts.kept_frac + facts.kv_frac * max(1.0, batch)
    takes[PREFILLS] = rate * facts.prompt_ms / facts.prefill_load_frac
    if cycle_ms > 0:
        # A full batch makes its own cycle longer, by as much as its step; and no cycle
        # is shorter than a step, however seldom there is one.
        row[TPOT] = max(cycle_ms * decode_ms / mean_ms, decode_ms)
        takes[SMS] = busy * mean_ms / cycle_ms + rate * facts.prompt_ms
        return
    row[TPOT] = decode_ms
    memory = busy * _at(memory_ms, mean) / mean_ms
    arithmetic = busy * _at(arithmetic_ms, mean) / mean_ms
    takes[BANDWIDTH] = memory + rate * facts.prompt_memory_ms
    takes[ARITHMETIC] = arithmetic + rate * facts.prompt_arithmetic_ms


@numba.njit(cache=True)
def _take_over_day(
    step_ms: FloatArray,
    memory_ms: FloatArray,
    arithmetic_ms: FloatArray,
    facts: LoadFacts,
    busy: FloatArray,
    rate: float,
    row: FloatArray,
) -> None:
    """What a mean rate takes in every period of a day; its batch is that of the peak.

    Memory is counted once, at the peak: a KV quota is there all day.
    """
    each = np.zeros(TAKES + NUM_RESOURCES)
    row[:] = 0.0
    for period in range(len(busy)):
        each[:] = 0.0
        _take(step_ms, memory_ms, arithmetic_ms, facts, rate * busy[period], each)
        first = TAKES + period * NUM_RESOURCES
        row[first : first + NUM_RESOURCES] = each[TAKES:]
        if period > 0:
            row[first + MEMORY] = 0.0
        most = max(row[TAKES + MEMORY], each[TAKES + MEMORY])
        row[BATCH] = max(row[BATCH], each[BATCH])
        row[TPOT] = max(row[TPOT], each[TPOT])
        row[TAKES + MEMORY] = most
    row[SERVED] = rate
    row[PREFILL], row[LONGEST] = facts.prefill_ms, facts.longest_ms


@numba.njit(cache=True)
def _is_possible(row: FloatArray, max_batch: int, tpot_ms: float) -> bool:
    is_within = row[BATCH] <= max_batch and row[TPOT] <= tpot_ms
    return bool(is_within and np.all(row[TAKES:] <= 1.0))


@numba.njit(cache=True)
def most_per_ms(
    decode_ms: FloatArray,
    memory_ms: FloatArray,
    arithmetic_ms: FloatArray,
    facts: LoadFacts,
    busy: FloatArray,
) -> float:
    """Largest possible mean rate of one LLM with one share, in requests a ms."""
    step_ms = decode_ms + (facts.stretch - 1.0) * memory_ms
    row = np.zeros(TAKES + NUM_RESOURCES * len(busy))
    low, high = 0.0, facts.rate_per_ms
    _take_over_day(step_ms, memory_ms, arithmetic_ms, facts, busy, high, row)
    if _is_possible(row, len(step_ms) - 1, facts.tpot_ms):
        return float(high)
    while high - low > 1e-4 * high and high > 1e-6 * facts.rate_per_ms:
        middle = (low + high) / 2.0
        _take_over_day(step_ms, memory_ms, arithmetic_ms, facts, busy, middle, row)
        if _is_possible(row, len(step_ms) - 1, facts.tpot_ms):
            low = middle
        else:
            high = middle
    return low


@numba.njit(cache=True)
def fill(
    decode_ms: FloatArray,
    memory_ms: FloatArray,
    arithmetic_ms: FloatArray,
    facts: LoadFacts,
    busy: FloatArray,
    rates: FloatArray,
) -> FloatArray:
    """Rows of the mean rates that are possible for one LLM with one share."""
    step_ms = decode_ms + (facts.stretch - 1.0) * memory_ms
    found = np.zeros((len(rates), TAKES + NUM_RESOURCES * len(busy)))
    num = 0
    for rate in rates:
        row = found[num]
        _take_over_day(step_ms, memory_ms, arithmetic_ms, facts, busy, rate, row)
        if _is_possible(found[num], len(step_ms) - 1, facts.tpot_ms):
            num += 1
    return found[:num]
