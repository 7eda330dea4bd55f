"""Collectives from table rows, one model a fabric and operation."""

import numpy as np
import pandas as pd
from surfaces import Fitted, axis_of, fit_rising, floats, floor_of, groups_of

from clusters.links import LinkKind
from models.latency.fit_file import FittedOperator
from models.latency.operators.collective import (
    Collective,
    CollectiveModel,
    ideal_collective_ms,
)
from models.latency.operators.surface import FloatArray

BYTES_PER_ELEMENT = 2
"""The package counts messages in bf16 elements."""
NCCL_NAMES = {
    Collective.ALL_GATHER: "all_gather",
    Collective.REDUCE_SCATTER: "reduce_scatter",
    Collective.ALL_TO_ALL: "alltoall",
}
MESSAGES = tuple(2.0**power for power in range(8, 31, 2))
_GPUS = (2, 4, 8, 16, 32, 64)


def fit_collective(
    table: pd.DataFrame,
    op: Collective,
    *,
    fabric: str,
    link: tuple[LinkKind, float],
    rng: np.random.Generator,
    messages: tuple[float, ...] = MESSAGES,
) -> Fitted:
    """One model of the fabric from columns num_bytes, num_gpus and latency.

    `link` is the slowest link's kind and rate in bytes/s, `messages` the knots.
    """
    kind, bytes_per_s = link
    num_bytes, num_gpus = floats(table.num_bytes), floats(table.num_gpus)
    alpha = floor_of(table.latency)

    def ideal(num_bytes: FloatArray, num_gpus: FloatArray) -> FloatArray:
        return ideal_collective_ms(op, num_bytes, num_gpus, bytes_per_s, alpha)

    axes = (
        axis_of("bytes", messages, num_bytes),
        axis_of("num_gpus", _GPUS, num_gpus),
    )
    points = (num_bytes, num_gpus)
    surface, evidence = fit_rising(
        points, axes, table.latency, groups_of(*points), ideal, rng, along=(0,)
    )
    model = CollectiveModel(
        op=op,
        fabric=fabric,
        kind=kind,
        link_bytes_per_s=bytes_per_s,
        alpha_ms=alpha,
        surface=surface,
    )
    yield fabric, FittedOperator(model=model, evidence=evidence)


def engine_rows(table: pd.DataFrame) -> pd.DataFrame:
    """An engine's all-reduce: the kernels captured in CUDA graphs, where they are."""
    eager = table.kernel_source.str.contains("eager")
    return _in_bytes(table if eager.all() else table[~eager])


def nccl_rows(table: pd.DataFrame, op: Collective) -> pd.DataFrame:
    """Rows of one operation of NCCL in 16 bits."""
    rows = table[(table.op_name == NCCL_NAMES[op]) & (table.nccl_dtype == "half")]
    return _in_bytes(rows)


def _in_bytes(rows: pd.DataFrame) -> pd.DataFrame:
    """Message sizes in bytes, repeated measurements by their median."""
    sized = rows.assign(num_bytes=BYTES_PER_ELEMENT * rows.message_size)
    return sized.groupby(["num_gpus", "num_bytes"], as_index=False).latency.median()
