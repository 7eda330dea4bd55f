"""The best unit at an operating point: a knapsack with one load of each LLM at most.

Branch and bound, LLM by LLM. The bound is the best that the LLMs still to come could
earn if only one resource counted: for each resource, a table over how much is left,
in which loads are rounded down. The least of these bounds holds for all together.
"""

from dataclasses import dataclass

import numba
import numpy as np

from clusters.fields import spec
from models.latency.step_table import FloatArray
from planner.multiplexing.loads import IntArray, Loads

_GRID = 20
"""Steps in which the bound counts a resource."""
_SLACK = 1e-9
_EARNED, _LONGEST, _ALLOWED, _SIZE, _EXTRA = range(5)
"""Columns of a path: profit, longest prefill, the longest allowed, LLMs; resources."""
MOST_NODES = 2_000_000
"""Branches after which a search ends with what it has, and its bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Sets of loads that fit together, best first."""

    sets: tuple[tuple[int, ...], ...] = spec("Rows of the loads of each set.")
    profits: tuple[float, ...] = spec("Of each set.", unit="value")
    bound: float = spec(
        "No set has more profit than this, or the least asked for.", unit="value"
    )
    is_complete: bool = spec("Whether all that were asked for are there.")


def best_set(
    loads: Loads, profit: FloatArray, *, least: float, needs_all: bool = False
) -> Packed:
    """The set of the most profit above `least`, if there is any.

    Parameters
    ----------
    loads
        At most one of each LLM may be in a set.
    profit
        Of each load, shape (num_loads,).
    least
        Profit that a set must exceed.
    needs_all
        Whether every LLM with a load must be in the set.
    """
    return _search(loads, profit, least, limit=1, keeps_all=False, needs_all=needs_all)


def all_sets(loads: Loads, profit: FloatArray, *, least: float, limit: int) -> Packed:
    """All sets of at least that much profit; incomplete when more than `limit`."""
    return _search(loads, profit, least, limit=limit, keeps_all=True, needs_all=False)


def _search(
    loads: Loads,
    profit: FloatArray,
    least: float,
    *,
    limit: int,
    keeps_all: bool,
    needs_all: bool,
) -> Packed:
    order, starts = _by_llm(loads.llm, profit)
    sets, profits, bound, is_complete = _branch(
        starts,
        profit[order],
        loads.takes[order],
        np.column_stack((loads.prefill_ms, loads.longest_ms))[order],
        loads.capacity,
        np.array([least, float(limit), float(keeps_all), float(needs_all)]),
    )
    ranked = np.argsort(-profits, kind="stable")
    return Packed(
        sets=tuple(
            tuple(sorted(int(order[i]) for i in sets[rank] if i >= 0))
            for rank in ranked
        ),
        profits=tuple(float(profits[rank]) for rank in ranked),
        bound=float(bound),
        is_complete=bool(is_complete),
    )


def _by_llm(llm: IntArray, profit: FloatArray) -> tuple[IntArray, IntArray]:
    """Rows ordered by LLM (the most profitable first) and profit; first row of each."""
    if len(llm) == 0:
        return np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    _, first, sizes = np.unique(llm, return_index=True, return_counts=True)
    best = np.maximum.reduceat(profit, first)
    ranks = np.empty(len(first), dtype=np.int64)
    ranks[np.argsort(-best, kind="stable")] = np.arange(len(first))
    of_row = np.repeat(ranks, sizes)
    order = np.lexsort((-profit, of_row))
    return order, np.searchsorted(of_row[order], np.arange(len(first) + 1))


@numba.njit(cache=True)
def _bounds(
    starts: IntArray, profit: FloatArray, takes: FloatArray, capacity: FloatArray
) -> FloatArray:
    """Most profit of the LLMs from one on by what is left of one resource.

    Shape (num_resources, num_llms + 1, _GRID + 1).
    """
    num = len(starts) - 1
    table = np.zeros((len(capacity), num + 1, _GRID + 1))
    for resource in range(len(capacity)):
        if capacity[resource] <= 0:
            continue
        for llm in range(num - 1, -1, -1):
            table[resource, llm] = table[resource, llm + 1]
            for row in range(starts[llm], starts[llm + 1]):
                if profit[row] <= 0:
                    break
                part = takes[row, resource] / capacity[resource] * _GRID
                need = int(max(0.0, part - _SLACK))
                for left in range(need, _GRID + 1):
                    value = profit[row] + table[resource, llm + 1, left - need]
                    if value > table[resource, llm, left]:
                        table[resource, llm, left] = value
    return table


