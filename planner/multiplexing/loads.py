"""Loads: what an LLM can serve in a unit, and what of the unit each load takes.

An operating point says how a unit runs. At a given point LLMs no longer depend on each
other but through what they take together, so that the best unit is a knapsack:

* shared in space: prefills take turns on a share of the SMs, each LLM decodes on a
  share of its own, and memory-bound parts of all steps take `stretch` times as long;
* shared in time: every step has all SMs; decode steps of the LLMs take turns within a
  `cycle`, and prefills go first.

What a load takes, as parts of the unit: SMs (or time), memory, the time for prefills,
memory bandwidth, arithmetic. A decode step takes as long as its batch does at the
quantile of the SLO, when the number of requests at a time is Poisson.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numba
import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S
from models.latency.step_table import FloatArray
from planner.multiplexing.llm_costs import LlmCosts
from planner.queueing import mg1_wait_quantile_ms

IntArray = NDArray[np.int64]

SMS, MEMORY, PREFILLS, BANDWIDTH, ARITHMETIC, PLACES = range(6)
"""What loads take parts of."""
NUM_RESOURCES = 6
NO_LIMIT_MS = 1e12

_LLM, _SERVED, _SHARE, _PREFILL, _LONGEST, _BATCH, _TPOT, _TAKES = range(8)
_NUM_COLUMNS = _TAKES + NUM_RESOURCES
_ROUNDING = 1e-9
_MOST_QUANTILE = 0.9999
"""Quantile of the batch where every request must be good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """How a unit runs."""

    prefill_share_frac: float = spec(
        "SMs that prefills have; 1: shared in time.", unit="1", gt=0, le=1
    )
    prefill_load_frac: float = spec(
        "Most of the time that prefills may take.", unit="1", gt=0, lt=1
    )
    prefill_prompts: int = spec(
        "Prompts of one prefill step, as many as queue.",
        unit="requests",
        ge=1,
        default=1,
    )
    stretch: float = spec(
        "Slowdown of memory-bound parts by the others.", unit="1", ge=1, default=1.0
    )
    cycle_ms: float | None = spec(
        "Time in which every LLM decodes once; None: shared in space.",
        unit="ms",
        gt=0,
        default=None,
    )
    max_llms: int | None = spec(
        "Most LLMs; None: any number.", unit="LLMs", ge=1, default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)
        is_in_time = self.prefill_share_frac == 1.0
        if is_in_time != (self.cycle_ms is not None):
            form = "all SMs for prefills if and only if LLMs take turns"
            raise InputError("prefill_share_frac", self.prefill_share_frac, form)

    @property
    def num_processes(self) -> int:
        """Processes of each LLM: one a phase, where phases run at the same time."""
        return 2 if self.cycle_ms is None else 1

    def __str__(self) -> str:
        if self.cycle_ms is not None:
            return f"in turns every {self.cycle_ms:g} ms"
        return f"prefill {self.prefill_share_frac:.0%} SMs, stretch {self.stretch:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """Loads of all LLMs at one operating point, sorted by LLM: a table, a row each."""

    point: OperatingPoint = spec("How the unit runs.")
    table: FloatArray = spec("Shape (num_loads, num_columns).")
    capacity: FloatArray = spec("Of the unit, shape (NUM_RESOURCES,).", unit="1")

    def __len__(self) -> int:
        return len(self.table)

    def only(self, rows: IntArray) -> "Loads":
        """Some of them."""
        return replace(self, table=self.table[rows])

    @property
    def llm(self) -> IntArray:
        """Index of the LLM of each load."""
        return self.table[:, _LLM].astype(np.int64)

    @property
    def served_rps(self) -> FloatArray:
        """Requests served."""
        return self.table[:, _SERVED] * MS_PER_S

    @property
    def takes(self) -> FloatArray:
        """Parts of the unit, shape (num_loads, NUM_RESOURCES)."""
        return self.table[:, _TAKES:]

    @property
    def prefill_ms(self) -> FloatArray:
        """Prefill of a mean prompt."""
        return self.table[:, _PREFILL]

    @property
    def longest_ms(self) -> FloatArray:
        """Longest prefill in the unit that the TTFT limit allows."""
        return self.table[:, _LONGEST]

    @property
    def sm_share_frac(self) -> FloatArray:
        """SMs of its decode."""
        return self.table[:, _SHARE]

    @property
    def batch(self) -> FloatArray:
        """Decode batch at the quantile of the SLO."""
        return self.table[:, _BATCH]

    @property
    def tpot_ms(self) -> FloatArray:
        """Decode step at that batch."""
        return self.table[:, _TPOT]


def loads_at(
    point: OperatingPoint, wanted: Sequence[tuple[int, LlmCosts, Sequence[float]]]
) -> Loads:
    """All loads of LLMs at an operating point that one of them alone could carry.

    Parameters
    ----------
    point
        How the unit runs.
    wanted
        Of each LLM that can run on the mesh: index, costs, and loads to consider in
        requests per second.
    """
    rows = [np.empty((0, _NUM_COLUMNS))]
    for index, cost, rates_rps in wanted:
        facts = _facts(point, cost)
        rates = np.array(rates_rps) / MS_PER_S
        if facts is None:
            continue
        for share in _shares(point, cost):
            found = _fill(*_arrays(cost, share), facts, rates)
            found[:, _LLM], found[:, _SHARE] = index, share
            if point.cycle_ms is None:
                found[:, _TAKES + SMS] = share
            if point.max_llms is not None:
                found[:, _TAKES + PLACES] = 1.0 / point.max_llms
            rows.append(found)
    return Loads(point=point, table=np.concatenate(rows), capacity=_capacity(point))


def most_rps(
    point: OperatingPoint, cost: LlmCosts, share: float | None = None
) -> float:
    """The most that an LLM alone can serve at an operating point, of what it has.

    With a share of the SMs for its decode, or the best one.
    """
    facts = _facts(point, cost)
    if facts is None:
        return 0.0
    shares = [s for s in _shares(point, cost) if share is None or s == share]
    rates = [_most(*_arrays(cost, each), facts) for each in shares]
    return MS_PER_S * max(rates, default=0.0)


def _shares(point: OperatingPoint, cost: LlmCosts) -> Iterator[float]:
    """Shares that a decode may have beside the prefills."""
    for share in cost.shares:
        is_free = share + point.prefill_share_frac <= 1.0 + _ROUNDING
        if share == 1.0 if point.cycle_ms else is_free:
            yield share


def _arrays(cost: LlmCosts, share: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    return cost.decode_ms[share], cost.memory_ms, cost.arithmetic_ms


def _facts(point: OperatingPoint, cost: LlmCosts) -> FloatArray | None:
    """What `_fill` needs of an LLM, None when its limits exclude the point."""
    demand, slo = cost.demand, cost.demand.slo
    cycle_ms = point.cycle_ms or 0.0
    tpot_ms = slo.tpot_ms or NO_LIMIT_MS
    prefill = cost.prefill[point.prefill_prompts]
    prefill_ms = cost.prefill_ms[point.prefill_prompts, point.prefill_share_frac]
    prefill_ms += (point.stretch - 1.0) * prefill.least_memory_ms
    num_prompts = cost.prompts[point.prefill_prompts]
    quantile = min(slo.attainment_frac, _MOST_QUANTILE)
    wait = mg1_wait_quantile_ms(
        point.prefill_load_frac, longest_ms=1.0, quantile=quantile
    )
    room_ms = (slo.ttft_ms or NO_LIMIT_MS) - prefill_ms - cycle_ms
    longest_ms = room_ms / wait if wait > 0 else math.copysign(NO_LIMIT_MS, room_ms)
    if prefill_ms > longest_ms or cycle_ms > tpot_ms:
        return None
    kept_bytes = cost.fixed_bytes + point.num_processes * cost.process_bytes
    return np.array(
        [
            demand.rate_rps / MS_PER_S,
            demand.decode_steps,
            tpot_ms,
            max(0.0, NormalDist().inv_cdf(quantile)),
            prefill_ms,
            longest_ms,
            prefill.least_memory_ms / num_prompts,
            prefill.least_arithmetic_ms / num_prompts,
            kept_bytes / cost.budget_bytes,
            cost.kv_bytes_per_token * demand.context_tokens / cost.budget_bytes,
            point.prefill_load_frac,
            point.stretch,
            cycle_ms,
            prefill_ms / num_prompts,
        ]
    )


def _capacity(point: OperatingPoint) -> FloatArray:
    free = 1.0 if point.cycle_ms else 1.0 - point.prefill_share_frac
    capacity = np.ones(NUM_RESOURCES)
    capacity[SMS] = free
    return capacity


# Compiled: a placement of 40 LLMs asks for hundreds of thousands of loads.


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
def _take(
    step_ms: FloatArray,
    memory_ms: FloatArray,
    arithmetic_ms: FloatArray,
    facts: FloatArray,
    rate: float,
    row: FloatArray,
) -> None:
    """What serving `rate` requests a ms takes, into a row of the table."""
    steps, quantile, prefill_ms, cycle_ms = facts[1], facts[3], facts[4], facts[12]
    if cycle_ms > 0:
        mean = rate * steps * cycle_ms
    else:
        mean = _mean_batch(step_ms, rate * steps)
    batch = mean + quantile * math.sqrt(mean)
    decode_ms = _at(step_ms, batch)
    busy = min(1.0, mean)
    row[_SERVED] = rate
    row[_PREFILL], row[_LONGEST] = prefill_ms, facts[5]
    row[_BATCH], row[_TPOT] = max(1.0, batch), max(decode_ms, cycle_ms)
    takes = row[_TAKES:]
    takes[MEMORY] = facts[8] + facts[9] * max(1.0, batch)
    takes[PREFILLS] = rate * facts[13] / facts[10]
    if cycle_ms > 0:
        takes[SMS] = busy * decode_ms / cycle_ms + rate * facts[13]
        return
    mean_ms = _at(step_ms, mean)
    takes[BANDWIDTH] = busy * _at(memory_ms, mean) / mean_ms + rate * facts[6]
    takes[ARITHMETIC] = busy * _at(arithmetic_ms, mean) / mean_ms + rate * facts[7]


@numba.njit(cache=True)
def _is_possible(row: FloatArray, max_batch: int, tpot_ms: float) -> bool:
    is_within = row[_BATCH] <= max_batch and row[_TPOT] <= tpot_ms
    return bool(is_within and np.all(row[_TAKES:] <= 1.0))


@numba.njit(cache=True)
def _most(
    decode_ms: FloatArray,
    memory_ms: FloatArray,
    arithmetic_ms: FloatArray,
    facts: FloatArray,
) -> float:
    """Largest possible rate of one LLM with one share, in requests a ms."""
    step_ms = decode_ms + (facts[11] - 1.0) * memory_ms
    row = np.zeros(_NUM_COLUMNS)
    low, high = 0.0, facts[0]
    _take(step_ms, memory_ms, arithmetic_ms, facts, high, row)
    if _is_possible(row, len(step_ms) - 1, facts[2]):
        return float(high)
    while high - low > 1e-4 * high and high > 1e-6 * facts[0]:
        middle = (low + high) / 2.0
        _take(step_ms, memory_ms, arithmetic_ms, facts, middle, row)
        if _is_possible(row, len(step_ms) - 1, facts[2]):
            low = middle
        else:
            high = middle
    return low


@numba.njit(cache=True)
def _fill(
    decode_ms: FloatArray,
    memory_ms: FloatArray,
    arithmetic_ms: FloatArray,
    facts: FloatArray,
    rates: FloatArray,
) -> FloatArray:
    """Rows of the rates that are possible for one LLM with one share."""
    step_ms = decode_ms + (facts[11] - 1.0) * memory_ms
    found = np.zeros((len(rates), _NUM_COLUMNS))
    num = 0
    for rate in rates:
        _take(step_ms, memory_ms, arithmetic_ms, facts, rate, found[num])
        if _is_possible(found[num], len(step_ms) - 1, facts[2]):
            num += 1
    return found[:num]
