"""Latent attention from table rows: its kernels, the whole block, absorbed products.

The tables were measured on DeepSeek-V3 at every number of heads a GPU can hold.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from surfaces import (
    STORED_BYTES,
    Fitted,
    PeaksOf,
    axis_of,
    fit_rising,
    floats,
    floor_of,
    groups_of,
)

from models.flops import stage_shapes
from models.latency.fit_file import FittedOperator
from models.latency.operators.attention import AttentionModel, HeadFormat
from models.latency.operators.gemm import GemmModel, Peaks, ideal_gemm_ms
from models.latency.operators.latent import LATENT_PROJECTIONS, LatentModel, LatentShape
from models.latency.operators.surface import Axis, FloatArray
from models.llm import LlmSpec
from models.parallelism import Parallelism

CACHED_DIM, DECODE_DIM, PREFILL_DIM = 576, 1088, 320
"""DeepSeek-V3: the latent and its positions; plus the values; query-key and value."""
_LATENT, _NOPE = 512, 128
"""Width of the latent, and of a head's keys and values beside positions."""
_HEADS = (1, 8, 16, 64, 128)
_TOKENS = (1, 16, 32, 64, 128, 256, 512, 768, 1024, 2048, 4096, 8192, 20480)
_PROMPT = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_STREAMS = (1, 4, 16, 64, 256, 1024, 4096)
_REQUESTS = (1, 4, 16, 64, 256, 1024)
_CONTEXT = (64, 256, 1024, 4096, 16384, 65536)
_BLOCK_PROMPT = (16, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_BLOCK_PROMPTS = (1, 4, 16, 256)
_BLOCK_REQUESTS = (1, 4, 8, 16, 32, 64, 128, 256, 1024)
_BLOCK_CONTEXT = (16, 256, 1024, 4096, 16384, 65536)
_BLOCK_HEADS = (1, 8, 16, 32, 64, 128)


def fit_latent_attention(
    table: pd.DataFrame,
    kind: str,
    peaks: Peaks,
    rng: np.random.Generator,
    *,
    borrowed_from: str,
) -> Fitted:
    """One model a KV format of the kernel alone; `kind` is the phase."""
    for kv, rows in table.groupby("kv_cache_dtype"):
        floor = floor_of(rows.latency)
        prefill = kind == "prefill"
        heads = HeadFormat(
            head_dim=(PREFILL_DIM if prefill else CACHED_DIM) / 2.0,
            kv_bytes=STORED_BYTES[str(kv)],
            peaks=peaks,
            floor_ms=floor,
            decode_flops_factor=DECODE_DIM / CACHED_DIM,
        )
        num, batch = floats(rows.num_heads), floats(rows.batch_size)
        ones = np.ones_like(num)
        points: tuple[FloatArray, ...]
        axes: tuple[Axis, ...]
        if prefill:
            tokens = floats(rows.isl)
            points, ideal = (tokens, batch * num, ones), heads.prefill_ms
            axes = (
                axis_of("tokens", _PROMPT, tokens),
                axis_of("streams", _STREAMS, batch * num),
                axis_of("group", (1,), ones),
            )
        else:
            context = floats(rows.step) + 1.0
            points, ideal = (batch, context, ones, num), heads.decode_ms
            axes = (
                axis_of("requests", _REQUESTS, batch),
                axis_of("context", _CONTEXT, context),
                axis_of("kv_heads", (1,), ones),
                axis_of("group", _HEADS, num),
            )
        surface, evidence = fit_rising(
            points, axes, rows.latency, groups_of(num, batch), ideal, rng, along=(0, 1)
        )
        yield (
            str(kv),
            FittedOperator(
                model=AttentionModel(floor_ms=floor, surface=surface),
                evidence=replace(evidence, borrowed_from=borrowed_from),
            ),
        )


def fit_latent_blocks(
    table: pd.DataFrame, kind: str, peaks: PeaksOf, rng: np.random.Generator
) -> Fitted:
    """One model a number format and KV format of the whole block."""
    plain = table[(table.mla_dtype == "bfloat16") & (table.latency > 0)]
    deepseek = plain[plain.model == "deepseek-ai/DeepSeek-V3"]
    attention = peaks("bfloat16")
    assert attention is not None
    for (gemm, kv), rows in deepseek.groupby(["gemm_type", "kv_cache_dtype"]):
        peak = peaks(str(gemm))
        if gemm not in STORED_BYTES or peak is None:
            continue
        num, batch = floats(rows.num_heads), floats(rows.batch_size)
        floor = floor_of(rows.latency)

        def ideal(
            first: FloatArray,
            second: FloatArray,
            heads: FloatArray,
            gemm: str = str(gemm),
            kv: str = str(kv),
            peak: Peaks = peak,
            floor: float = floor,
        ) -> FloatArray:
            shape = latent_shape(heads, gemm, kv, peak)
            timed = shape.prefill_ms if kind == "prefill" else shape.decode_ms
            return timed(first, second, attention, floor)

        if kind == "prefill":
            points = (floats(rows.isl), batch, num)
            knots = (_BLOCK_PROMPT, _BLOCK_PROMPTS)
            names = ("tokens", "prompts")
        else:
            points = (batch, floats(rows.step) + 1.0, num)
            knots = (_BLOCK_REQUESTS, _BLOCK_CONTEXT)
            names = ("requests", "context")
        axes = (
            axis_of(names[0], knots[0], points[0]),
            axis_of(names[1], knots[1], points[1]),
            axis_of("heads", _BLOCK_HEADS, num),
        )
        surface, evidence = fit_rising(
            points, axes, rows.latency, groups_of(num, batch), ideal, rng, along=(0, 1)
        )
        model = LatentModel(floor_ms=floor, surface=surface)
        yield f"{gemm}/{kv}", FittedOperator(model=model, evidence=evidence)


def latent_shape(heads: FloatArray, gemm: str, kv: str, peak: Peaks) -> LatentShape:
    """DeepSeek-V3's block with `heads` query heads, all projections in one format."""
    table = {h: _projections(h) for h in np.unique(heads).tolist()}
    weights, elements = (
        np.vectorize(lambda h, place=place: table[h][place])(heads).astype(np.float64)
        for place in (0, 1)
    )
    return LatentShape(
        num_heads=heads,
        weight_bytes=STORED_BYTES[gemm] * weights,
        row_elements=elements,
        flops_s=2.0 * weights / peak.flops_per_s,
        prefill_dim=PREFILL_DIM,
        decode_dim=DECODE_DIM,
        cached_dim=CACHED_DIM,
        kv_bytes=STORED_BYTES[kv],
    )


@cache
def _projections(heads: float) -> tuple[float, float]:
    """Weights, and inputs and outputs a token, of the block with `heads` heads."""
    llm = LlmSpec.load("deepseek-v3")
    tp = round(llm.num_heads / heads)
    (stage,) = stage_shapes(llm, Parallelism(tp=tp))
    used = [g for g in stage.groups[0].gemms if g.name in LATENT_PROJECTIONS]
    return float(sum(g.k * g.n for g in used)), float(sum(g.k + g.n for g in used))


def fit_absorbed(
    table: pd.DataFrame, peaks: PeaksOf, rng: np.random.Generator
) -> Fitted:
    """One model a number format of the products that decode absorbs `kv_b` into.

    Queries enter the latent, outputs leave it: the same weights, of as many products
    as heads, which count as one product as wide as all of them.
    """
    for dtype, rows in table.groupby("bmm_dtype"):
        peak = peaks(str(dtype))
        if peak is None:
            continue
        tokens, num = floats(rows.num_tokens), floats(rows.num_heads)
        floor = floor_of(rows.latency)
        stored = STORED_BYTES[str(dtype)]

        def ideal(
            m: FloatArray,
            n: FloatArray,
            k: FloatArray,
            stored: float = stored,
            peak: Peaks = peak,
            floor: float = floor,
        ) -> FloatArray:
            return ideal_gemm_ms(m, n, k, stored, peak, floor)

        points = (tokens, num * _NOPE, np.full_like(num, _LATENT))
        axes = (
            axis_of("tokens", _TOKENS, tokens),
            axis_of("n", tuple(_NOPE * h for h in _HEADS), points[1]),
            axis_of("k", (_LATENT,), points[2]),
        )
        surface, evidence = fit_rising(
            points, axes, rows.latency, groups_of(num), ideal, rng, along=(0, 1)
        )
        model = GemmModel(floor_ms=floor, surface=surface)
        yield str(dtype), FittedOperator(model=model, evidence=evidence)
