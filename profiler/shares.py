"""Shares: what the kernels of a layer reach, to be held against the ceilings.

The products of a layer at a long prompt (FLOP/s), its weights in a decode of one
request and its attention in a large decode batch (bytes/s).
"""

from collections.abc import Callable
from pathlib import Path

import torch

from clusters.units import MS_PER_S
from models.flops import stage_shapes
from models.parallelism import Parallelism
from models.profile_records import RateRecord
from models.profile_table import RecordWriter
from profiler.cuda_clock import CudaClock
from profiler.environment import Device, conditions_of, environment_of
from profiler.grid import GridLimits, decode_point
from profiler.layers.attention import KvCache, attention_for
from profiler.layers.batch import Sequences, build_batch
from profiler.layers.linear import Linear, make_linear, random_tensor
from profiler.layers.settings import LayerSettings
from profiler.steps import capture
from profiler.subject import Subject
from profiler.timing import CpuClock, DeviceClock, TimingSettings, measure

_TOKENS = 4096
_REQUESTS = 128
_CONTEXT = 2048

Timed = Callable[[str, float, str, str, Callable[[], object]], None]
"""Times a step and keeps its rate: (name, amount, unit, size, step)."""


def append_shares(
    device: Device,
    subject: Subject,
    path: str | Path,
    *,
    limits: GridLimits,
    timing: TimingSettings | None = None,
    gpu: str | None = None,
) -> None:
    """Measure the rates of a subject's kernels and append them to `path`."""
    settings = LayerSettings.for_device(device.torch_device, subject.dtype)
    clock: DeviceClock = CpuClock()
    if device.is_cuda:
        clock = CudaClock(device.torch_device)
    environment = environment_of(device, gpu=gpu)
    with RecordWriter(path) as writer:

        def timed(
            name: str, amount: float, unit: str, size: str, step: Callable[[], object]
        ) -> None:
            def plain() -> object:
                with torch.inference_mode():
                    return step()

            ready = capture(plain) if device.is_cuda else plain
            found = measure(ready, clock, timing)
            writer.append(
                RateRecord(
                    environment=environment,
                    name=name,
                    per_s=amount / found.spread.ms * MS_PER_S,
                    rate_unit=unit,
                    size=f"{subject.describe()}, {size}",
                    spread=found.spread,
                    conditions=conditions_of(device),
                )
            )

        _products(subject, settings, min(_TOKENS, limits.max_prompt_tokens), timed)
        if subject.llm.mla is None:
            _attention(subject, settings, limits, timed)


def _products(
    subject: Subject, settings: LayerSettings, tokens: int, timed: Timed
) -> None:
    (stage,) = stage_shapes(subject.llm, Parallelism(tp=subject.tp))
    plain = [gemm for gemm in stage.groups[0].gemms if gemm.num_experts == 1]
    matrices: list[Linear] = [
        make_linear(
            gemm.k,
            gemm.n,
            device=settings.device,
            dtype=settings.dtype,
            is_fp8=settings.is_fp8(gemm.weights),
        )
        for gemm in plain
    ]

    def products_of(rows: int) -> Callable[[], object]:
        inputs = [
            random_tensor(rows, gemm.k, device=settings.device, dtype=settings.dtype)
            for gemm in plain
        ]
        pairs = list(zip(matrices, inputs, strict=True))
        return lambda: [matrix(x) for matrix, x in pairs]

    flops = sum(gemm.flops(float(tokens)) for gemm in plain)
    moved = float(sum(matrix.weight_bytes for matrix in matrices))
    size = f"{tokens} tokens"
    timed("layer_products", flops, "FLOP/s", size, products_of(tokens))
    timed("layer_weights", moved, "bytes/s", "1 token", products_of(1))


def _attention(
    subject: Subject, settings: LayerSettings, limits: GridLimits, timed: Timed
) -> None:
    (stage,) = stage_shapes(subject.llm, Parallelism(tp=subject.tp))
    shape = stage.groups[0].attention
    heads, dim = shape.num_heads, subject.llm.head_dim
    kv_heads = max(1, -(-subject.llm.num_kv_heads // subject.tp))
    requests = min(_REQUESTS, limits.max_requests)
    context = min(_CONTEXT, limits.max_kv_tokens // requests)
    point = decode_point(requests, context)
    batch = build_batch(Sequences.of_point(point), settings.device)
    cache = KvCache.allocate(
        requests * context,
        kv_heads,
        dim,
        device=settings.device,
        dtype=settings.dtype,
    )
    queries = random_tensor(
        requests, heads, dim, device=settings.device, dtype=settings.dtype, scale=1.0
    )
    _, attend = attention_for(
        settings.device,
        settings.dtype,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
    )
    moved = 2.0 * cache.keys.numel() * cache.keys.element_size()
    size = point.describe()
    timed(
        "decode_attention",
        moved,
        "bytes/s",
        size,
        lambda: attend(queries, cache, batch, None),
    )
