"""The books of the routing policies: everything entered is struck out again."""

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.handle import WorldHandle
from planner.simulator.kernel import run
from planner.simulator.system import Batching, Routing
from tests.planner.simulator.systems import many_requests, systems

BOOKS = ("pending_tokens", "promised_tokens", "num_foreign", "num_heavy", "num_light")


@given(
    systems(
        policies=tuple(Batching),
        shapes=("disaggregated", "both"),
        routings=(Routing.SPLITWISE, Routing.TETRIINFER, Routing.PENDING_TOKENS),
    ),
    many_requests(max_size=80),
    st.sampled_from([None, 4]),
)
@settings(max_examples=80, deadline=None)
def test_nothing_is_promised_or_held_when_everyone_has_gone(
    system, requests, concurrency
):
    """Conservation of requests, promises and blocks, with little memory and bursts."""
    options = SimulationOptions(concurrency=concurrency)
    world = build_world(system, requests, options)
    run(WorldHandle(world))
    assert world.clock["num_done"][0] == len(requests)
    for book in BOOKS:
        assert not world.replica[book].any(), book
    assert not world.replica["num_running"].any()
    assert (world.replica["free_blocks"] == world.replica["capacity_blocks"]).all()
