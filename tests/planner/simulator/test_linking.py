"""Functions of a kernel are linked once, and only an entry point is for Python."""

import pytest

from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.compiled import (
    IS_LINKED,
    compiled,
    entry_point,
    inlined,
    optional,
)
from planner.simulator.handle import WorldHandle
from planner.simulator.launch import LeftOutError
from planner.simulator.system import Phase
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

pytestmark = pytest.mark.skipif(not IS_LINKED, reason="this numba cannot link")


@compiled
def share(total, parts):
    return total // parts


@inlined
def doubled(total, parts):
    return 2 * share(total, parts)


@optional
def num_requests(w) -> int:
    return w.request.shape[0]


@entry_point
def share_and_double(total, parts):
    """Reaches one function by two ways."""
    return share(total, parts) + doubled(total, parts)


@entry_point
def count_if(w, is_wanted):
    return num_requests(w) if is_wanted else -1


def tiny_world():
    both = tiny_replica(Phase.AGGREGATED, tiny_table())
    requests = tiny_requests((0.0, 1, 5), (0.0, 1, 5), (0.0, 1, 5))
    return build_world(tiny_system(both), requests, SimulationOptions())


def test_functions_reached_by_two_ways_are_one():
    assert share_and_double(14, 4) == 3 + 2 * 3


def test_an_error_in_a_part_reaches_python():
    with pytest.raises(ZeroDivisionError):
        share_and_double(14, 0)


def test_a_part_has_no_code_for_python():
    assert share_and_double(2, 1) == 6
    with pytest.raises(SystemError, match="NULL"):
        share(2, 1)


def test_what_is_optional_is_in_the_full_kernel_only():
    world = tiny_world()
    full, lean = WorldHandle(world), WorldHandle(world, is_lean=True)
    assert count_if(full, True) == 3
    assert count_if(full, False) == count_if(lean, False) == -1
    with pytest.raises(LeftOutError):
        count_if(lean, True)
