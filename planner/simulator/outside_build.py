"""Arrays of a simulation with events from outside."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.simulator import state
from planner.simulator.micro_batches import max_micro_batch
from planner.simulator.outside_schedule import (
    OutsideEvent,
    OutsideKind,
    check_outside,
    flipped,
    in_order,
)
from planner.simulator.state import NONE, Array, World
from planner.simulator.system import Phase, ServingSystem
from planner.simulator.work import work_weight

_KINDS = {
    OutsideKind.FAIL: state.FAIL,
    OutsideKind.DRAIN: state.DRAIN,
    OutsideKind.FLIP: state.FLIP,
    OutsideKind.RECOVER: state.OPEN,
    OutsideKind.SCALE_UP: state.OPEN,
}


def with_outside(
    world: World, system: ServingSystem, events: Sequence[OutsideEvent]
) -> World:
    """`world` with the first event pending, and room for what the events change.

    There is a timer for each replica and one for the next event. Replicas that change
    their phase have room in the lists of both; those that scale up are not there yet.

    Raises
    ------
    InputError
        Naming the first event that cannot be.
    """
    if not events:
        return world
    check_outside(system, events)
    rows = [(e.at_ms, _KINDS[e.kind], e.replica, e.takes_ms) for e in in_order(events)]
    slot = _longer(world.slot, len(system.replicas) + 1)
    slot["position"][len(world.slot) :] = NONE
    heap = _longer(world.heap, len(system.replicas) + 1)
    first = len(slot) - 1
    slot[first]["time_ms"], slot[first]["priority"] = rows[0][0], state.OUTSIDE
    slot[first]["position"] = 0
    heap[0] = first
    world.clock["heap_size"] = 1
    for index in sorted(flipped(events)):
        given = system.replicas[index]
        is_decode = given.phase is Phase.DECODE
        other = replace(given, phase=Phase.PREFILL if is_decode else Phase.DECODE)
        world.replica["other_weight"][index] = work_weight(other)
        world.replica["other_micro_batch"][index] = max_micro_batch(other)
    absent = {e.replica for e in events if e.kind is OutsideKind.SCALE_UP}
    world.replica["is_open"][list(absent)] = 0
    lists = {}
    for name in ("prefill_replicas", "decode_replicas"):
        present = [int(i) for i in getattr(world, name) if int(i) not in absent]
        world.clock[f"num_{name.removesuffix('_replicas')}s"] = len(present)
        lists[name] = _longer(getattr(world, name), len(flipped(events)))
        lists[name][: len(present)] = present
    return world._replace(
        slot=slot,
        heap=heap,
        member=_members_of_both(world),
        outside=np.array(rows, dtype=state.OUTSIDE_EVENT),
        **lists,
    )


def _members_of_both(world: World) -> Array:
    """Room for the micro-batches of either phase; the groups are told where."""
    rep = world.replica
    most = np.maximum(rep["max_micro_batch"], rep["other_micro_batch"])
    ends = np.cumsum(most[world.group["replica"]])
    world.group["offset"][1:] = ends[:-1]
    return np.zeros(ends[-1], dtype=state.MEMBER)


def _longer(array: Array, more: int) -> Array:
    """`array` with so many zeros after it."""
    return np.concatenate([array, np.zeros(more, dtype=array.dtype)])
