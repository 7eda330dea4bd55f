"""Which of two kernels a run gets: a lean one, or the full one.

Both are compiled from the same functions. The lean one leaves out those marked
`optional`: prefix caches, events from outside and other things that most runs do not
need. It compiles in about half the time, and its results are the same to the last bit.
A run of the lean kernel that reaches such a function all the same begins again in the
full one, so a condition that is forgotten here costs time and never a wrong answer.
Where this numba cannot leave functions out, there is only the full one.
"""

from collections.abc import Callable

from planner.simulator.state import CACHE_AWARE, GREEDY, RANDOM, World


class LeftOutError(Exception):
    """A run of the lean kernel needs a function that is only in the full one."""


def run_world(build: Callable[[], World]) -> tuple[World, bool]:
    """Build a world and run it to its end.

    Parameters
    ----------
    build
        Makes the world; called again if it turns out to need the full kernel.

    Returns
    -------
    tuple of World and bool
        The world at its end; False where it ended at the first miss too many.
    """
    from planner.simulator.compiled import IS_LINKED
    from planner.simulator.handle import WorldHandle
    from planner.simulator.kernel import run  # compiles on first use

    world = build()
    if IS_LINKED and not needs_full_kernel(world):
        try:
            return world, bool(run(WorldHandle(world, is_lean=True)))
        except LeftOutError:
            world = build()
    return world, run_full(world)


def run_full(world: World) -> bool:
    """Run a world with the full kernel, whatever it needs."""
    from planner.simulator.handle import WorldHandle
    from planner.simulator.kernel import run

    return bool(run(WorldHandle(world)))


def needs_full_kernel(world: World) -> bool:
    """Whether a run reaches functions that the lean kernel leaves out."""
    clock = world.clock[0]
    has_arrays = any(
        len(array)
        for array in (
            world.cache,
            world.forecast,
            world.turn,
            world.outside,
            world.flow,
        )
    )
    routing = clock["routing"]
    return bool(
        has_arrays
        or routing >= RANDOM
        or routing == CACHE_AWARE
        or clock["least_layer_wise"] <= world.request["input_tokens"].max(initial=0)
        or world.replica["max_step_context"].any()
        or (world.replica["decode_admission"] != GREEDY).any()
    )
