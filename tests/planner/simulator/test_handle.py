"""The kernel reads and writes the arrays of a world through its handle."""

import numpy as np
import pytest

from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.compiled import compiled, entry_point
from planner.simulator.handle import WorldHandle
from planner.simulator.system import Phase
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)


@compiled
def add_one(w, which):
    w.request[which].output_tokens += 1


@entry_point
def sum_and_add(w, sizes):
    """Lengths, an element of two dimensions, and a write in a function it calls."""
    sizes[0] = w.request.shape[0]
    sizes[1], sizes[2] = w.residues.shape
    sizes[3] = w.residues[1, 2]
    add_one(w, 1)
    total = 0
    for request in w.request:
        total += request.output_tokens
    return total


def tiny_world(num_requests: int):
    both = tiny_replica(Phase.AGGREGATED, tiny_table(), kv_block_tokens=4)
    requests = tiny_requests(*[(0.0, 1, 5)] * num_requests)
    return build_world(tiny_system(both), requests, SimulationOptions())


def test_arrays_of_every_size_are_seen_as_they_are():
    for num_requests in (2, 7):
        world = tiny_world(num_requests)
        world.residues[1, 2] = 11
        sizes = np.zeros(4, dtype=np.int64)
        total = sum_and_add(WorldHandle(world), sizes)
        assert sizes.tolist() == [num_requests, *world.residues.shape, 11]
        assert total == 5 * num_requests + 1
        assert world.request["output_tokens"].tolist()[:2] == [5, 6]


def test_an_array_with_gaps_is_refused():
    world = tiny_world(4)
    with pytest.raises(ValueError, match="request is not contiguous"):
        WorldHandle(world._replace(request=world.request[::2]))