@numba.njit(cache=True)
def _branch(
    starts: IntArray,
    profit: FloatArray,
    takes: FloatArray,
    waits: FloatArray,
    capacity: FloatArray,
    wanted: FloatArray,
) -> tuple[IntArray, FloatArray, float, bool]:
    """Depth first over the LLMs.

    `waits` holds the prefill of each load and the longest prefill it allows; `wanted`
    the least profit, the most sets, whether all sets are, and whether all LLMs are.
    """
    num = len(starts) - 1
    limit, keeps_all = int(wanted[1]), wanted[2] > 0
    table = _bounds(starts, profit, takes, capacity)
    found, values = np.empty((limit, num), dtype=np.int64), np.empty(limit)
    num_found, least, bound = 0, wanted[0], wanted[0]
    # Of each depth: the next row to try, the row chosen, and what the rows so far take.
    turn, chosen = starts.copy(), np.full(num, -1, dtype=np.int64)
    path = np.zeros((num + 1, len(capacity) + _EXTRA))
    path[0, _ALLOWED] = np.inf
    depth = 0
    for _ in range(MOST_NODES):
        if depth < 0:
            return found[:num_found], values[:num_found], bound, True
        earned = path[depth, _EARNED]
        most = earned + _most_left(table, path, capacity, depth)
        is_worth_it = most >= least if keeps_all else most > least
        if depth < num and is_worth_it:
            items = (starts, profit, takes, waits)
            if _move(depth, (turn, chosen), path, items, capacity, wanted[3] > 0):
                depth += 1
                continue
        if depth == num and is_worth_it and path[num, _SIZE] > 0:
            if not keeps_all:
                num_found, least = 0, earned
            if num_found == limit:
                return found[:num_found], values[:num_found], bound, False
            found[num_found], values[num_found] = chosen, earned
            num_found, bound = num_found + 1, max(bound, earned)
        turn[depth] = starts[depth]
        depth -= 1
    for level in range(depth + 1):
        open_profit = path[level, _EARNED] + _most_left(table, path, capacity, level)
        bound = max(bound, open_profit)
    return found[:num_found], values[:num_found], bound, False


@numba.njit(cache=True)
def _move(
    depth: int,
    state: tuple[IntArray, IntArray],
    path: FloatArray,
    items: tuple[IntArray, FloatArray, FloatArray, FloatArray],
    capacity: FloatArray,
    needs_all: bool,
) -> bool:
    """Go one LLM down with its next load that fits, at last without any."""
    turn, chosen = state
    starts, profit, takes, waits = items
    here, below = path[depth], path[depth + 1]
    while turn[depth] <= starts[depth + 1]:
        row = turn[depth]
        turn[depth] += 1
        if row == starts[depth + 1]:
            if needs_all:
                return False
            chosen[depth] = -1
            below[:] = here
            return True
        below[_LONGEST] = max(here[_LONGEST], waits[row, 0])
        below[_ALLOWED] = min(here[_ALLOWED], waits[row, 1])
        fits = below[_LONGEST] <= below[_ALLOWED]
        for resource in range(len(capacity)):
            below[_EXTRA + resource] = here[_EXTRA + resource] + takes[row, resource]
            fits &= below[_EXTRA + resource] <= capacity[resource] + _SLACK
        if fits:
            below[_EARNED] = here[_EARNED] + profit[row]
            below[_SIZE] = here[_SIZE] + 1.0
            chosen[depth] = row
            return True
    return False


@numba.njit(cache=True)
def _most_left(
    table: FloatArray, path: FloatArray, capacity: FloatArray, depth: int
) -> float:
    """What the LLMs from a depth on can still earn at most."""
    least = np.inf
    for resource in range(len(capacity)):
        if capacity[resource] > 0:
            free = 1.0 - path[depth, _EXTRA + resource] / capacity[resource]
            left = min(_GRID, int((max(0.0, free) + _SLACK) * _GRID))
            least = min(least, table[resource, depth, left])
    return float(least)
