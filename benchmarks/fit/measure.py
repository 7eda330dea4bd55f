"""From table rows to fitted operators, one function an operator kind."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from clusters.links import LinkKind
from models.latency.fit import Rows, fit_surface, made_monotone
from models.latency.fit_file import Evidence, FittedOperator
from models.latency.operators.attention import AttentionModel, HeadFormat
from models.latency.operators.collective import AllReduceModel, ideal_all_reduce_ms
from models.latency.operators.gemm import GemmModel, Peaks, ideal_gemm_ms
from models.latency.operators.moe import ExpertShape, MoeModel
from models.latency.operators.surface import Axis, FloatArray, Surface

MESSAGE_BYTES_PER_ELEMENT = 2
"""The package counts all-reduce messages in bf16 elements."""
ROUTING = "power_law_1.2"
"""The routing skew the package's engine assumes for most models."""
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
_DECODE_GROUPS = (1, 4, 8, 16, 32, 48)
_MESSAGES = tuple(2.0**power for power in range(8, 31, 2))
_GPUS = (2, 4, 8, 16)
_MOE_AXES = ("tokens_per_expert", "ep", "width", "num_experts", "hidden")
_PER_EXPERT = (0.02, 0.1, 0.3, 1, 3, 10, 40, 200, 4000)
_SPREAD = (1, 2, 4, 8, 64)
_EXPERT_WIDTHS = (128, 512, 2048, 8192)
_EXPERTS = (8, 16, 64, 256)
_HIDDEN = (2048, 6144)
_UNGATED_TOP_K, _UNGATED_HIDDEN = (22,), (2688,)
"""Nemotron-H models: their experts have two matrices, and no column says so."""
_FEWEST_ROWS = 300
_HOST_BOUND_FACTOR = 8.0
_HEAD_DIMS = (64, 128, 256)
_LATENT_HEADS = (1, 8, 16, 64, 128)
LATENT_CACHED_DIM, LATENT_DECODE_DIM, LATENT_PREFILL_DIM = 576, 1088, 320
"""DeepSeek-V3: the latent and its positions; plus the values; query-key and value."""

STORED_BYTES = {
    "bfloat16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int8_wo": 1.0,
    "sq": 1.0,
    "int4_wo": 0.52,
    "nvfp4": 0.5625,
    "w4a16_mxfp4": 0.53125,
    "w4a8_mxfp4_mxfp8": 0.53125,
}
"""Bytes of a weight with its scales, by the package's name of the number format."""
Fitted = Iterator[tuple[str, FittedOperator]]
PeaksOf = Callable[[str], Peaks | None]


