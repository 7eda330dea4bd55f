"""Evaluator: the one place where deployments are simulated, for search and report."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from clusters.fields import InputError, check_fields, spec
from planner.cell_runs import simulate_cells
from planner.cells import MOST_REPLICAS, cell_kinds, is_large
from planner.cost import usd_per_hour
from planner.deployment import Deployment
from planner.energy import replica_power_w
from planner.goodput import (
    SCREENING,
    Effort,
    Goodput,
    goodput,
    meets,
    rate_limit_rps,
    total,
)
from planner.serving import Planner
from planner.simulator.build import SimulationOptions
from planner.simulator.confidence import estimate
from planner.simulator.outcome import SimulationResult
from planner.simulator.outside_schedule import OutsideEvent, flipped
from planner.simulator.simulate import simulate
from planner.simulator.system import ServingSystem
from planner.slo import Attainment, Slo, margin_ms
from planner.workload.requests import Requests

PERCENTS = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSummary:
    """Percentiles of one latency metric, with 95 % intervals by batch means."""

    metric: str = spec("ttft, tpot, itl (gaps between tokens) or e2e.")
    p50_ms: float = spec("Median.", unit="ms", ge=0)
    p90_ms: float = spec("90th percentile.", unit="ms", ge=0)
    p99_ms: float = spec("99th percentile.", unit="ms", ge=0)
    limit_ms: float | None = spec("Limit of the SLO.", unit="ms", default=None)
    margin_ms: float | None = spec(
        "Room under the limit at the SLO's percentile.", unit="ms", default=None
    )
    p50_half_ms: float | None = spec(
        "Half the interval of the median; None: too few requests, or gaps.",
        unit="ms",
        default=None,
    )
    p90_half_ms: float | None = spec(
        "The same of the 90th percentile.", unit="ms", default=None
    )
    p99_half_ms: float | None = spec(
        "The same of the 99th percentile.", unit="ms", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """How busy one replica was."""

    name: str = spec("Name of the replica.")
    num_requests: int = spec("Requests routed to it.", unit="requests", ge=0)
    prefill_busy_frac: float = spec("Time in prefill steps.", unit="1", ge=0)
    decode_busy_frac: float = spec("Time in decode steps.", unit="1", ge=0)
    mixed_busy_frac: float = spec(
        "Time in steps of prompts and decodes.", unit="1", ge=0, default=0.0
    )
    kv_mean_frac: float = spec("Mean KV occupancy.", unit="1", ge=0)
    kv_peak_frac: float = spec("Highest KV occupancy.", unit="1", ge=0)
    bubble_frac: float = spec(
        "Time of its stages that is idle while another stage works.",
        unit="1",
        ge=0,
        default=0.0,
    )
    power_w: float | None = spec(
        "Mean power of its GPUs, estimated (planner.energy).",
        unit="W",
        ge=0,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What events from outside did to the requests."""

    num_events: int = spec("Events of the schedule.", unit="1", ge=0)
    num_recomputed: int = spec(
        "Requests lost with a replica and prefilled again, each time.", unit="1", ge=0
    )
    num_recomputed_tokens: int = spec(
        "Tokens prefilled again: of prompts, and those their users had.",
        unit="tokens",
        ge=0,
    )
    num_rerouted: int = spec(
        "Requests that waited on a replica that failed, each time.", unit="1", ge=0
    )
    num_unfinished: int = spec(
        "Requests that wait in the end for replicas that do not come back.",
        unit="requests",
        ge=0,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a simulation says about a deployment at one rate."""

    rate_rps: float = spec("Arrival rate.", unit="requests/s", ge=0)
    offered_rps: float | None = spec(
        "Rate the requests were drawn at; None: as recorded, or a closed loop.",
        unit="requests/s",
        default=None,
    )
    num_requests: int = spec("Requests simulated.", unit="requests", ge=1)
    num_rejected: int = spec(
        "Refused: longer than the KV cache.", unit="requests", ge=0
    )
    num_preemptions: int = spec("Preemptions.", unit="1", ge=0)
    attainment: Attainment = spec("Shares within the SLO.")
    metrics: tuple[MetricSummary, ...] = spec("Percentiles.")
    transfer_p90_ms: float | None = spec(
        "90th percentile of the KV transfer, waiting included.", unit="ms", default=None
    )
    output_tokens_per_s: float = spec("Output tokens.", unit="tokens/s", ge=0)
    joules_per_output_token: float | None = spec(
        "Energy of the GPUs for each output token, estimated (planner.energy).",
        unit="J/token",
        ge=0,
        default=None,
    )
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    replicas: tuple[ReplicaLoad, ...] = spec("Load of each replica.")
    disturbance: Disturbance | None = spec(
        "What events from outside did; None: there were none.", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def metric(self, name: str) -> MetricSummary | None:
        """Percentiles of one metric, None when no request had it."""
        return next((m for m in self.metrics if m.metric == name), None)


@dataclass(slots=True)
class Evaluator:
    """Simulates deployments of one problem; remembers what it has simulated."""

    planner: Planner
    seed: int = 0
    effort: Effort = SCREENING
    num_evaluations: int = 0
    _goodputs: dict[tuple[ServingSystem, Slo, Effort, float], Goodput] = field(
        default_factory=dict
    )

    def goodput(
        self,
        deployment: Deployment,
        *,
        effort: Effort | None = None,
        floor_rps: float = 0.0,
    ) -> Goodput:
        """Highest rate within the SLO of the problem's service.

        Cells of a large deployment (`planner.cells`) are judged apart and add up.
        """
        slo = self.planner.problem.service.slo
        if is_large(len(deployment.replicas)):
            parts = [
                (self.system_goodput(kind.system, slo, effort=effort), len(kind.cells))
                for kind in cell_kinds(self.planner, deployment)
            ]
            return total(parts)
        return self.system_goodput(
            self.planner.system(deployment), slo, effort=effort, floor_rps=floor_rps
        )

    def system_goodput(
        self,
        system: ServingSystem,
        slo: Slo,
        *,
        effort: Effort | None = None,
        floor_rps: float = 0.0,
    ) -> Goodput:
        """Highest rate at which any system meets `slo` on the problem's workload."""
        effort = effort or self.effort
        key = (system, slo, effort, floor_rps)
        if key not in self._goodputs:
            self.num_evaluations += 1
            self._goodputs[key] = goodput(
                system,
                self.planner.problem.service.workload,
                slo,
                effort=effort,
                seed=self.seed,
                floor_rps=floor_rps,
            )
            if self._goodputs[key].rate_rps > 0:  # a floor that was met does not matter
                self._goodputs.setdefault(
                    (system, slo, effort, 0.0), self._goodputs[key]
                )
        return self._goodputs[key]

    def rate_limit_rps(self, deployment: Deployment) -> float:
        """Rate that `goodput` of a deployment cannot exceed, without simulating it."""
        return rate_limit_rps(
            self.planner.system(deployment),
            self.planner.problem.service.workload,
            effort=self.effort,
            seed=self.seed,
        )

    def is_met_at(self, deployment: Deployment, rate_rps: float) -> bool:
        """Whether the SLO is met at a rate, in a run of the screening length."""
        self.num_evaluations += 1
        service = self.planner.problem.service
        requests = service.workload.draw(
            self.effort.num_requests(rate_rps), seed=self.seed, rate_rps=rate_rps
        )
        return meets(self.planner.system(deployment), requests, service.slo)

    def evaluate(
        self,
        deployment: Deployment,
        requests: Requests,
        *,
        offered_rps: float | None = None,
        events: tuple[OutsideEvent, ...] = (),
    ) -> Evaluation:
        """Simulate `requests` (drawn at `offered_rps`) to the end and summarise.

        Raises
        ------
        InputError
            Naming the first of the `events` from outside that cannot be.
        """
        result = self.simulated(deployment, requests, events=events)
        found = summarize(self.planner, deployment, result, num_events=len(events))
        return replace(found, offered_rps=offered_rps)

    def simulated(
        self,
        deployment: Deployment,
        requests: Requests,
        *,
        events: tuple[OutsideEvent, ...] = (),
        max_spans: int = 0,
    ) -> SimulationResult:
        """Simulate `requests` to the end, with the first `max_spans` steps on record.

        Large deployments are simulated by their cells, without a record and without
        gaps between tokens.

        Raises
        ------
        InputError
            Naming the first of the `events` from outside that cannot be.
        """
        workload = self.planner.problem.service.workload
        options = SimulationOptions(
            concurrency=workload.concurrency,
            ramp_ms=workload.ramp_ms,
            events=events,
            is_itl_counted=True,
            max_spans=max_spans,
        )
        is_parted = is_large(len(deployment.replicas)) and options.concurrency is None
        if is_parted and events:
            raise InputError(
                "events", len(events), f"none beyond {MOST_REPLICAS} replicas"
            )
        if is_parted:
            kinds = cell_kinds(self.planner, deployment)
            return simulate_cells(kinds, requests, seed=self.seed)
        system = self.planner.system(deployment, switching=flipped(events))
        return simulate(system, requests, options=options)


def summarize(
    planner: Planner,
    deployment: Deployment,
    result: SimulationResult,
    *,
    num_events: int = 0,
) -> Evaluation:
    """Condense a simulation of `deployment`, with so many events from outside."""
    slo = planner.problem.service.slo
    margins = margin_ms(slo, result)
    metrics = []
    for name in ("ttft", "tpot", "e2e"):
        p50, p90, p99 = (result.percentile_ms(name, p) for p in PERCENTS)
        if p50 == p50:  # NaN: no request has this metric
            metrics.append(
                MetricSummary(
                    metric=name,
                    p50_ms=p50,
                    p90_ms=p90,
                    p99_ms=p99,
                    limit_ms=slo.limits_ms.get(name),
                    margin_ms=margins.get(name),
                    **_half_widths(result, name),
                )
            )
    gaps = result.token_gaps
    if gaps is not None and gaps.num_gaps > 0:
        p50, p90, p99 = (gaps.percentile_ms(p) for p in PERCENTS)
        itl = MetricSummary(metric="itl", p50_ms=p50, p90_ms=p90, p99_ms=p99)
        metrics.insert(-1, itl)
    topology = planner.problem.cluster.topology
    powers = [
        replica_power_w(replica, load, topology)
        for replica, load in zip(deployment.replicas, result.replicas, strict=True)
    ]
    tokens_per_s = result.output_tokens_per_s()
    disturbance = None
    if num_events > 0:
        disturbance = Disturbance(
            num_events=num_events,
            num_recomputed=result.num_recomputed,
            num_recomputed_tokens=result.num_recomputed_tokens,
            num_rerouted=result.num_rerouted,
            num_unfinished=result.num_unfinished,
        )
    return Evaluation(
        disturbance=disturbance,
        rate_rps=result.arrival_rps(),
        num_requests=result.num_arrived,
        num_rejected=result.num_rejected,
        num_preemptions=result.num_preemptions,
        attainment=slo.judge(result),
        metrics=tuple(metrics),
        transfer_p90_ms=result.transfer_percentile_ms(90)
        if deployment.is_disaggregated
        else None,
        output_tokens_per_s=tokens_per_s,
        joules_per_output_token=_joules_per_token(powers, tokens_per_s),
        usd_per_hour=usd_per_hour(planner.problem.cluster, deployment),
        replicas=tuple(
            ReplicaLoad(
                name=replica.name,
                num_requests=load.num_requests,
                prefill_busy_frac=load.prefill_busy_frac,
                decode_busy_frac=load.decode_busy_frac,
                mixed_busy_frac=load.mixed_busy_frac,
                kv_mean_frac=load.kv_mean_frac,
                kv_peak_frac=load.kv_peak_frac,
                bubble_frac=load.bubble_frac,
                power_w=power_w,
            )
            for replica, load, power_w in zip(
                deployment.replicas, result.replicas, powers, strict=True
            )
        ),
    )


def _joules_per_token(
    powers_w: Sequence[float | None], tokens_per_s: float
) -> float | None:
    """Energy of each token; None without tokens, or where a power is not known."""
    known_w = [power for power in powers_w if power is not None]
    if not tokens_per_s or len(known_w) < len(powers_w):
        return None
    return sum(known_w) / tokens_per_s


def _half_widths(result: SimulationResult, metric: str) -> dict[str, float | None]:
    """Half widths of the percentiles' intervals by batch means, by field."""
    values = result.metric_ms(metric)
    return {
        f"p{percent}_half_ms": estimate(values, percent=percent).half_width
        for percent in PERCENTS
    }
