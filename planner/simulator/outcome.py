"""SimulationResult: the times of every request and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S
from planner.simulator.timeline import Timeline
from planner.simulator.token_gaps import GapHistogram

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

METRICS = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStats:
    """How busy one pipeline stage was."""

    prefill_busy_frac: float = spec("Share of time in prefill steps.", unit="1", ge=0)
    decode_busy_frac: float = spec("Share of time in decode steps.", unit="1", ge=0)
    mixed_busy_frac: float = spec("Share of time in steps of both.", unit="1", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStats:
    """Counters of one replica over a simulation."""

    num_requests: int = spec("Requests routed to it.", unit="requests", ge=0)
    prefill_busy_frac: float = spec("Share of time in prefill steps.", unit="1", ge=0)
    decode_busy_frac: float = spec("Share of time in decode steps.", unit="1", ge=0)
    mixed_busy_frac: float = spec(
        "Share of time in steps of prompt chunks and decodes.", unit="1", ge=0
    )
    num_prefill_steps: int = spec("Prefill steps.", unit="steps", ge=0)
    num_decode_steps: int = spec("Decode steps.", unit="steps", ge=0)
    num_mixed_steps: int = spec("Steps of both.", unit="steps", ge=0)
    num_prefill_tokens: int = spec("Prompt tokens prefilled.", unit="tokens", ge=0)
    num_decode_tokens: int = spec("Tokens decoded.", unit="tokens", ge=0)
    num_mixed_tokens: int = spec("Those of either in mixed steps.", unit="tokens", ge=0)
    kv_mean_frac: float = spec("Mean share of KV blocks in use.", unit="1", ge=0)
    kv_peak_frac: float = spec("Highest share of KV blocks in use.", unit="1", ge=0)
    kv_curve_frac: tuple[float, ...] = spec("KV occupancy at the samples.", unit="1")
    active_frac: float = spec(
        "Share of time in which a pipeline stage works.", unit="1", ge=0
    )
    bubble_frac: float = spec(
        "Share of the stages' time that is idle while another stage works.",
        unit="1",
        ge=0,
    )
    stages: tuple[StageStats, ...] = spec(
        "Each pipeline stage; the shares above are their means.", default=()
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulationResult:
    """Times of every request (arrays of shape ``(num_requests,)``, ms, NaN: never).

    Every request is accounted for: `num_arrived == num_done + num_rejected +
    num_unfinished`.
    """

    arrival_ms: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    prefill_start_ms: FloatArray
    first_token_ms: FloatArray
    transfer_start_ms: FloatArray
    decode_ready_ms: FloatArray
    finish_ms: FloatArray
    prefill_replica: IntArray
    decode_replica: IntArray
    is_done: BoolArray
    is_rejected: BoolArray
    num_preemptions: int = spec("Preemptions.", unit="1")
    num_recomputed: int = spec(
        "Requests lost with a replica and prefilled again, each time.",
        unit="1",
        default=0,
    )
    num_recomputed_tokens: int = spec(
        "Tokens prefilled again: of prompts, and those their users had.",
        unit="tokens",
        default=0,
    )
    num_rerouted: int = spec(
        "Requests that waited on a replica that failed, each time.", unit="1", default=0
    )
    num_events: int = spec("Events of the simulation.", unit="1")
    end_ms: float = spec("When it ended.", unit="ms")
    sample_ms: float = spec("Time between samples of the KV occupancy.", unit="ms")
    replicas: tuple[ReplicaStats, ...]
    is_complete: bool
    token_gaps: GapHistogram | None = None
    """Gaps between tokens, when `is_itl_counted`."""
    hit_blocks: IntArray | None = None
    """Leading blocks of each prompt that were cached when it was first computed."""
    hit_tokens: IntArray | None = None
    """Prompt tokens that were not computed for that, at most all but one."""
    timeline: Timeline | None = None
    """What the stages did when, with `max_spans` > 0."""

    @property
    def num_arrived(self) -> int:
        """Requests given to the simulation."""
        return len(self.arrival_ms)

    @property
    def num_done(self) -> int:
        """Requests that got all their tokens."""
        return int(self.is_done.sum())

    @property
    def num_rejected(self) -> int:
        """Requests refused: they can never fit the KV cache, or by early rejection."""
        return int(self.is_rejected.sum())

    @property
    def num_unfinished(self) -> int:
        """Requests queued or running when the simulation was stopped early."""
        return self.num_arrived - self.num_done - self.num_rejected

    @property
    def ttft_ms(self) -> FloatArray:
        """Time to the first token."""
        return self.first_token_ms - self.arrival_ms

    @property
    def tpot_ms(self) -> FloatArray:
        """Mean gap between output tokens, (last - first) / (n - 1); NaN for n = 1."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        return (self.finish_ms - self.first_token_ms) / gaps

    @property
    def e2e_ms(self) -> FloatArray:
        """Time from arrival to the last token."""
        return self.finish_ms - self.arrival_ms

    @property
    def queue_ms(self) -> FloatArray:
        """Wait for the first prefill step."""
        return self.prefill_start_ms - self.arrival_ms

    @property
    def transfer_ms(self) -> FloatArray:
        """From the first token to the KV cache being on the decode replica."""
        return self.decode_ready_ms - self.first_token_ms

    def metric_ms(self, metric: str) -> FloatArray:
        """`ttft`, `tpot` or `e2e` of every request, in ms."""
        if metric not in METRICS:
            raise InputError("metric", metric, f"one of {', '.join(METRICS)}")
        values: FloatArray = getattr(self, f"{metric}_ms")
        return values

    def percentile_ms(self, metric: str, percent: float) -> float:
        """Percentile of a metric over the requests that have it, in ms (NaN: none)."""
        values = self.metric_ms(metric)
        values = values[np.isfinite(values)]
        return float(np.percentile(values, percent)) if len(values) else float("nan")

    def meets(self, limits_ms: Mapping[str, float]) -> BoolArray:
        """Which requests ended within every limit (metric: ms); a rejected one did not.

        A request without a metric (TPOT of one token) meets its limit.
        """
        good = self.is_done.copy()
        for metric, limit_ms in limits_ms.items():
            values = self.metric_ms(metric)
            good &= (values <= limit_ms) | (self.is_done & np.isnan(values))
        return good

    def served_rps(self) -> float:
        """Requests finished per second of simulated time."""
        return self.num_done * MS_PER_S / max(self.end_ms, 1e-9)

    def prefix_hit_frac(self) -> float | None:
        """Share of the prompt tokens found in prefix caches; None without any."""
        if self.hit_tokens is None:
            return None
        return float(self.hit_tokens.sum() / self.input_tokens.sum())

    def arrival_rps(self) -> float:
        """Mean arrival rate in requests per second (0 when all arrive at once)."""
        arrived = self.arrival_ms[np.isfinite(self.arrival_ms)]
        span_ms = float(np.ptp(arrived))
        return (len(arrived) - 1) * MS_PER_S / span_ms if span_ms > 0 else 0.0

    def output_tokens_per_s(self) -> float:
        """Output tokens of finished requests per second of simulated time."""
        tokens = float(self.output_tokens[self.is_done].sum())
        return tokens * MS_PER_S / max(self.end_ms, 1e-9)

    def transfer_percentile_ms(self, percent: float) -> float | None:
        """Percentile of the KV transfer time, waiting included; None without any."""
        values = self.transfer_ms[np.isfinite(self.transfer_ms)]
        return float(np.percentile(values, percent)) if len(values) else None

    def after(self, warmup_ms: float) -> "SimulationResult":
        """Only the requests that arrived at `warmup_ms` or later."""
        kept = self.arrival_ms >= warmup_ms
        if not kept.any():
            raise InputError("warmup_ms", warmup_ms, f"at most {self.arrival_ms[-1]:g}")
        arrays = {
            name: getattr(self, name)[kept]
            for name in self.__dataclass_fields__
            if isinstance(getattr(self, name), np.ndarray)
        }
        rest = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in arrays
        }
        return SimulationResult(**arrays, **rest)
