"""The event heap pops in the order of (time, priority, sequence)."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.compiled import entry_point
from planner.simulator.events import pop, schedule
from planner.simulator.handle import WorldHandle
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, Routing
from tests.planner.simulator.systems import (
    step_by_step,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

NUM_SLOTS = 9


@entry_point
def schedule_all_then_pop_all(w, slots, times, priorities, popped):
    for i in range(len(slots)):
        schedule(w, slots[i], times[i], priorities[i])
    num = w.clock[0].heap_size
    for i in range(num):
        popped[i] = pop(w)
    return num


@given(
    st.lists(
        st.tuples(st.integers(0, NUM_SLOTS - 1), st.integers(0, 4), st.integers(0, 2)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=200, deadline=None)
def test_events_pop_by_time_then_priority_then_sequence(entries):
    """A slot scheduled again is moved: only its last event counts."""
    system = tiny_system(tiny_replica(Phase.PREFILL, tiny_table()))
    requests = tiny_requests(*[(0.0, 1, 1)] * (NUM_SLOTS - 1))
    world = build_world(system, requests, SimulationOptions())
    slots, times, priorities = (
        np.array(column) for column in zip(*entries, strict=True)
    )
    popped = np.full(NUM_SLOTS, -1)
    num = schedule_all_then_pop_all(
        WorldHandle(world), slots, times.astype(np.float64), priorities, popped
    )
    last = {
        slot: (time, priority, i) for i, (slot, time, priority) in enumerate(entries)
    }
    assert popped[:num].tolist() == sorted(last, key=last.__getitem__)


def test_a_decode_end_is_seen_by_a_request_routed_at_the_same_time():
    """Prefill takes 0.5 + 0.5 * tokens ms, a decode step 1 ms.

    r0 decodes on replica 1 from 1 to 5. r1 is prefilled from 3.5 to 5, when both decode
    replicas are empty: it goes to the first. With one event a step, the last step of r0
    starts after that prefill, so the order must come from the priority.
    """
    prefill = tiny_replica(Phase.PREFILL, tiny_table(0.5, 0.5))
    decode = tiny_replica(Phase.DECODE, tiny_table(decode_ms=1.0))
    system = tiny_system(prefill, decode, decode, routing=Routing.SHORTEST_QUEUE)
    requests = tiny_requests((0.0, 1, 5), (3.5, 2, 2))
    for run in (simulate, step_by_step):
        result = run(system, requests)
        assert result.finish_ms.tolist() == [5.0, 6.0]
        assert result.decode_replica.tolist() == [1, 1]