def fit_gemms(table: pd.DataFrame, peaks: PeaksOf, rng: np.random.Generator) -> Fitted:
    """One model a number format."""
    for dtype, rows in table.groupby("gemm_dtype"):
        peak = peaks(str(dtype))
        if dtype not in STORED_BYTES or peak is None:
            continue
        used = rows.groupby(["m", "n", "k"], as_index=False).latency.median()
        used = used[(used.n >= _WIDTHS[0]) & (used.k >= _DEPTHS[0])]
        if len(used) < _FEWEST_ROWS:
            continue
        floor = _floor(used.latency)

        def ideal(
            m: FloatArray,
            n: FloatArray,
            k: FloatArray,
            stored: float = STORED_BYTES[str(dtype)],
            peak: Peaks = peak,
            floor: float = floor,
        ) -> FloatArray:
            return ideal_gemm_ms(m, n, k, stored, peak, floor)

        m, n, k = (_floats(used[column]) for column in "mnk")
        axes = (
            _axis("tokens", _TOKENS, m),
            _axis("n", _WIDTHS, n),
            _axis("k", _DEPTHS, k),
        )
        surface, evidence = _fit(
            (m, n, k), axes, used.latency, _groups(n, k), ideal, rng, along=(0, 1, 2)
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
        floor = _floor(rows.latency)
        heads = HeadFormat(
            head_dim=dim, kv_bytes=STORED_BYTES[kv], peaks=peaks, floor_ms=floor
        )
        kv_heads, num = _kv_heads(rows), _floats(rows.num_heads)
        group, batch = num / kv_heads, _floats(rows.batch_size)
        if kind == "prefill":
            tokens = _floats(rows.isl)
            points, ideal = (tokens, batch * num, group), heads.prefill_ms
            if (rows.step > 0).any():  # chunks: the ideal knows the past tokens
                ideal = partial(heads.prefill_ms, past=_floats(rows.step))
            axes = (
                _axis("tokens", _PROMPT, tokens),
                _axis("streams", _STREAMS, batch * num),
                _axis("group", _GROUPS, group),
            )
        else:
            context = _floats(rows.step) + 1.0
            points, ideal = (batch, context, kv_heads, group), heads.decode_ms
            axes = (
                _axis("requests", _REQUESTS, batch),
                _axis("context", _CONTEXT, context),
                _axis("kv_heads", _KV_HEADS, kv_heads),
                _axis("group", _DECODE_GROUPS, group),
            )
        surface, evidence = _fit(
            points, axes, rows.latency, _groups(num, kv_heads), ideal, rng, along=(0, 1)
        )
        model = AttentionModel(floor_ms=floor, surface=surface)
        yield f"{kv}/{dim}", FittedOperator(model=model, evidence=evidence)


def fit_latent_attention(
    table: pd.DataFrame,
    kind: str,
    peaks: Peaks,
    rng: np.random.Generator,
    *,
    borrowed_from: str,
) -> Fitted:
    """One model a KV format of the kernel of DeepSeek-V3's latent attention."""
    for kv, rows in table.groupby("kv_cache_dtype"):
        floor = _floor(rows.latency)
        heads = HeadFormat(
            head_dim=LATENT_CACHED_DIM / 2.0
            if kind == "decode"
            else LATENT_PREFILL_DIM / 2.0,
            kv_bytes=STORED_BYTES[str(kv)],
            peaks=peaks,
            floor_ms=floor,
            decode_flops_factor=LATENT_DECODE_DIM / LATENT_CACHED_DIM,
        )
        num, batch = _floats(rows.num_heads), _floats(rows.batch_size)
        ones = np.ones_like(num)
        if kind == "prefill":
            tokens = _floats(rows.isl)
            points, ideal = (tokens, batch * num, ones), heads.prefill_ms
            axes = (
                _axis("tokens", _PROMPT, tokens),
                _axis("streams", _STREAMS, batch * num),
                _axis("group", (1,), ones),
            )
        else:
            context = _floats(rows.step) + 1.0
            points, ideal = (batch, context, ones, num), heads.decode_ms
            axes = (
                _axis("requests", _REQUESTS, batch),
                _axis("context", _CONTEXT, context),
                _axis("kv_heads", (1,), ones),
                _axis("group", _LATENT_HEADS, num),
            )
        surface, evidence = _fit(
            points, axes, rows.latency, _groups(num, batch), ideal, rng, along=(0, 1)
        )
        yield (
            str(kv),
            FittedOperator(
                model=AttentionModel(floor_ms=floor, surface=surface),
                evidence=replace(evidence, borrowed_from=borrowed_from),
            ),
        )


def fit_moe(table: pd.DataFrame, peaks: PeaksOf, rng: np.random.Generator) -> Fitted:
    """One model a number format, at the routing skew `ROUTING`."""
    for dtype, rows in table.groupby("moe_dtype"):
        peak = peaks(str(dtype))
        routed = rows[rows.distribution == ROUTING]
        if dtype not in STORED_BYTES or peak is None or len(routed) < _FEWEST_ROWS:
            continue
        used = _gated(routed)
        stored, floor = STORED_BYTES[str(dtype)], _floor(used.latency)
        shape, tokens = _experts(used, stored), _floats(used.num_tokens)
        points = shape.coordinates(tokens)
        knots = (_PER_EXPERT, _SPREAD, _EXPERT_WIDTHS, _EXPERTS, _HIDDEN)
        surface, evidence = fit_surface(
            Rows(
                coordinates=points,
                ideal_ms=shape.ideal_ms(tokens, peak, floor),
                measured_ms=_floats(used.latency),
                groups=_groups(*points[1:]),
            ),
            tuple(
                _axis(name, values, seen)
                for name, values, seen in zip(_MOE_AXES, knots, points, strict=True)
            ),
            rng,
        )
        dropped = len(routed) - len(used)
        reason = "experts with two matrices" if dropped else ""
        evidence = replace(evidence, rows_discarded=dropped, discard_reason=reason)
        yield (
            str(dtype),
            FittedOperator(
                model=MoeModel(floor_ms=floor, surface=surface), evidence=evidence
            ),
        )


def _gated(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose experts have three matrices."""
    ungated = rows.kernel_source.str.contains("nongated|min_latency")
    ungated |= rows.topk.isin(_UNGATED_TOP_K) | rows.hidden_size.isin(_UNGATED_HIDDEN)
    return rows[~ungated]


def _experts(rows: pd.DataFrame, stored: float) -> ExpertShape:
    experts = _floats(rows.num_experts)
    return ExpertShape(
        hidden=_floats(rows.hidden_size),
        intermediate=_floats(rows.inter_size) / _floats(rows.moe_tp_size),
        num_matrices=3,
        num_experts=experts,
        experts_here=experts / _floats(rows.moe_ep_size),
        experts_per_token=_floats(rows.topk),
        bytes_per_weight=stored,
    )


def fit_all_reduce(
    table: pd.DataFrame,
    *,
    fabric: str,
    kind: LinkKind,
    link_bytes_per_s: float,
    rng: np.random.Generator,
) -> Fitted:
    """One model of the node's fabric; the kernels captured in CUDA graphs."""
    eager = table.kernel_source.str.contains("eager")
    used = table if eager.all() else table[~eager]
    num_bytes = MESSAGE_BYTES_PER_ELEMENT * _floats(used.message_size)
    num_gpus = _floats(used.num_gpus)
    alpha = _floor(used.latency)

    def ideal(num_bytes: FloatArray, num_gpus: FloatArray) -> FloatArray:
        return ideal_all_reduce_ms(num_bytes, num_gpus, link_bytes_per_s, alpha)

    axes = (_axis("bytes", _MESSAGES, num_bytes), _axis("num_gpus", _GPUS, num_gpus))
    points = (num_bytes, num_gpus)
    surface, evidence = _fit(
        points, axes, used.latency, _groups(*points), ideal, rng, along=(0,)
    )
    model = AllReduceModel(
        fabric=fabric,
        kind=kind,
        link_bytes_per_s=link_bytes_per_s,
        alpha_ms=alpha,
        surface=surface,
    )
    yield fabric, FittedOperator(model=model, evidence=evidence)


def _fit(
    points: tuple[FloatArray, ...],
    axes: tuple[Axis, ...],
    latency: pd.Series,
    groups: np.ndarray,
    ideal: Callable[..., FloatArray],
    rng: np.random.Generator,
    *,
    along: tuple[int, ...],
) -> tuple[Surface, Evidence]:
    """Fit, then make the time at the knots rise along the axes numbered `along`."""
    rows = Rows(
        coordinates=points,
        ideal_ms=ideal(*points),
        measured_ms=_floats(latency),
        groups=groups,
    )
    surface, evidence = fit_surface(rows, axes, rng)
    knots = np.meshgrid(*(np.asarray(axis.knots) for axis in axes), indexing="ij")
    at_knots = ideal.func if isinstance(ideal, partial) else ideal
    return made_monotone(surface, at_knots(*knots), along), evidence


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


def _axis(name: str, knots: tuple[float, ...], seen: FloatArray) -> Axis:
    """The knots within the data; a tile edge only where the data has its far side."""
    present = set(np.unique(seen).tolist())
    low, high = seen.min(), seen.max()
    kept = [
        float(knot)
        for knot in knots
        if low <= knot <= high
        and (knot - 1 not in knots or knot in present or knot < 16)
    ]
    return Axis(name=name, knots=tuple(kept or [float(np.median(seen))]))


def _floor(latency: pd.Series) -> float:
    """Nine tenths of the second percentile: below nearly every row."""
    return round(0.9 * float(latency.quantile(0.02)), 6)


def _kv_heads(rows: pd.DataFrame) -> FloatArray:
    kv = _floats(rows.num_key_value_heads)
    return np.where(kv == 0, _floats(rows.num_heads), kv)


def _groups(*columns: FloatArray) -> np.ndarray:
    keys = pd.MultiIndex.from_arrays(list(columns))
    return pd.factorize(keys)[0].astype(np.int64)


def _floats(column: pd.Series) -> FloatArray:
    return column.to_numpy(dtype=np.float64)
