"""Loads: what an LLM can serve in a unit, and what of the unit each load takes.

An operating point says how a unit runs. At a given point LLMs no longer depend on each
other but through what they take together, so that the best unit is a knapsack:

* shared in space: prefills take turns on a share of the SMs, each LLM decodes on a
  share of its own, and memory-bound parts of all steps take `stretch` times as long;
* shared in time: every step has all SMs; decode steps of the LLMs take turns within a
  `cycle`, and prefills go first.

What a load takes, as parts of the unit: SMs (or time), memory, the time for prefills,
memory bandwidth, arithmetic; where rates change over a day, in each of its periods, so
that LLMs with their peaks at different times fit together. A decode step takes as long
as its batch does at the quantile of the SLO, when the number of requests varies around
Little's mean.

A prefill-only or decode-only unit has all SMs for one phase: prompts of its LLMs take
turns, and their decodes run side by side on shares of the SMs, or in turns.
"""

from collections.abc import Iterator, Mapping, Sequence
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
    NUM_RESOURCES,
    PLACES,
    PREFILL,
    PREFILLS,
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
from planner.simulator.system import Phase

IntArray = NDArray[np.int64]

NO_LIMIT_MS = 1e12

E2E_PREFILL_FRAC = 0.25
"""Part of an end-to-end limit for the first token, where phases are served apart: the
search rates the two phases by themselves. The simulation judges both together."""

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

    phase: Phase = spec(
        "What it does of requests; one phase has all SMs.", default=Phase.AGGREGATED
    )

    def __post_init__(self) -> None:
        check_fields(self)
        is_in_time = self.prefill_share_frac == 1.0
        is_whole = self.phase is Phase.AGGREGATED
        if is_whole and is_in_time != (self.cycle_ms is not None):
            form = "all SMs for prefills if and only if LLMs take turns"
            raise InputError("prefill_share_frac", self.prefill_share_frac, form)

    @property
    def num_processes(self) -> int:
        """Processes of each LLM: one a phase, where phases run at the same time."""
        is_side_by_side = self.phase is Phase.AGGREGATED and self.cycle_ms is None
        return 2 if is_side_by_side else 1

    def __str__(self) -> str:
        if self.cycle_ms is not None:
            return f"in turns every {self.cycle_ms:g} ms"
        return f"prefill {self.prefill_share_frac:.0%} SMs, stretch {self.stretch:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvArrival:
    """How the KV caches of an LLM come to a decode-only unit."""

    transfer_ms: float = spec("What a request waits for.", unit="ms", ge=0, default=0.0)
    link_ms: float = spec("Of it, time of the links.", unit="ms", ge=0, default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """Loads of all LLMs at one operating point, sorted by LLM: a table, a row each."""

    point: OperatingPoint = spec("How the unit runs.")
    table: FloatArray = spec("Shape (num_loads, num_columns).")
    capacity: FloatArray = spec("Of the unit, shape (num_resources,).", unit="1")

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
        """Parts of the unit, in every period, shape (num_loads, num_resources)."""
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
    point: OperatingPoint,
    wanted: Sequence[tuple[int, LlmCosts, Sequence[float]]],
    *,
    arrivals: Mapping[int, KvArrival] | None = None,
) -> Loads:
    """All loads of LLMs at an operating point that one of them alone could carry.

    Parameters
    ----------
    point
        How the unit runs.
    wanted
        Of each LLM that can run on the mesh: index, costs, and loads to consider in
        requests per second.
    arrivals
        How KV caches of each LLM come to a decode-only unit, by index of the LLM.
    """
    num_periods = max((len(cost.demand.busy) for _, cost, _ in wanted), default=1)
    rows = [np.empty((0, TAKES + NUM_RESOURCES * num_periods))]
    for index, cost, rates_rps in wanted:
        came = (arrivals or {}).get(index, KvArrival())
        facts = _facts(point, cost, came.transfer_ms)
        rates = np.array(rates_rps) / MS_PER_S
        if facts is None:
            continue
        for share in _shares(point, cost):
            found = fill(*_arrays(cost, share), facts, _busy(cost), rates)
            if cost.demand.slo.e2e_ms is not None and point.phase is Phase.AGGREGATED:
                found = _within_e2e(found, point, cost)
            found[:, LLM], found[:, SHARE] = index, share
            if point.cycle_ms is None and point.phase is not Phase.PREFILL:
                found[:, TAKES + SMS] = share
            if point.phase is Phase.DECODE:
                _take_links(found, came.link_ms, _busy(cost))
            if point.max_llms is not None:
                found[:, TAKES + PLACES] = 1.0 / point.max_llms
            rows.append(found)
    return Loads(
        point=point,
        table=np.concatenate(rows),
        capacity=np.tile(_capacity(point), num_periods),
    )


def _take_links(table: FloatArray, link_ms: float, busy: FloatArray) -> None:
    """In a decode-only unit the time of the links counts where prompts do elsewhere."""
    for period, factor in enumerate(busy.tolist()):
        column = TAKES + period * NUM_RESOURCES + PREFILLS
        table[:, column] = table[:, SERVED] * factor * link_ms


def most_rps(
    point: OperatingPoint,
    cost: LlmCosts,
    share: float | None = None,
    *,
    transfer_ms: float = 0.0,
) -> float:
    """The most that an LLM alone can serve at an operating point, of what it has.

    With a share of the SMs for its decode, or the best one. In a decode-only unit a
    request waits `transfer_ms` for its KV cache, which its limits count.
    """
    facts = _facts(point, cost, transfer_ms)
    if facts is None:
        return 0.0
    shares = [s for s in _shares(point, cost) if share is None or s == share]
    rates = [most_per_ms(*_arrays(cost, s), facts, _busy(cost)) for s in shares]
    return MS_PER_S * max(rates, default=0.0)


