"""Serving a placement: its services' traffic on its units, held to the SLOs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clusters.fields import check_fields, spec
from planner.multiplexing.apart_run import serve_apart
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.placed import PlacedUnits
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.traffic import draw_all, span_of
from planner.multiplexing.unit_run import Scheduling, UnitResult, simulate_unit
from planner.multiplexing.unit_state import Array
from planner.simulator.outcome import METRICS, ReplicaStats, SimulationResult
from planner.simulator.system import Phase
from planner.slo import Attainment
from planner.workload.requests import Requests

TURNED_AWAY = -1
"""Where a request goes that the placement does not promise to serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOutcome:
    """How one service did in the simulation."""

    service: str = spec("Name of the service.")
    wanted_rps: float = spec("Its rate.", unit="requests/s", ge=0)
    admitted_rps: float = spec("Of it, sent to units.", unit="requests/s", ge=0)
    within_slo_rps: float = spec(
        "Of these, served within every limit.", unit="requests/s", ge=0
    )
    attainment: Attainment | None = spec(
        "Shares of the admitted requests within the SLO; None: none was admitted.",
        default=None,
    )
    num_requests: int = spec("Requests simulated.", unit="requests", ge=0)
    num_preemptions: int = spec("Preemptions.", unit="1", ge=0)
    ttft_p50_ms: float | None = spec("Median TTFT.", unit="ms", default=None)
    ttft_p90_ms: float | None = spec("90th percentile.", unit="ms", default=None)
    ttft_p99_ms: float | None = spec("99th percentile.", unit="ms", default=None)
    tpot_p50_ms: float | None = spec("Median TPOT.", unit="ms", default=None)
    tpot_p90_ms: float | None = spec("90th percentile.", unit="ms", default=None)
    tpot_p99_ms: float | None = spec("99th percentile.", unit="ms", default=None)
    e2e_p50_ms: float | None = spec("Median E2E.", unit="ms", default=None)
    e2e_p90_ms: float | None = spec("90th percentile.", unit="ms", default=None)
    e2e_p99_ms: float | None = spec("99th percentile.", unit="ms", default=None)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def goodput_rps(self) -> float:
        """All that was admitted where the SLO is met, else what was within it."""
        is_met = self.attainment is not None and self.attainment.is_met
        return self.admitted_rps if is_met else self.within_slo_rps


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLoad:
    """How busy a unit was."""

    prefill_busy_frac: float = spec("Time in prefill steps.", unit="1", ge=0)
    decode_busy_frac: tuple[float, ...] = spec(
        "Time in decode steps of each LLM.", unit="1"
    )
    kv_peak_frac: tuple[float, ...] = spec(
        "Most of its final quota that each LLM held.", unit="1"
    )
    num_adaptations: int = spec("Times that quotas moved.", unit="1", ge=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedEvaluation:
    """What a simulation says about a placement of several services."""

    scheduling: Scheduling = spec("What becomes of KV quotas.")
    span_s: float = spec("Time that the arrivals span.", unit="s", gt=0)
    seed: int = spec("Seed of the traffic.", unit="1", ge=0)
    within_slo_rps: float = spec(
        "Served within the SLOs, all services.", unit="requests/s", ge=0
    )
    services: tuple[ServiceOutcome, ...] = spec("Each service.")
    units: tuple[UnitLoad, ...] = spec("Each unit.")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def missed(self) -> tuple[str, ...]:
        """Services that miss their SLO with what was admitted of them."""
        return tuple(
            each.service
            for each in self.services
            if each.attainment is not None and not each.attainment.is_met
        )

    @property
    def is_met(self) -> bool:
        """Whether every service meets its SLO with what was admitted of it."""
        return not self.missed


def serve(
    problem: SharedProblem,
    book: CostBook,
    placed: PlacedUnits,
    *,
    span_s: float | None = None,
    seed: int = 0,
    rate_scale: float = 1.0,
    scheduling: Scheduling = Scheduling.ADBS,
) -> SharedEvaluation:
    """Simulate the traffic of all services on the units of a placement.

    Parameters
    ----------
    problem
        The services, with their rates, lengths and SLOs.
    book
        Costs of their LLMs.
    placed
        Units, with the load that each is to serve.
    span_s
        Time that the arrivals span, in s; None: `span_of` the problem.
    seed
        Seed of the traffic; each service draws apart.
    rate_scale
        Factor on all rates, those promised too.
    scheduling
        What becomes of KV quotas.

    Returns
    -------
    SharedEvaluation
        Of each service, what was admitted and what was served within its SLO. What a
        placement does not promise to serve is turned away as it arrives, spread evenly.
    """
    span_s = span_s or span_of(problem, rate_scale=rate_scale)
    drawn = draw_all(problem, span_s=span_s, seed=seed, rate_scale=rate_scale)
    shares: list[dict[str, Requests]] = [{} for _ in placed.units]
    apart: dict[str, Requests] = {}
    for service in problem.services:
        rate = (service.workload.mean_rate_rps or 0.0) * rate_scale
        requests = drawn[service.name]
        promised = [each.rps_of(service.name) * rate_scale for each in placed.units]
        promised.append(placed.apart_rps(service.name) * rate_scale)
        target = deal(len(requests), promised, rate)
        for unit, share in enumerate(shares):
            if (own := target == unit).any():
                share[service.name] = _only(requests, own)
        if (own := target == len(shares)).any():
            apart[service.name] = _only(requests, own)
    budget = problem.engine.limits.max_batch_tokens
    results = [
        simulate_unit(
            each.unit, book, share, max_batch_tokens=budget, scheduling=scheduling
        )
        if each.unit.phase is Phase.AGGREGATED
        else None
        for each, share in zip(placed.units, shares, strict=True)
    ]
    served_apart = serve_apart(book, placed, apart)
    outcomes = []
    for service in problem.services:
        parts = [
            result.services[service.name]
            for result, share in zip(results, shares, strict=True)
            if result is not None and service.name in share
        ]
        if service.name in served_apart:
            parts.append(served_apart[service.name].result)
        rate = (service.workload.mean_rate_rps or 0.0) * rate_scale
        num = len(drawn[service.name])
        outcomes.append(_outcome(problem, service.name, parts, rate, num))
    loads = {
        index: _load_apart(stats)
        for each in served_apart.values()
        for index, stats in each.by_unit.items()
    }
    return SharedEvaluation(
        scheduling=scheduling,
        span_s=span_s,
        seed=seed,
        within_slo_rps=sum(each.within_slo_rps for each in outcomes),
        services=tuple(outcomes),
        units=tuple(
            loads.get(index, _IDLE) if result is None else _load_of(result)
            for index, result in enumerate(results)
        ),
    )


_IDLE = UnitLoad(
    prefill_busy_frac=0.0,
    decode_busy_frac=(0.0,),
    kv_peak_frac=(0.0,),
    num_adaptations=0,
)


def _load_of(result: UnitResult) -> UnitLoad:
    """How busy a unit of whole requests was."""
    return UnitLoad(
        prefill_busy_frac=result.prefill_busy_frac,
        decode_busy_frac=tuple(result.decode_busy_frac.values()),
        kv_peak_frac=tuple(
            held / result.quota_tokens[name]
            for name, held in result.peak_held_tokens.items()
        ),
        num_adaptations=result.num_adaptations,
    )


def _load_apart(stats: ReplicaStats) -> UnitLoad:
    """How busy a unit of one phase was."""
    return UnitLoad(
        prefill_busy_frac=stats.prefill_busy_frac,
        decode_busy_frac=(stats.decode_busy_frac,),
        kv_peak_frac=(stats.kv_peak_frac,),
        num_adaptations=0,
    )


def deal(num: int, promised_rps: Sequence[float], rate_rps: float) -> Array:
    """Unit of each of `num` requests in order, or `TURNED_AWAY`; shape (num,).

    Each goes where the promise is furthest from being kept (smooth weighted round
    robin), so that every unit gets its share of any stretch of the traffic.
    """
    promised = np.array([*promised_rps, max(0.0, rate_rps - sum(promised_rps))])
    weight = promised / promised.sum()
    credit = np.zeros(len(weight))
    target = np.empty(num, dtype=np.int64)
    for i in range(num):
        credit += weight
        chosen = int(np.argmax(credit))
        credit[chosen] -= 1.0
        target[i] = chosen
    target[target == len(promised_rps)] = TURNED_AWAY
    return target


def _only(requests: Requests, kept: Array) -> Requests:
    return Requests(
        arrival_ms=requests.arrival_ms[kept],
        input_tokens=requests.input_tokens[kept],
        output_tokens=requests.output_tokens[kept],
    )


def _outcome(
    problem: SharedProblem,
    name: str,
    parts: Sequence[SimulationResult],
    rate_rps: float,
    num: int,
) -> ServiceOutcome:
    """What became of one service on all its units."""
    service = next(each for each in problem.services if each.name == name)
    if not parts:
        return ServiceOutcome(
            service=name,
            wanted_rps=rate_rps,
            admitted_rps=0.0,
            within_slo_rps=0.0,
            num_requests=0,
            num_preemptions=0,
        )
    whole = joined(parts)
    good = whole.meets(service.slo.limits_ms)
    percentiles = {
        f"{metric}_p{percent}_ms": _number(whole.percentile_ms(metric, percent))
        for metric in METRICS
        for percent in (50, 90, 99)
    }
    return ServiceOutcome(
        service=name,
        wanted_rps=rate_rps,
        admitted_rps=rate_rps * whole.num_arrived / num,
        within_slo_rps=rate_rps * float(good.sum()) / num,
        attainment=service.slo.judge(whole),
        num_requests=whole.num_arrived,
        num_preemptions=whole.num_preemptions,
        **percentiles,
    )


def joined(parts: Sequence[SimulationResult]) -> SimulationResult:
    """Requests of one service on several units as one result, without replicas."""
    first = parts[0]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in SimulationResult.__dataclass_fields__
        if isinstance(getattr(first, name), np.ndarray)
    }
    return SimulationResult(
        **arrays,
        num_preemptions=sum(part.num_preemptions for part in parts),
        num_events=sum(part.num_events for part in parts),
        end_ms=max(part.end_ms for part in parts),
        sample_ms=first.sample_ms,
        replicas=(),
        is_complete=all(part.is_complete for part in parts),
    )


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
