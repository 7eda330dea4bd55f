"""Calibration: what the serving loop adds to the steps of the layers.

A few steps are run through the whole engine and held against the sum of their layers.
What is left is the host's work, which comes in two kinds: a fixed time of every step
(building the batch, reading tokens back), and the time to launch all kernels. The
device computes while the host launches, so a step that is not captured takes the longer
of the two: short prompts cost as much as the launches.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from models.latency.measured import with_floor, with_overhead
from models.latency.step_table import StepTable
from models.profile_records import StepPoint
from profiler.engine import Chunk, Decodes, EngineLimits
from profiler.grid import predicted_ms
from profiler.serving import ServingEngine

_REPEATS = 9
_WARMUP = 2
_TOKEN = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedPoint:
    """An engine step, and what its layers alone take."""

    point: StepPoint = spec("The step.")
    measured_ms: float = spec("Median through the engine.", unit="ms", gt=0)
    layers_ms: float = spec("Sum of the layers, from the profile.", unit="ms", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The host's share of an engine's steps."""

    prefill_ms: float = spec("Added to steps with prompts.", unit="ms", ge=0)
    floor_ms: float = spec("Least time of a step with prompts.", unit="ms", ge=0)
    decode_ms: float = spec("Added to steps of decodes.", unit="ms", ge=0)
    points: tuple[CalibratedPoint, ...] = spec("What was run.")

    def __post_init__(self) -> None:
        check_fields(self)

    def applied_to(self, table: StepTable) -> StepTable:
        """Step table of the engine, from that of its layers."""
        whole = with_overhead(
            table, prefill_ms=self.prefill_ms, decode_ms=self.decode_ms
        )
        return with_floor(whole, prefill_ms=self.floor_ms)


def calibrate(
    engine: ServingEngine,
    table: StepTable,
    *,
    max_point_s: float = 2.0,
    now_s: Callable[[], float] = time.perf_counter,
) -> Calibration:
    """Run a few steps through the engine and hold them against `table`.

    Parameters
    ----------
    engine
        A whole model on a device.
    table
        Step table of its layers and ends.
    max_point_s
        Longest time for one point; it gets one run at least.
    now_s
        The clock.
    """
    _warm_up(engine)
    points = [
        CalibratedPoint(
            point=point,
            measured_ms=_median_ms(engine, point, max_point_s, now_s),
            layers_ms=predicted_ms(table, point),
        )
        for point in _points(engine.limits)
    ]
    prompts = [p for p in points if p.point.phase == "prefill"]
    floor_ms = prompts[0].measured_ms
    # Where the layers take longer than the launches, the rest is fixed.
    busy = [p for p in prompts if p.layers_ms >= floor_ms] or prompts[-1:]
    return Calibration(
        prefill_ms=_extra_ms(busy),
        floor_ms=floor_ms,
        decode_ms=_extra_ms([p for p in points if p.point.phase == "decode"]),
        points=tuple(points),
    )


def _warm_up(engine: ServingEngine) -> None:
    """Run steps of one, two and three tokens: compilers make a kernel apart for each.

    A server would meet them in the middle of a trace.
    """
    for length in (1, 2, 3):
        engine.step([Chunk(0, 0, [_TOKEN] * length)], Decodes())
        engine.step([], Decodes([0], [length + 1], [_TOKEN]))
    if engine.limits.max_num_seqs > 1:
        engine.step([Chunk(1, 0, [_TOKEN])], Decodes([0], [2], [_TOKEN]))


def _extra_ms(points: Sequence[CalibratedPoint]) -> float:
    """Median of measured less layers, at least 0."""
    return max(0.0, float(np.median([p.measured_ms - p.layers_ms for p in points])))


def _points(limits: EngineLimits) -> list[StepPoint]:
    """Prompts short to long, decode batches at half a slot, chunks with decodes."""
    most, context = limits.max_context_tokens, limits.max_context_tokens // 2
    lengths = dict.fromkeys(max(1, most // n) for n in (256, 32, 8, 4, 2))
    batches = dict.fromkeys(max(1, limits.max_num_seqs // n) for n in (128, 16, 4, 2))
    points = [StepPoint(new_tokens=(length,)) for length in lengths]
    points += [
        StepPoint(num_decodes=batch, kv_tokens=float(batch * context))
        for batch in batches
    ]
    # The chunk needs a slot as well.
    riding = [batch for batch in batches if batch < limits.max_num_seqs]
    points += [
        StepPoint(
            new_tokens=(max(1, most // 8),),
            num_decodes=batch,
            kv_tokens=float(batch * context),
        )
        for batch in riding[-2:]
    ]
    return points


def _median_ms(
    engine: ServingEngine, point: StepPoint, max_s: float, now_s: Callable[[], float]
) -> float:
    batch = point.num_decodes
    context = int(point.kv_tokens) // batch if batch else 0
    decodes = Decodes(range(batch), [context] * batch, [_TOKEN] * batch)
    chunks = [
        Chunk(batch + index, 0, [_TOKEN] * length)
        for index, length in enumerate(point.new_tokens)
    ]
    times: list[float] = []
    started = now_s()
    for _ in range(_WARMUP + _REPEATS):
        began = now_s()
        engine.step(chunks, decodes)
        ended = now_s()
        times.append((ended - began) * MS_PER_S)
        if ended - started > max_s:
            break
    return float(np.median(times[_WARMUP:] or times))
