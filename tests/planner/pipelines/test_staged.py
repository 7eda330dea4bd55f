"""Staged layouts: both searches equal trying every layout."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.pipelines.staged import (
    best_rates,
    best_staged,
    highest_rate,
    highest_rate_of_large,
    staged_at,
)
from planner.pipelines.teams import Pool


def test_machines_work_alone_where_that_is_fastest():
    # Four layers on four machines of 10 tokens/s a layer: 10, against 2 x 2 x 4 = 8.
    pool = Pool(names=("a",), counts=(4,), rates=((10.0, 4.0),))
    found = best_staged(pool, 4)
    assert found is not None
    assert found.tokens_per_s == 10.0
    assert [team.counts for team in found.stages] == [(1,)] * 4
    assert found.is_exact


def test_machines_share_layers_where_one_alone_is_too_slow():
    # 2 layers a machine: stages of 2 machines pass 12, alone only one passes 9.
    pool = Pool(names=("a",), counts=(4,), rates=((9.0, 6.0),))
    assert highest_rate(pool, 4) == 12.0


def test_more_layers_may_be_faster():
    # 3 layers are faster than 2: 3 + 1 reaches 5, 2 + 2 only 1.
    pool = Pool(names=("a",), counts=(2,), rates=((7.0, 1.0, 5.0),))
    assert highest_rate(pool, 4) == 5.0


def test_a_model_that_does_not_fit_has_no_layout():
    pool = Pool(names=("a", "b"), counts=(1, 1), rates=((7.0, 1.0), (3.0,)))
    assert best_staged(pool, 4) is None


def test_fewer_stages_are_enough_for_less():
    pool = Pool(names=("a",), counts=(4,), rates=((10.0, 4.0),))
    found = staged_at(pool, 4, 8.0)
    assert found is not None
    # Two stages of two layers, two machines each: 8.
    assert [(t.num_layers, t.counts) for t in found.stages] == [(2, (2,))] * 2
    assert staged_at(pool, 4, 10.5) is None


def pools() -> st.SearchStrategy[Pool]:
    rates = st.lists(st.integers(1, 12).map(float), min_size=1, max_size=3).map(tuple)
    return st.integers(1, 2).flatmap(
        lambda num: st.builds(
            Pool,
            names=st.just(("a", "b")[:num]),
            counts=st.tuples(*[st.integers(1, 2)] * num),
            rates=st.tuples(*[rates] * num),
        )
    )


@settings(max_examples=60, deadline=None)
@given(pools(), st.integers(1, 5))
def test_both_searches_find_the_best_staged_layout(pool, num_layers):
    expected = by_trying_everything(pool, num_layers)
    assert highest_rate(pool, num_layers) == pytest.approx(expected)
    assert highest_rate_of_large(pool, num_layers) == pytest.approx(expected)
    assert best_rates(pool, num_layers, 4)[num_layers] == pytest.approx(expected)


def by_trying_everything(pool: Pool, num_layers: int) -> float:
    """Every way to cut the layers, and every machine on every stage or idle."""
    machines = [kind for kind, count in enumerate(pool.counts) for _ in range(count)]
    best = 0.0
    for num_stages in range(1, min(num_layers, len(machines)) + 1):
        cuts = [
            cut
            for cut in product(range(1, num_layers + 1), repeat=num_stages)
            if sum(cut) == num_layers
        ]
        for cut, places in product(
            cuts, list(product(range(-1, num_stages), repeat=len(machines)))
        ):
            rates = [0.0] * num_stages
            for kind, place in zip(machines, places, strict=True):
                if place >= 0:
                    rates[place] += pool.rates_at(cut[place])[kind]
            best = max(best, min(rates))
    return best
