"""The flow bound: tight by hand, and above every layout."""

import math

import pytest
from hypothesis import given, settings

from planner.pipelines.flow import layer_flow
from planner.pipelines.flow_bound import flow_bound
from planner.pipelines.teams import Pool
from tests.planner.pipelines.test_flow import placed_fleets


def test_the_cap_makes_it_tight():
    # 4 machines, 8 layers: with 2 layers each, 5 tokens/s pass. Uncapped, k * rate is
    # best at one layer (9 of them): 4 * 11 / 8 = 5.5. Capped at F a machine with one
    # layer gives F, with two min(10, 2 F): 8 F <= 4 * max(F, 10) ends at F = 5.
    pool = Pool(names=("a",), counts=(4,), rates=((11.0, 5.0),))
    assert flow_bound(pool, 8) == pytest.approx(5.0)


def test_machines_that_pass_anything_alone_are_bound_by_their_sum():
    # Two layers on each of two machines at 6: side by side 12, and 2 F <= 2 * 12.
    pool = Pool(names=("a",), counts=(2,), rates=((10.0, 6.0),))
    assert flow_bound(pool, 2) == pytest.approx(12.0)


def test_machines_that_cannot_hold_the_layers_pass_nothing():
    assert flow_bound(Pool(names=("a",), counts=(2,), rates=((9.0,),)), 3) == 0.0


@settings(max_examples=60, deadline=None)
@given(placed_fleets())
def test_no_layout_passes_more(case):
    fleet, layout = case
    bound = flow_bound(Pool.of(fleet), fleet.num_layers)
    assert math.isfinite(bound)
    assert layer_flow(fleet, layout).tokens_per_s <= bound * (1 + 1e-9)
