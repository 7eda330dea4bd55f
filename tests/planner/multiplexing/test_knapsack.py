"""The knapsack of a unit: it finds what trying every set finds."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.multiplexing import load_table as columns
from planner.multiplexing.knapsack import all_sets, best_set
from planner.multiplexing.load_table import NUM_RESOURCES
from planner.multiplexing.loads import Loads, OperatingPoint

POINT = OperatingPoint(prefill_share_frac=0.2, prefill_load_frac=0.5)


def loads_of(rows) -> Loads:
    """Rows of (llm, takes of two resources, prefill ms, longest ms)."""
    table = np.zeros((len(rows), columns.TAKES + columns.NUM_RESOURCES))
    for row, (llm, first, second, prefill, longest) in zip(table, rows, strict=True):
        row[columns.LLM], row[columns.SERVED] = llm, 1.0
        row[columns.PREFILL], row[columns.LONGEST] = prefill, longest
        row[columns.TAKES : columns.TAKES + 2] = first, second
    return Loads(point=POINT, table=table, capacity=np.ones(NUM_RESOURCES))


@st.composite
def instances(draw):
    part = st.sampled_from([0.1, 0.25, 0.3, 0.34, 0.5, 0.8])
    rows, profits = [], []
    for llm in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(1, 3))):
            longest = draw(st.sampled_from([1.0, 2.0, 9.0]))
            rows.append(
                (llm, draw(part), draw(part), draw(st.sampled_from([1, 2])), longest)
            )
            profits.append(draw(st.integers(-2, 9)))
    return loads_of(rows), np.array(profits, dtype=float)


def by_trial(loads: Loads, profit, *, needs_all: bool = False):
    """Every set that fits, with its profit."""
    llms = sorted(set(loads.llm.tolist()))
    own = [[*np.flatnonzero(loads.llm == llm).tolist(), None] for llm in llms]
    found = {}
    for choice in product(*own):
        rows = tuple(row for row in choice if row is not None)
        if not rows or (needs_all and len(rows) < len(llms)):
            continue
        taken = loads.takes[list(rows)].sum(axis=0)
        longest = max(loads.prefill_ms[row] for row in rows)
        is_patient = all(longest <= loads.longest_ms[row] for row in rows)
        if np.all(taken <= loads.capacity + 1e-9) and is_patient:
            found[rows] = float(profit[list(rows)].sum())
    return found


@settings(max_examples=80, deadline=None)
@given(instances(), st.booleans())
def test_the_best_set_is_the_best_of_all(instance, needs_all: bool) -> None:
    loads, profit = instance
    known = by_trial(loads, profit, needs_all=needs_all)
    best = max(known.values(), default=-np.inf)
    packed = best_set(loads, profit, least=-100.0, needs_all=needs_all)
    assert packed.is_complete
    if not known:
        assert packed.sets == ()
        return
    assert packed.profits == (pytest.approx(best),)
    assert known[packed.sets[0]] == pytest.approx(best)
    assert packed.bound == pytest.approx(best)


@settings(max_examples=50, deadline=None)
@given(instances(), st.integers(-3, 12))
def test_all_sets_above_a_profit_are_listed(instance, least: int) -> None:
    loads, profit = instance
    known = {rows for rows, p in by_trial(loads, profit).items() if p >= least}
    packed = all_sets(loads, profit, least=float(least), limit=1000)
    assert packed.is_complete
    assert set(packed.sets) == known
    assert len(packed.sets) == len(known)


def test_nothing_that_is_not_worth_more_is_found() -> None:
    loads = loads_of([(0, 0.5, 0.5, 1, 9), (1, 0.6, 0.1, 1, 9)])
    packed = best_set(loads, np.array([3.0, 2.0]), least=3.0)
    # Together they take 1.1 of the first resource; the best alone earns just 3.
    assert packed.sets == ()
    assert packed.bound == 3.0


def test_a_long_prompt_keeps_an_impatient_llm_away() -> None:
    loads = loads_of([(0, 0.1, 0.1, 1, 1.5), (1, 0.1, 0.1, 2, 9)])
    packed = best_set(loads, np.array([3.0, 2.0]), least=0.0)
    assert packed.sets == ((0,),)


def test_a_list_that_is_too_long_says_so() -> None:
    loads = loads_of([(llm, 0.1, 0.1, 1, 9) for llm in range(4)])
    packed = all_sets(loads, np.ones(4), least=1.0, limit=5)
    assert not packed.is_complete
