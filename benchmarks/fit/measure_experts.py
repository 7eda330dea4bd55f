"""Routed experts from table rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
from surfaces import (
    FEWEST_ROWS,
    STORED_BYTES,
    Fitted,
    PeaksOf,
    axis_of,
    floats,
    floor_of,
    groups_of,
)

from models.latency.fit import Rows, fit_surface
from models.latency.fit_file import FittedOperator
from models.latency.operators.moe import ExpertShape, MoeModel

MIN_LATENCY = "moe_torch_flow_min_latency"
ROUTING = "power_law_1.2"
"""The routing skew the package's engine assumes for most models."""
_MOE_AXES = ("tokens_per_expert", "experts_here", "width", "num_experts", "hidden")
_PER_EXPERT = (0.02, 0.1, 0.3, 1, 3, 10, 32, 128, 600, 4000)
_HERE = (1, 4, 16, 64, 256)
_NARROWEST = 88
"""Shards below this are left out: tiles of 64 columns and more stay half empty."""
_EXPERT_WIDTHS = (96, 192, 512, 2048, 8192)
_EXPERTS = (8, 32, 128, 256, 384, 512)
_UNGATED_TOP_K, _UNGATED_HIDDEN = (22,), (2688,)
"""Nemotron-H models: their experts have two matrices, and no column says so."""


def fit_moe(
    table: pd.DataFrame,
    peaks: PeaksOf,
    rng: np.random.Generator,
    *,
    lent: pd.DataFrame | None = None,
    lender: str = "",
) -> Fitted:
    """One model a number format, at the routing skew `ROUTING`.

    `lent` are rows of kernels that the engine has here too, but that were measured on
    the system `lender` only.
    """
    if lent is not None:
        table = pd.concat([table, lent])
    for dtype, rows in table.groupby("moe_dtype"):
        peak = peaks(str(dtype))
        routed = rows[rows.distribution == ROUTING]
        if dtype not in STORED_BYTES or peak is None or len(routed) < FEWEST_ROWS:
            continue
        used = _gated(routed)
        stored, floor = STORED_BYTES[str(dtype)], floor_of(used.latency)
        shape, tokens = _experts(used, stored), floats(used.num_tokens)
        points = shape.coordinates(tokens)
        hidden = (float(points[4].min()), float(points[4].max()))
        knots = (_PER_EXPERT, _HERE, _EXPERT_WIDTHS, _EXPERTS, hidden)
        surface, evidence = fit_surface(
            Rows(
                coordinates=points,
                ideal_ms=shape.ideal_ms(tokens, peak, floor),
                measured_ms=floats(used.latency),
                groups=groups_of(*points[1:]),
            ),
            tuple(
                axis_of(name, values, seen)
                for name, values, seen in zip(_MOE_AXES, knots, points, strict=True)
            ),
            rng,
        )
        dropped = len(routed) - len(used)
        reason = "other or narrow experts, the slower of two kernels" if dropped else ""
        borrows = lent is not None and (lent.moe_dtype == dtype).any()
        evidence = replace(
            evidence,
            rows_discarded=dropped,
            discard_reason=reason,
            borrowed_from=lender if borrows else "",
        )
        yield (
            str(dtype),
            FittedOperator(
                model=MoeModel(floor_ms=floor, surface=surface), evidence=evidence
            ),
        )


def lent_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the kernel of TensorRT-LLM that few systems were measured with."""
    return table[table.kernel_source == MIN_LATENCY]


def _gated(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose experts have three matrices, wide enough, with the usual activation.

    Where an engine has two kernels for a shape, the faster one: which one runs is a
    setting, and those who publish measurements set it.
    """
    ungated = rows.kernel_source.str.contains("nongated|situ")
    ungated |= rows.topk.isin(_UNGATED_TOP_K) | rows.hidden_size.isin(_UNGATED_HIDDEN)
    ungated |= rows.inter_size < _NARROWEST * rows.moe_tp_size
    shape = [*("num_tokens", "hidden_size", "inter_size", "topk", "num_experts")]
    shape += ["moe_tp_size", "moe_ep_size"]
    by_kernel = rows[~ungated].groupby([*shape, "kernel_source"], as_index=False)
    return by_kernel.latency.median().groupby(shape, as_index=False).latency.min()


def _experts(rows: pd.DataFrame, stored: float) -> ExpertShape:
    experts = floats(rows.num_experts)
    return ExpertShape(
        hidden=floats(rows.hidden_size),
        intermediate=floats(rows.inter_size) / floats(rows.moe_tp_size),
        num_matrices=3,
        num_experts=experts,
        experts_here=experts / floats(rows.moe_ep_size),
        experts_per_token=floats(rows.topk),
        bytes_per_weight=stored,
    )
