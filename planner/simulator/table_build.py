"""The step tables of a system as arrays of the kernel."""

from functools import lru_cache

import numpy as np

from models.latency.step_table import StepTable
from planner.simulator import state
from planner.simulator.state import Array
from planner.simulator.system import BatchLimits, ServingReplica

Table = tuple[StepTable, BatchLimits]
"""A step table, and limits of which only the captured batches count."""


def _table_of(table: StepTable, limits: BatchLimits) -> Table:
    return table, BatchLimits(graph_batch_sizes=limits.graph_batch_sizes)


def distinct_tables(
    replicas: tuple[ServingReplica, ...],
) -> tuple[tuple[Table, ...], dict[tuple[int, int], int]]:
    """The tables, and the row of each by the identities of a table and limits.

    Replicas of a shape share theirs, and a table takes long to compare.
    """
    rows: dict[Table, int] = {}
    row_of: dict[tuple[int, int], int] = {}
    for replica in replicas:
        for table in replica.stages:
            key = (id(table), id(replica.limits))
            if key not in row_of:
                row_of[key] = rows.setdefault(
                    _table_of(table, replica.limits), len(rows)
                )
    return tuple(rows), row_of


@lru_cache(maxsize=256)
def knots_of(tables: tuple[Table, ...]) -> Array:
    """Knots of F, a row a table, padded to one width by points on the last slope."""
    width = max(2, *(len(t.prefill_tokens) for t, _ in tables))
    knots = np.zeros((len(tables), width), dtype=state.KNOT)
    for row, (table, _) in enumerate(tables):
        xs, ys = list(table.prefill_tokens), list(table.prefill_ms)
        slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]) if len(xs) > 1 else 0.0
        while len(xs) < width:
            xs.append(xs[-1] + 1.0)
            ys.append(ys[-1] + slope)
        knots["tokens"][row], knots["ms"][row] = xs, ys
    return knots


@lru_cache(maxsize=256)
def batches_of(tables: tuple[Table, ...], max_num_seqs: int) -> Array:
    """Decode batches, a row a table.

    G and H of a decode step at the captured size of every batch; and what B decodes
    add to a step with prompts beside their tokens: max(0, G(B) - F(B)), and H(B), or
    what was measured instead.
    """
    filled = np.zeros((len(tables), max_num_seqs + 1), dtype=state.BATCH)
    for row, (table, limits) in enumerate(tables):
        sizes = [limits.step_batch(n) if n else 0 for n in range(max_num_seqs + 1)]
        fixed, slope = table.decode_arrays(max(sizes))
        filled["fixed_ms"][row], filled["slope_ms"][row] = fixed[sizes], slope[sizes]
        added, mixed_slope = table.mixed_arrays(max_num_seqs)
        filled["mixed_ms"][row], filled["mixed_slope_ms"][row] = added, mixed_slope
        extra_sq = table.mixed_per_sq_token_ms - table.prefill_per_sq_token_ms
        filled["mixed_sq_ms"][row, 1:] = extra_sq
    return filled
