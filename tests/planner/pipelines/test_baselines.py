"""Baselines by hand: who takes which layers without a plan of the whole."""

import pytest

from planner.pipelines.baselines import (
    baselines,
    petals_like,
    separate_pipelines,
    swarm_like,
)
from planner.pipelines.flow import layer_flow
from planner.pipelines.place import best_flow
from tests.planner.pipelines.tiny_fleets import tiny_fleet

# Rates by the layers held: 10, 8 or 5 tokens/s for one to three; 6 or 3.
MIXED = tiny_fleet([("a", (10.0, 8.0, 5.0))] * 2 + [("b", (6.0, 3.0))] * 2, 4)


def test_petals_takes_what_is_served_worst():
    # The first a takes layers 0-3 (5 each). The second finds (5, 5, 0) from layer 1 on
    # the worst of its intervals. The b take two layers each: rates are now 5 10 10 5,
    # and the sorted pairs (5, 10), (10, 10), (5, 10): the first b takes 0-2, and the
    # last 2-4, where 5 is left.
    found = petals_like(MIXED)
    assert found.spans == {0: (0, 3), 1: (1, 4), 2: (0, 2), 3: (2, 4)}
    # Layer 0 is held by machines 0 and 2: no more than 5 + 3 can enter.
    assert layer_flow(MIXED, found).tokens_per_s <= 8.0


def test_petals_moves_while_the_worst_served_layer_gains():
    # Three of one layer and three layers: joining alone already serves each once.
    fleet = tiny_fleet([("a", (4.0,))] * 3, 3)
    assert sorted(petals_like(fleet).spans.values()) == [(0, 1), (1, 2), (2, 3)]
    assert layer_flow(fleet, petals_like(fleet)).tokens_per_s == pytest.approx(4.0)


def test_swarm_has_equal_stages_of_balanced_rates():
    # The b hold two layers at most, so there are two stages. a joins each, then b.
    found = swarm_like(MIXED)
    assert found.spans == {0: (0, 2), 1: (2, 4), 2: (0, 2), 3: (2, 4)}
    # 8 + 3 in each stage.
    assert layer_flow(MIXED, found).tokens_per_s == pytest.approx(11.0)


def test_swarm_machines_move_to_the_slowest_stage():
    # In this order: 9 | 1, then 1 joins the slower: 9 | 2, 9 | 3, ... no move helps.
    kinds = [("a", (9.0, 9.0))] + [("b", (1.0, 1.0))] * 4
    found = swarm_like(tiny_fleet(kinds, 4))
    assert [found.spans[m] for m in range(5)] == [(0, 2), *[(2, 4)] * 4]
    # Slow ones first share out 2 | 2, then the fast joins: 11 | 2, and two move over.
    found = swarm_like(tiny_fleet([*kinds[1:], kinds[0]], 4))
    stages = [found.spans[m] for m in range(5)]
    assert sorted(stages.count(s) for s in set(stages)) == [1, 4]


def test_separate_pipelines_leave_what_is_over_idle():
    # Two a hold 3 layers each: one pipeline of 2 + 2 layers. Two b the same.
    found = separate_pipelines(MIXED)
    assert found.spans == {0: (0, 2), 1: (2, 4), 2: (0, 2), 3: (2, 4)}
    three = tiny_fleet([("a", (10.0, 8.0))] * 3, 4)
    assert set(separate_pipelines(three).spans) == {0, 1}


def test_a_model_that_no_one_holds_has_no_baseline():
    fleet = tiny_fleet([("a", (10.0,))], 2)
    assert [layout for _, layout in baselines(fleet)] == [None] * 3


def test_none_passes_more_than_the_best():
    best = best_flow(MIXED).flow.tokens_per_s
    for _, layout in baselines(MIXED):
        assert layout.why_not(MIXED) is None
        assert layer_flow(MIXED, layout).tokens_per_s <= best * (1.0 + 1e-9)
