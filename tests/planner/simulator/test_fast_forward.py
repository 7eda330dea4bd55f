"""Jumping over unchanged decode steps changes no time of any request."""

from hypothesis import given, settings

from planner.simulator.simulate import simulate
from tests.planner.simulator.systems import (
    assert_same_times,
    many_requests,
    step_by_step,
    systems,
)


@given(systems(), many_requests())
@settings(max_examples=250, deadline=None)
def test_fast_forward_equals_step_by_step(system, requests):
    assert_same_times(simulate(system, requests), step_by_step(system, requests))
