"""Validation: what the simulator predicts beside what a real engine did.

Both see the same requests: the same arrivals, lengths and order, so that every
difference is one of latency or of policy, and none of luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from models.latency.step_table import StepTable
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import BatchLimits, Phase, ServingReplica, ServingSystem
from planner.slo import Slo
from planner.workload.lengths import EmpiricalLengths, LengthDistribution
from planner.workload.presets import named_lengths
from planner.workload.requests import Requests
from planner.workload.trace_source import TraceSource
from planner.workload.workload import Workload

FloatArray = NDArray[np.float64]

PERCENTS = (50, 90, 99)
_CAPACITY_REQUESTS = 400
_BLOCK_TOKENS = 16
_TRACE_SUFFIXES = (".csv", ".jsonl", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One number, predicted and measured."""

    name: str = spec("What it is, e.g. ttft p50.")
    unit: str = spec("Its unit.")
    predicted: float | None = spec("By the simulator.", unit="as named")
    measured: float | None = spec("On the device; None: never.", unit="as named")

    @property
    def error_frac(self) -> float | None:
        """Predicted over measured, less one; None where nothing was measured."""
        if not self.measured or self.predicted is None:
            return None
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationLevel:
    """One load of the engine."""

    policy: str = spec("How the engine formed its steps.", default="prefill_first")
    load_frac: float = spec("Share of the capacity.", unit="1", gt=0)
    rate_rps: float = spec("Arrival rate.", unit="requests/s", gt=0)
    num_requests: int = spec("Requests.", unit="requests", ge=1)
    is_complete: bool = spec("Whether the engine answered all in time.")
    compared: tuple[Compared, ...] = spec("Predicted and measured.")

    def __post_init__(self) -> None:
        check_fields(self)


class Measured(Protocol):
    """Requests as an engine served them; NaN: never, or one token only."""

    @property
    def ttft_ms(self) -> FloatArray:
        """Time to the first token, shape ``(num_requests,)``."""
        ...

    @property
    def tpot_ms(self) -> FloatArray:
        """Mean gap between output tokens, same shape."""
        ...


def engine_system(
    table: StepTable, limits: BatchLimits, *, kv_capacity_tokens: int
) -> ServingSystem:
    """One replica that prefills and decodes on one device."""
    replica = ServingReplica(
        phase=Phase.AGGREGATED,
        stages=(table,),
        limits=limits,
        kv_capacity_tokens=kv_capacity_tokens,
    )
    return ServingSystem(replicas=(replica,), kv_bytes_per_token=0.0)


def slots_system(
    table: StepTable, limits: BatchLimits, *, max_context_tokens: int
) -> ServingSystem:
    """The same for an engine whose requests own slots: none is ever short of room."""
    slots = limits.max_num_seqs * max_context_tokens
    # Twice the tokens, so that no block is missed.
    return engine_system(table, limits, kv_capacity_tokens=2 * slots + _BLOCK_TOKENS)