def _shares(point: OperatingPoint, cost: LlmCosts) -> Iterator[float]:
    """Shares that a decode may have beside the prefills."""
    if point.phase is Phase.PREFILL:
        yield 1.0
        return
    prefills = 0.0 if point.phase is Phase.DECODE else point.prefill_share_frac
    for share in cost.shares:
        is_free = share + prefills <= 1.0 + _ROUNDING
        if share == 1.0 if point.cycle_ms else is_free:
            yield share


def _arrays(cost: LlmCosts, share: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    return cost.decode_ms[share], cost.memory_ms, cost.arithmetic_ms


def _busy(cost: LlmCosts) -> FloatArray:
    return np.array(cost.demand.busy)


def _facts(
    point: OperatingPoint, cost: LlmCosts, transfer_ms: float = 0.0
) -> LoadFacts | None:
    """What `fill` needs of an LLM, None when its limits exclude the point."""
    demand, slo = cost.demand, cost.demand.slo
    cycle_ms = point.cycle_ms or 0.0
    prefill = cost.prefill[point.prefill_prompts]
    prefill_ms = cost.prefill_ms[point.prefill_prompts, point.prefill_share_frac]
    prefill_ms += (point.stretch - 1.0) * prefill.least_memory_ms
    num_prompts = cost.prompts[point.prefill_prompts]
    quantile = min(slo.attainment_frac, _MOST_QUANTILE)
    wait = _wait(point, cost)
    ttft_ms, tpot_ms = _limits_ms(
        point, cost, (1.0 + wait) * prefill_ms + cycle_ms, transfer_ms
    )
    longest_ms = float(_longest_ms(ttft_ms - prefill_ms - cycle_ms, wait))
    if point.phase is Phase.DECODE:
        longest_ms = NO_LIMIT_MS
    if prefill_ms > longest_ms or cycle_ms > tpot_ms:
        return None
    kept_bytes = cost.fixed_bytes + point.num_processes * cost.process_bytes
    facts = LoadFacts(
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
    if point.phase is Phase.PREFILL:
        return facts._replace(decode_steps=0.0)
    if point.phase is Phase.DECODE:
        no_prompts = {"prompt_memory_ms": 0.0, "prompt_arithmetic_ms": 0.0}
        return facts._replace(prefill_ms=0.0, prompt_ms=0.0, **no_prompts)
    return facts


def _wait(point: OperatingPoint, cost: LlmCosts) -> float:
    """Wait for other prefills at the quantile of the SLO, over the longest of them."""
    return mg1_wait_quantile_ms(
        point.prefill_load_frac,
        longest_ms=1.0,
        quantile=min(cost.demand.slo.attainment_frac, _MOST_QUANTILE),
    )


def _longest_ms(room_ms: FloatArray | float, wait: float) -> FloatArray:
    """The longest prefill to wait for that leaves a first token in time."""
    if wait > 0:
        return np.asarray(room_ms) / wait
    return np.copysign(NO_LIMIT_MS, room_ms)


def _limits_ms(
    point: OperatingPoint, cost: LlmCosts, first_ms: float, transfer_ms: float
) -> tuple[float, float]:
    """Limits on TTFT and TPOT; an end-to-end limit leaves decodes what is left.

    `first_ms` is what a first token takes with prefills as long as the LLM's own. Where
    phases have units of their own, the first token may take `E2E_PREFILL_FRAC` of it.
    """
    demand = cost.demand
    ttft_ms = demand.ttft_limit_ms or NO_LIMIT_MS
    tpot_ms = demand.slo.tpot_ms or NO_LIMIT_MS
    e2e_ms, is_whole = demand.slo.e2e_ms, point.phase is Phase.AGGREGATED
    if point.phase is Phase.DECODE and demand.decode_steps > 0:
        tpot_ms -= transfer_ms / demand.decode_steps
    if e2e_ms is not None and demand.long_steps > 0:
        if not is_whole:
            first_ms = E2E_PREFILL_FRAC * e2e_ms
            ttft_ms = min(ttft_ms, first_ms)
        decodes_ms = e2e_ms - first_ms - transfer_ms
        tpot_ms = min(tpot_ms, decodes_ms / demand.long_steps)
    if point.phase is Phase.PREFILL:
        tpot_ms = NO_LIMIT_MS
    return ttft_ms, tpot_ms


def _within_e2e(table: FloatArray, point: OperatingPoint, cost: LlmCosts) -> FloatArray:
    """Loads whose long answers end in time, with the prefills that leave them to."""
    demand = cost.demand
    e2e_ms = demand.slo.e2e_ms or NO_LIMIT_MS
    ttft_ms = np.minimum(
        demand.ttft_limit_ms or NO_LIMIT_MS,
        e2e_ms - demand.long_steps * table[:, TPOT],
    )
    room_ms = ttft_ms - table[:, PREFILL] - (point.cycle_ms or 0.0)
    longest_ms = _longest_ms(room_ms, _wait(point, cost))
    table[:, LONGEST] = np.minimum(table[:, LONGEST], longest_ms)
    kept: FloatArray = table[table[:, LONGEST] >= table[:, PREFILL]]
    return kept


def _capacity(point: OperatingPoint) -> FloatArray:
    is_one_by_one = point.cycle_ms or point.phase is not Phase.AGGREGATED
    free = 1.0 if is_one_by_one else 1.0 - point.prefill_share_frac
    capacity = np.ones(NUM_RESOURCES)
    capacity[SMS] = free
    return capacity
