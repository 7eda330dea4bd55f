"""Dense products and attention from table rows."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from surfaces import (
    FEWEST_ROWS,
    STORED_BYTES,
    Fitted,
    PeaksOf,
    axis_of,
    fit_rising,
    floats,
    floor_of,
    groups_of,
)

from models.latency.fit_file import FittedOperator
from models.latency.operators.attention import AttentionModel, HeadFormat, reach_of
from models.latency.operators.gemm import GemmModel, Peaks, ideal_gemm_ms
from models.latency.operators.surface import FloatArray

_TOKENS = (
    *(1, 8, 16, 17, 32, 33, 48, 64, 65, 96, 128, 129, 192, 256, 257, 384, 512, 513),
    *(768, 1024, 1025, 1536, 2048, 3072, 4096, 8192, 16384, 32768),
)
_WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
_DEPTHS = (128, 512, 1024, 2048, 4096, 8192, 16384, 65536)
_PROMPT = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_STREAMS = (1, 4, 16, 64, 256, 1024, 4096)
_CONTEXT = (64, 256, 1024, 4096, 16384, 65536)
_REQUESTS = (1, 4, 16, 64, 256, 1024)
_KV_HEADS = (1, 2, 4, 8, 32)
_GROUPS = (1, 4, 8, 16)
_REACH = (1, 1.5, 2, 4, 16, 64)
_DECODE_GROUPS = (1, 4, 8, 16, 32, 48)
_HOST_BOUND_FACTOR = 8.0
_HEAD_DIMS = (64, 128, 256)


def fit_gemms(table: pd.DataFrame, peaks: PeaksOf, rng: np.random.Generator) -> Fitted:
    """One model a number format."""
    for dtype, rows in table.groupby("gemm_dtype"):
        peak = peaks(str(dtype))
        if dtype not in STORED_BYTES or peak is None:
            continue
        used = rows.groupby(["m", "n", "k"], as_index=False).latency.median()
        used = used[(used.n >= _WIDTHS[0]) & (used.k >= _DEPTHS[0])]
        if len(used) < FEWEST_ROWS:
            continue
        floor = floor_of(used.latency)

        def ideal(
            m: FloatArray,
            n: FloatArray,
            k: FloatArray,
            stored: float = STORED_BYTES[str(dtype)],
            peak: Peaks = peak,
            floor: float = floor,
        ) -> FloatArray:
            return ideal_gemm_ms(m, n, k, stored, peak, floor)

        m, n, k = (floats(used[column]) for column in "mnk")
        axes = (
            axis_of("tokens", _TOKENS, m),
            axis_of("n", _WIDTHS, n),
            axis_of("k", _DEPTHS, k),
        )
        surface, evidence = fit_rising(
            (m, n, k), axes, used.latency, groups_of(n, k), ideal, rng, along=(0, 1, 2)
        )
        model = GemmModel(floor_ms=floor, surface=surface)
        yield str(dtype), FittedOperator(model=model, evidence=evidence)


def host_bound(gemms: dict[str, FittedOperator]) -> dict[str, str]:
    """Number formats whose shortest product is no kernel time, with the reason.

    A product of one token takes microseconds whatever the format; a floor many times
    that of bf16 is the host preparing the launch, which an engine hides.
    """
    floors = {key: operator.model.floor_ms for key, operator in gemms.items()}
    limit = _HOST_BOUND_FACTOR * floors["bfloat16"]
    return {
        key: f"shortest product {floor:.3f} ms, bf16 {floors['bfloat16']:.3f} ms: "
        "the host's launch was measured, not the kernel"
        for key, floor in floors.items()
        if floor > limit
    }


def fit_attention(
    table: pd.DataFrame, kind: str, peaks: Peaks, rng: np.random.Generator
) -> Fitted:
    """One model a head width and KV format, without windows; `kind` is the phase."""
    for kv, dim, rows in _attention_groups(table):
        floor = floor_of(rows.latency)
        heads = HeadFormat(
            head_dim=dim, kv_bytes=STORED_BYTES[kv], peaks=peaks, floor_ms=floor
        )
        kv_heads, num = _kv_heads(rows), floats(rows.num_heads)
        group, batch = num / kv_heads, floats(rows.batch_size)
        if kind == "prefill":
            tokens = floats(rows.isl)
            past = floats(rows.step)
            points, ideal = (tokens, batch * num, group), heads.prefill_ms
            axes = (
                axis_of("tokens", _PROMPT, tokens),
                axis_of("streams", _STREAMS, batch * num),
                axis_of("group", _GROUPS, group),
            )
            if past.any():
                points = (*points, reach_of(tokens, past))
                axes = (*axes, axis_of("reach", _REACH, points[3]))
                ideal = partial(_chunk_ms, heads)
        else:
            context = floats(rows.step) + 1.0
            points, ideal = (batch, context, kv_heads, group), heads.decode_ms
            axes = (
                axis_of("requests", _REQUESTS, batch),
                axis_of("context", _CONTEXT, context),
                axis_of("kv_heads", _KV_HEADS, kv_heads),
                axis_of("group", _DECODE_GROUPS, group),
            )
        surface, evidence = fit_rising(
            points,
            axes,
            rows.latency,
            _shapes(num, kv_heads, points),
            ideal,
            rng,
            along=(0, 1),
        )
        model = AttentionModel(floor_ms=floor, surface=surface)
        yield f"{kv}/{dim}", FittedOperator(model=model, evidence=evidence)


def _chunk_ms(
    heads: HeadFormat,
    tokens: FloatArray,
    streams: FloatArray,
    group: FloatArray,
    reach: FloatArray,
) -> FloatArray:
    """Ideal time of chunks whose last token attends to `reach` times their length."""
    return heads.prefill_ms(tokens, streams, group, past=tokens * (reach - 1.0))


def _attention_groups(
    table: pd.DataFrame,
) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Rows by KV format and head width, of the kernel with the most rows."""
    used = table[table.window_size == 0] if "window_size" in table else table
    if "attn_dtype" in used:
        used = used[used.attn_dtype == "bfloat16"]
    for (kv, dim), rows in used.groupby(["kv_cache_dtype", "head_dim"]):
        if kv not in STORED_BYTES or dim not in _HEAD_DIMS:
            continue
        kernel = rows.kernel_source.value_counts().index[0]
        yield str(kv), int(dim), rows[rows.kernel_source == kernel]


def _kv_heads(rows: pd.DataFrame) -> FloatArray:
    kv = floats(rows.num_key_value_heads)
    return np.where(kv == 0, floats(rows.num_heads), kv)


def _shapes(
    num_heads: FloatArray, kv_heads: FloatArray, points: tuple[FloatArray, ...]
) -> np.ndarray:
    """What is held out together: head counts, or sizes where those never vary."""
    heads = groups_of(num_heads, kv_heads)
    return heads if heads.any() else groups_of(*points)