def clipped(requests: Requests, *, max_context_tokens: int) -> Requests:
    """The requests with prompts and answers cut to what a slot of the engine holds.

    A prompt keeps at most three quarters of the slot.
    """
    prompts = np.minimum(requests.input_tokens, 3 * max_context_tokens // 4)
    answers = np.minimum(requests.output_tokens, max_context_tokens - prompts)
    return Requests(
        arrival_ms=requests.arrival_ms, input_tokens=prompts, output_tokens=answers
    )


def lengths_of(text: str) -> LengthDistribution:
    """The preset of that name, INPUTxOUTPUT tokens, or the lengths in a trace file.

    Raises
    ------
    InputError
        When it is none of them.
    """
    if Path(text).suffix not in _TRACE_SUFFIXES:
        return named_lengths(text)
    source = TraceSource(path=text)
    return EmpiricalLengths.of(source.read(), source=source)


def draw_requests(
    lengths: str, num_requests: int, *, rate_rps: float, seed: int, max_context: int
) -> Requests:
    """Poisson requests with the lengths of a preset or trace, which fit the engine."""
    workload = Workload.poisson(rate_rps=rate_rps, lengths=lengths_of(lengths))
    drawn = workload.draw(num_requests, seed=seed)
    return clipped(drawn, max_context_tokens=max_context)


def capacity_rps(
    system: ServingSystem, lengths: str, *, seed: int, max_context: int
) -> float:
    """Requests a second that the simulator serves when the queue never empties."""
    drawn = draw_requests(
        lengths, _CAPACITY_REQUESTS, rate_rps=1.0, seed=seed, max_context=max_context
    )
    burst = Requests(
        arrival_ms=np.zeros(len(drawn)),
        input_tokens=drawn.input_tokens,
        output_tokens=drawn.output_tokens,
    )
    result = simulate(system, burst)
    # The tail, when the batch runs empty, is no steady state: the middle 80 % count.
    first, last = np.percentile(result.finish_ms, [10, 90])
    return float(0.8 * result.served_rps() * result.end_ms / (last - first))


def rough_capacity_rps(
    table: StepTable, limits: BatchLimits, requests: Requests
) -> float:
    """Capacity without simulating, to choose a load where the simulator does not run.

    Every request is alone in its prefill and in a full batch in its decodes.
    """
    batch = limits.max_num_seqs
    prompts, answers = requests.input_tokens, requests.output_tokens
    prefill_ms = np.mean([table.prefill_step_ms([int(n)]) for n in prompts])
    context = float(np.mean(prompts + answers / 2))
    step_ms = table.decode_step_ms(batch, batch * context)
    request_ms = prefill_ms + float(np.mean(answers - 1)) * step_ms / batch
    return MS_PER_S / float(request_ms)


def compare(
    predicted: SimulationResult,
    measured: Measured,
    *,
    slo: Slo,
    policy: str,
    load_frac: float,
    rate_rps: float,
) -> ValidationLevel:
    """Percentiles and goodput, predicted and measured.

    Parameters
    ----------
    predicted
        The simulation of the very requests that were served.
    measured
        What became of them.
    slo
        What a good request is.
    policy, load_frac, rate_rps
        How they were served, and the load.
    """
    values = {"ttft": measured.ttft_ms, "tpot": measured.tpot_ms}
    rows = [
        Compared(
            name=f"{metric} p{percent}",
            unit="ms",
            predicted=_percentile(predicted.metric_ms(metric), percent),
            measured=_percentile(values[metric], percent),
        )
        for metric in values
        for percent in PERCENTS
    ]
    limits = slo.only("ttft", "tpot")
    if limits is not None:
        good = predicted.meets(limits.limits_ms).mean()
        rows.append(
            Compared(
                name="goodput",
                unit="requests/s",
                predicted=float(good) * rate_rps,
                measured=_good_frac(values, limits) * rate_rps,
            )
        )
    return ValidationLevel(
        policy=policy,
        load_frac=load_frac,
        rate_rps=rate_rps,
        num_requests=len(measured.ttft_ms),
        is_complete=bool(np.isfinite(measured.ttft_ms).all()),
        compared=tuple(rows),
    )


def worst_error_frac(levels: Sequence[ValidationLevel], *names: str) -> float | None:
    """Largest absolute error of the named numbers over all levels."""
    errors = [
        abs(row.error_frac)
        for level in levels
        for row in level.compared
        if row.name in names and row.error_frac is not None
    ]
    return max(errors, default=None)


def _good_frac(measured: dict[str, FloatArray], slo: Slo) -> float:
    good = np.isfinite(measured["ttft"])
    for metric, limit in slo.limits_ms.items():
        values = measured[metric]
        good = good & ((values <= limit) | np.isnan(values))
    return float(good.mean())


def _percentile(values: FloatArray, percent: float) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, percent)) if len(finite) else None
