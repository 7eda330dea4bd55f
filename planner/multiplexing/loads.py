"""Loads: what an LLM can serve in a unit, and what of the unit each load takes.

An operating point says how a unit runs. At a given point LLMs no longer depend on each
other but through what they take together, so that the best unit is a knapsack:

* shared in space: prefills take turns on a share of the SMs, each LLM decodes on a
  share of its own, and memory-bound parts of all steps take `stretch` times as long;
* shared in time: every step has all SMs; decode steps of the LLMs take turns within a
  `cycle`, and prefills go first.

What a load takes, as parts of the unit: SMs (or time), memory, the time for prefills,
memory bandwidth, arithmetic. A decode step takes as long as its batch does at the
quantile of the SLO, when the number of requests varies around Little's mean.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S
from models.latency.step_table import FloatArray
from planner.multiplexing.llm_costs import LlmCosts
from planner.multiplexing.load_table import (
    BATCH,
    LLM,
    LONGEST,
    NUM_COLUMNS,
    NUM_RESOURCES,
    PLACES,
    PREFILL,
    SERVED,
    SHARE,
    SMS,
    TAKES,
    TPOT,
    LoadFacts,
    fill,
    most_per_ms,
)
from planner.queueing import mg1_wait_quantile_ms

IntArray = NDArray[np.int64]

NO_LIMIT_MS = 1e12

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
        return self.table[:, LLM].astype(np.int64)

    @property
    def served_rps(self) -> FloatArray:
        """Requests served."""
        return self.table[:, SERVED] * MS_PER_S

    @property
    def takes(self) -> FloatArray:
        """Parts of the unit, shape (num_loads, NUM_RESOURCES)."""
        return self.table[:, TAKES:]

    @property
    def prefill_ms(self) -> FloatArray:
        """Its prefill step."""
        return self.table[:, PREFILL]

    @property
    def longest_ms(self) -> FloatArray:
        """Longest prefill in the unit that the TTFT limit allows."""
        return self.table[:, LONGEST]

    @property
    def sm_share_frac(self) -> FloatArray:
        """SMs of its decode."""
        return self.table[:, SHARE]

    @property
    def batch(self) -> FloatArray:
        """Decode batch at the quantile of the SLO."""
        return self.table[:, BATCH]

    @property
    def tpot_ms(self) -> FloatArray:
        """Decode step at that batch."""
        return self.table[:, TPOT]


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
    rows = [np.empty((0, NUM_COLUMNS))]
    for index, cost, rates_rps in wanted:
        facts = _facts(point, cost)
        rates = np.array(rates_rps) / MS_PER_S
        if facts is None:
            continue
        for share in _shares(point, cost):
            found = fill(*_arrays(cost, share), facts, rates)
            found[:, LLM], found[:, SHARE] = index, share
            if point.cycle_ms is None:
                found[:, TAKES + SMS] = share
            if point.max_llms is not None:
                found[:, TAKES + PLACES] = 1.0 / point.max_llms
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
    rates = [most_per_ms(*_arrays(cost, each), facts) for each in shares]
    return MS_PER_S * max(rates, default=0.0)


def _shares(point: OperatingPoint, cost: LlmCosts) -> Iterator[float]:
    """Shares that a decode may have beside the prefills."""
    for share in cost.shares:
        is_free = share + point.prefill_share_frac <= 1.0 + _ROUNDING
        if share == 1.0 if point.cycle_ms else is_free:
            yield share


def _arrays(cost: LlmCosts, share: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    return cost.decode_ms[share], cost.memory_ms, cost.arithmetic_ms


def _facts(point: OperatingPoint, cost: LlmCosts) -> LoadFacts | None:
    """What `fill` needs of an LLM, None when its limits exclude the point."""
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
    return LoadFacts(
        rate_per_ms=demand.rate_rps / MS_PER_S,
        decode_steps=demand.decode_steps,
        quantile=max(0.0, NormalDist().inv_cdf(quantile)),
        tpot_ms=tpot_ms,
        prefill_ms=prefill_ms,
        longest_ms=longest_ms,
        prompt_ms=prefill_ms / num_prompts,
        prompt_memory_ms=prefill.least_memory_ms / num_prompts,
        prompt_arithmetic_ms=prefill.least_arithmetic_ms / num_prompts,
        kept_frac=kept_bytes / cost.budget_bytes,
        kv_frac=cost.kv_bytes_per_token * demand.context_tokens / cost.budget_bytes,
        prefill_load_frac=point.prefill_load_frac,
        stretch=point.stretch,
        cycle_ms=cycle_ms,
    )


def _capacity(point: OperatingPoint) -> FloatArray:
    free = 1.0 if point.cycle_ms else 1.0 - point.prefill_share_frac
    capacity = np.ones(NUM_RESOURCES)
    capacity[SMS] = free
    return capacity
