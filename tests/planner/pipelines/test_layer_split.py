"""Layer splits: equal to trying every split."""

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.pipelines.layer_split import best_split, shortest_split


def test_a_fast_stage_takes_more_layers():
    # Rates 12/k and 6/k: 4 + 2 layers give 3 each; every other split is slower.
    fast, slow = [12 / k for k in range(1, 7)], [6 / k for k in range(1, 7)]
    assert best_split([fast, slow], 6) == (3.0, (4, 2))


def test_more_layers_may_be_faster():
    # The first stage is faster with 3 layers than with 2; the second only likes one.
    bumpy, plain = [9.0, 2.0, 4.0], [5.0, 5.0, 1.0]
    assert best_split([bumpy, plain], 4) == (4.0, (3, 1))


def test_ties_go_to_the_shorter_way_through():
    # The first stage binds at 2 either way; 1 + 2 passes the second at 8, 2 + 1 at 4.
    assert best_split([[2.0, 2.0], [4.0, 8.0]], 3) == (2.0, (1, 2))


def test_stages_that_cannot_hold_the_model_have_no_split():
    assert best_split([[1.0], [1.0]], 3) is None
    assert best_split([[1.0], [0.0, 1.0]], 2) is None


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 9).map(float), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 9),
)
def test_the_best_split_is_the_best_of_all_splits(rates, num_layers):
    found = best_split(rates, num_layers)
    every = {
        split: [stage[held - 1] for stage, held in zip(rates, split, strict=True)]
        for split in product(*(range(1, len(stage) + 1) for stage in rates))
        if sum(split) == num_layers
    }
    slowest = max((min(own) for own in every.values()), default=0.0)
    if slowest == 0.0:
        assert found is None
        return
    assert found is not None
    rate, split = found
    shortest = min(
        sum(1 / r for r in own) for own in every.values() if min(own) == slowest
    )
    assert rate == slowest == min(every[split])
    assert sum(1 / r for r in every[split]) == pytest.approx(shortest)


def test_the_shortest_way_may_have_a_slow_stage():
    # 1 + 3 layers take 1 + 4 ms; the most even split, 2 + 2, takes 3 + 3.
    assert shortest_split([[1.0, 3.0, 9.0], [2.0, 3.0, 4.0]], 4) == (5.0, (1, 3))
    assert best_split([[1 / 1, 1 / 3, 1 / 9], [1 / 2, 1 / 3, 1 / 4]], 4) == (
        1 / 3,
        (2, 2),
    )


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.lists(
            st.one_of(st.integers(0, 9).map(float), st.just(math.inf)),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 9),
)
def test_the_shortest_split_is_the_shortest_of_all_splits(costs, num_layers):
    found = shortest_split(costs, num_layers)
    totals = {
        split: sum(stage[held - 1] for stage, held in zip(costs, split, strict=True))
        for split in product(*(range(1, len(stage) + 1) for stage in costs))
        if sum(split) == num_layers
    }
    least = min(totals.values(), default=math.inf)
    if math.isinf(least):
        assert found is None
        return
    assert found is not None
    total, split = found
    assert total == least == totals[split]
