"""Serving a placement: its services' traffic on its units, held to the SLOs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clusters.fields import check_fields, spec
from planner.multiplexing.apart_run import serve_apart
from planner.multiplexing.clock import changes
from planner.multiplexing.dealing import deal, only
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.placed import PlacedUnits
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.traffic import draw_all, span_of
from planner.multiplexing.unit_load import UnitLoad
from planner.multiplexing.unit_run import Scheduling, simulate_unit
from planner.multiplexing.worst_window import WindowOutcome, worst_window
from planner.problem import Service
from planner.simulator.outcome import METRICS, SimulationResult
from planner.simulator.system import Phase
from planner.slo import Attainment
from planner.workload.requests import Requests


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
    worst: WindowOutcome | None = spec(
        "The worst part of a day or trace; None: rates do not change.", default=None
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
                share[service.name] = only(requests, own)
        if (own := target == len(shares)).any():
            apart[service.name] = only(requests, own)
    budget = problem.engine.limits.max_batch_tokens
    results = [
        simulate_unit(
            each.unit, book, share, max_batch_tokens=budget, scheduling=scheduling
        )
        if each.unit.phase is Phase.AGGREGATED
        else None
        for each, share in zip(placed.units, shares, strict=True)
    ]
    served_apart = serve_apart(book, placed, apart, scheduling=scheduling)
    outcomes = []
    for service in problem.services:
        parts = [
            result.services[service.name]
            for result, share in zip(results, shares, strict=True)
            if result is not None and service.name in share
        ]
        if service.name in served_apart.services:
            parts.append(served_apart.services[service.name])
        rate = (service.workload.mean_rate_rps or 0.0) * rate_scale
        num = len(drawn[service.name])
        outcome = _outcome(service, parts, rate, num)
        if parts and any(changes(each.workload) for each in problem.services):
            limits_ms = service.slo.limits_ms
            worst = worst_window(joined(parts), limits_ms, span_s=span_s)
            outcome = replace(outcome, worst=worst)
        outcomes.append(outcome)
    return SharedEvaluation(
        scheduling=scheduling,
        span_s=span_s,
        seed=seed,
        within_slo_rps=sum(each.within_slo_rps for each in outcomes),
        services=tuple(outcomes),
        units=tuple(
            served_apart.load_of(index, placed)
            if result is None
            else UnitLoad.of_unit(result)
            for index, result in enumerate(results)
        ),
    )


def _outcome(
    service: Service,
    parts: Sequence[SimulationResult],
    rate_rps: float,
    num: int,
) -> ServiceOutcome:
    """What became of one service on all its units."""
    if not parts:
        return ServiceOutcome(
            service=service.name,
            wanted_rps=rate_rps,
            admitted_rps=0.0,
            within_slo_rps=0.0,
            num_requests=0,
            num_preemptions=0,
        )
    whole = joined(parts)
    good = whole.meets(service.slo.limits_ms)
    percentiles: dict[str, Any] = {
        f"{metric}_p{percent}_ms": _number(whole.percentile_ms(metric, percent))
        for metric in METRICS
        for percent in (50, 90, 99)
    }
    return ServiceOutcome(
        service=service.name,
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
