"""Evaluation: what a simulation says about a deployment, condensed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from planner.cost import usd_per_hour
from planner.deployment import Deployment
from planner.energy import replica_power_w
from planner.serving import Planner
from planner.simulator.confidence import estimate
from planner.simulator.outcome import SimulationResult
from planner.slo import Attainment, Slo, margin_ms

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
    prefix_hit_frac: float | None = spec(
        "Prompt tokens that its prefix cache held; None: there is no cache.",
        unit="1",
        ge=0,
        le=1,
        default=None,
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
class AdmissionEffect:
    """What refusing requests on arrival did, against letting every one in."""

    num_refused: int = spec("Requests refused for it.", unit="requests", ge=0)
    admitted_joint_frac: float = spec(
        "Of those let in, within every limit.", unit="1", ge=0, le=1
    )
    joint_frac_without: float = spec(
        "Of all requests, within every limit when every one is let in.",
        unit="1",
        ge=0,
        le=1,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixUse:
    """What prefix caches held of the prompts when these were first computed."""

    hit_tokens_frac: float = spec("Of all prompt tokens.", unit="1", ge=0, le=1)
    hit_requests_frac: float = spec(
        "Requests with any token of theirs in a cache.", unit="1", ge=0, le=1
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
        "Refused: longer than the KV cache, or on arrival.", unit="requests", ge=0
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
    admission: AdmissionEffect | None = spec(
        "What refusing requests on arrival did; None: every one is let in.",
        default=None,
    )
    prefix_use: PrefixUse | None = spec(
        "Hits of the prefix caches; None: there are none.", default=None
    )
    disturbance: Disturbance | None = spec(
        "What events from outside did; None: there were none.", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def metric(self, name: str) -> MetricSummary | None:
        """Percentiles of one metric, None when no request had it."""
        return next((m for m in self.metrics if m.metric == name), None)


def summarize(
    planner: Planner,
    deployment: Deployment,
    result: SimulationResult,
    *,
    num_events: int = 0,
    freely: SimulationResult | None = None,
) -> Evaluation:
    """Condense a simulation of `deployment`, with so many events from outside.

    Where requests were refused on arrival, `freely` is the simulation of all of them.
    """
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
    hits = _prefix_hits(result, len(deployment.replicas))
    return Evaluation(
        disturbance=disturbance,
        admission=None if freely is None else _admission(slo, result, freely),
        prefix_use=_prefix_use(result),
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
                prefix_hit_frac=hit_frac,
                power_w=power_w,
            )
            for replica, load, power_w, hit_frac in zip(
                deployment.replicas, result.replicas, powers, hits, strict=True
            )
        ),
    )


def _half_widths(result: SimulationResult, metric: str) -> dict[str, float | None]:
    """Half widths of the percentiles' intervals by batch means, by field."""
    values = result.metric_ms(metric)
    return {
        f"p{percent}_half_ms": estimate(values, percent=percent).half_width
        for percent in PERCENTS
    }


def _admission(
    slo: Slo, result: SimulationResult, freely: SimulationResult
) -> AdmissionEffect:
    is_good = result.meets(slo.limits_ms)
    num_admitted = result.num_arrived - result.num_rejected
    return AdmissionEffect(
        num_refused=max(0, result.num_rejected - freely.num_rejected),
        admitted_joint_frac=float(is_good.sum()) / max(1, num_admitted),
        joint_frac_without=float(freely.meets(slo.limits_ms).mean()),
    )


def _prefix_use(result: SimulationResult) -> PrefixUse | None:
    if result.hit_tokens is None:
        return None
    computed = np.isfinite(result.prefill_start_ms)
    if not computed.any():
        return PrefixUse(hit_tokens_frac=0.0, hit_requests_frac=0.0)
    hit_tokens = result.hit_tokens[computed]
    return PrefixUse(
        hit_tokens_frac=float(hit_tokens.sum() / result.input_tokens[computed].sum()),
        hit_requests_frac=float((hit_tokens > 0).mean()),
    )


def _prefix_hits(result: SimulationResult, num_replicas: int) -> Sequence[float | None]:
    """Share of prompt tokens found in the cache, by the replica of the prefill."""
    if result.hit_tokens is None:
        return [None] * num_replicas
    where = result.prefill_replica
    known = np.isfinite(result.prefill_start_ms) & (where >= 0)
    sums = [
        np.bincount(where[known], tokens[known], minlength=num_replicas)
        for tokens in (result.hit_tokens, result.input_tokens)
    ]
    return [
        float(hit / tokens) if tokens > 0 else None
        for hit, tokens in zip(*sums, strict=True)
    ]


def _joules_per_token(
    powers_w: Sequence[float | None], tokens_per_s: float
) -> float | None:
    """Energy of each token; None without tokens, or where a power is not known."""
    known_w = [power for power in powers_w if power is not None]
    if not tokens_per_s or len(known_w) < len(powers_w):
        return None
    return sum(known_w) / tokens_per_s
