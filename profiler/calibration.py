"""Calibration: what the serving loop adds to the steps of the layers.

A few steps are run through the whole engine and held against the sum of their layers;
the rest is host work: building the batch, launching kernels, reading tokens back.
"""

import time
from collections.abc import Sequence

import numpy as np

from clusters.units import MS_PER_S
from models.latency.profile import HOST
from models.latency.step_table import StepTable
from models.profile_records import Environment, Status, StepPoint, StepRecord
from profiler.engine import Engine
from profiler.timing import spread_of

_REPEATS = 9
_WARMUP = 2
_FLOOR_MS = 1e-3
"""An overhead below this is noise; records hold positive times."""


def calibrate(
    engine: Engine, table: StepTable, environment: Environment, *, dtype: str
) -> tuple[StepRecord, ...]:
    """Records of the part ``host``: engine step less predicted step, by point."""
    limits = engine.limits
    prompts = [limits.max_context_tokens // 8, limits.max_context_tokens // 2]
    batches = [1, max(1, limits.max_num_seqs // 4), max(1, limits.max_num_seqs // 2)]
    context = limits.max_context_tokens // 4
    points = [StepPoint(new_tokens=(max(1, n),)) for n in prompts]
    points += [
        StepPoint(num_decodes=b, kv_tokens=float(b * context))
        for b in dict.fromkeys(batches)
    ]
    records = []
    for point in points:
        times = _times_ms(engine, point)
        predicted = (
            table.prefill_step_ms(point.new_tokens)
            if point.new_tokens
            else table.decode_step_ms(point.num_decodes, point.kv_tokens)
        )
        extra = np.maximum(np.array(times) - predicted, _FLOOR_MS)
        records.append(
            StepRecord(
                environment=environment,
                llm=engine.llm,
                tp=1,
                part=HOST,
                dtype=dtype,
                backend=engine.backend,
                point=point,
                status=Status.OK,
                step=spread_of(extra),
                note=f"engine step {float(np.median(times)):.4g} ms",
            )
        )
    return tuple(records)


def _times_ms(engine: Engine, point: StepPoint) -> Sequence[float]:
    slots = range(max(1, point.num_decodes))
    times = []
    for _ in range(_WARMUP + _REPEATS):
        began = time.perf_counter()
        if point.new_tokens:
            engine.prefill(slots, [[7] * point.new_tokens[0]])
        else:
            context = int(point.kv_tokens) // point.num_decodes
            engine.decode(slots, [context] * point.num_decodes, [7] * point.num_decodes)
        times.append((time.perf_counter() - began) * MS_PER_S)
    return times[_WARMUP:]
