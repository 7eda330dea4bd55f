"""Kernel rates: what the kernels of a layer reach, to be held against the ceilings.

The products of a layer at a long prompt (FLOP/s), its weights in a decode of one
request and its attention in a large decode batch (bytes/s).
"""

from functools import partial
from pathlib import Path

from models.flops import stage_shapes
from models.parallelism import Parallelism
from profiler.environment import Device
from profiler.grid import GridLimits, decode_point
from profiler.layers.attention import KvCache, attention_for
from profiler.layers.batch import Sequences, build_batch
from profiler.layers.linear import Linear, random_tensor
from profiler.layers.settings import LayerSettings
from profiler.rates import RateWriter
from profiler.subject import Subject
from profiler.timing import Step, TimingSettings

_TOKENS = 4096
_REQUESTS = 128
_CONTEXT = 2048


def append_kernel_rates(
    device: Device,
    subject: Subject,
    path: str | Path,
    *,
    limits: GridLimits,
    timing: TimingSettings | None = None,
    gpu: str | None = None,
) -> tuple[str, ...]:
    """Measure the rates of a subject's kernels and append them to `path`.

    Returns a line for each that could not be measured.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    settings = LayerSettings.for_device(device.torch_device, subject.dtype)
    tokens = min(_TOKENS, limits.max_prompt_tokens)
    requests = min(_REQUESTS, limits.max_requests)
    point = decode_point(requests, min(_CONTEXT, limits.max_kv_tokens // requests))
    name = subject.describe()
    with RateWriter(device, path, timing=timing, gpu=gpu) as rates:
        rates.time(
            "layer_products",
            partial(_products, subject, settings, tokens),
            rate_unit="FLOP/s",
            size=f"{name}, {tokens} tokens",
            is_captured=True,
        )
        rates.time(
            "layer_weights",
            partial(_weights, subject, settings),
            rate_unit="bytes/s",
            size=f"{name}, 1 token",
            is_captured=True,
        )
        if subject.llm.mla is None:
            rates.time(
                "decode_attention",
                partial(_attention, subject, settings, Sequences.of_point(point)),
                rate_unit="bytes/s",
                size=f"{name}, {point.describe()}",
                is_captured=True,
            )
        return tuple(rates.problems)


def _products(
    subject: Subject, settings: LayerSettings, tokens: int
) -> tuple[float, Step]:
    """FLOP of the dense products of a layer, and the products."""
    (stage,) = stage_shapes(subject.llm, Parallelism(tp=subject.tp))
    plain = [gemm for gemm in stage.groups[0].gemms if gemm.num_experts == 1]
    flops = sum(gemm.flops(float(tokens)) for gemm in plain)
    return flops, _run_of(_matrices(subject, settings), settings, tokens)


def _weights(subject: Subject, settings: LayerSettings) -> tuple[float, Step]:
    """Bytes of these matrices, and their products with one token."""
    matrices = _matrices(subject, settings)
    moved = float(sum(matrix.weight_bytes for matrix, _ in matrices))
    return moved, _run_of(matrices, settings, 1)


def _matrices(subject: Subject, settings: LayerSettings) -> list[tuple[Linear, int]]:
    (stage,) = stage_shapes(subject.llm, Parallelism(tp=subject.tp))
    return [
        (settings.linear(gemm.k, gemm.n, gemm.weights), gemm.k)
        for gemm in stage.groups[0].gemms
        if gemm.num_experts == 1
    ]


def _run_of(
    matrices: list[tuple[Linear, int]], settings: LayerSettings, rows: int
) -> Step:
    inputs = [
        random_tensor(rows, width, device=settings.device, dtype=settings.dtype)
        for _, width in matrices
    ]
    pairs = [(matrix, x) for (matrix, _), x in zip(matrices, inputs, strict=True)]
    return lambda: [matrix(x) for matrix, x in pairs]


def _attention(
    subject: Subject, settings: LayerSettings, sequences: Sequences
) -> tuple[float, Step]:
    """Bytes of the keys and values of a decode batch, and its attention."""
    (stage,) = stage_shapes(subject.llm, Parallelism(tp=subject.tp))
    device, dtype = settings.device, settings.dtype
    heads, dim = stage.groups[0].attention.num_heads, subject.llm.head_dim
    kv_heads = max(1, -(-subject.llm.num_kv_heads // subject.tp))
    batch = build_batch(sequences, device)
    cache = KvCache.allocate(
        sequences.num_rows, kv_heads, dim, device=device, dtype=dtype
    )
    queries = random_tensor(
        batch.num_requests, heads, dim, device=device, dtype=dtype, scale=1.0
    )
    _, attend = attention_for(
        device, dtype, num_heads=heads, num_kv_heads=kv_heads, head_dim=dim
    )
    moved = 2.0 * cache.keys.numel() * cache.keys.element_size()
    return moved, lambda: attend(queries, cache, batch, None)
