"""Placements: the best flow, the best served, the same for the same seed."""

import pytest

from planner.pipelines.closed_loop import LoopSettings
from planner.pipelines.flow import layer_flow
from planner.pipelines.place import best_flow, best_served, proposals
from planner.stop import MaxEvaluations
from tests.planner.pipelines.tiny_fleets import equal_requests, flat_costs, tiny_fleet

FLEET = tiny_fleet([("a", (10.0, 8.0, 5.0))] * 2 + [("b", (6.0, 3.0))] * 2, 4)
LOOP = LoopSettings(warm_up_s=1.0, measured_s=5.0, kv_fill_frac=1.0)


def test_the_best_flow_is_a_proved_staged_layout():
    # a and b on each of two pairs of layers would pass 8 + 3 = 11; layers 1 + 1 + 2 on
    # a, a, b + b only 6. The bound: 4 F <= 2 * 16 + 2 * 6 = 44, so 11 is optimal.
    best = best_flow(FLEET)
    assert best is not None
    assert best.flow.tokens_per_s == 11.0
    assert best.bound_tokens_per_s == pytest.approx(11.0)
    assert best.gap_frac == pytest.approx(0.0, abs=1e-9)


def test_a_model_that_does_not_fit_has_no_placement():
    fleet = tiny_fleet([("a", (10.0,))], 2)
    assert best_flow(fleet) is None
    machines = flat_costs(fleet, prefill_ms=1.0, decode_ms=1.0, kv_tokens=100)
    stop = MaxEvaluations(num=5)
    assert best_served(machines, equal_requests(10, 10), LOOP, stop=stop) is None


def test_proposals_differ_and_can_run():
    found = list(proposals(FLEET))
    assert len(set(found)) == len(found) > 1
    assert all(layout.why_not(FLEET) is None for layout in found)


def served(seed: int = 0, num: int = 12, **least):
    machines = flat_costs(FLEET, prefill_ms=5.0, decode_ms=2.0, kv_tokens=300)
    found = best_served(
        machines,
        equal_requests(20, 10),
        LOOP,
        stop=MaxEvaluations(num=num),
        seed=seed,
        **least,
    )
    assert found is not None
    return found


def test_the_best_served_is_no_worse_than_any_proposal():
    few, many = served(num=1), served(num=12)
    assert many.served.decode_tokens_per_s >= few.served.decode_tokens_per_s
    assert many.num_evaluated <= 12
    assert many.layout.why_not(FLEET) is None


def test_a_least_flow_is_kept():
    found = served(least_flow=11.0)
    assert found.flow.tokens_per_s >= 11.0
    assert layer_flow(FLEET, found.layout).tokens_per_s == found.flow.tokens_per_s


def test_a_seed_gives_the_same_placement():
    assert served(seed=3) == served(seed=3)
