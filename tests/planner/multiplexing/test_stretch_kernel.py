"""The compiled stretch is the law of `models.latency.contention`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.latency.contention import Job, SmSharing, StepDemand, together_ms
from planner.multiplexing import unit_state as state
from planner.multiplexing.stretch_kernel import stretches
from planner.simulator.compiled import entry_point


@entry_point
def called(w, num_jobs):
    """Functions of the kernel are for compiled callers only."""
    return stretches(w, num_jobs)


demands = st.builds(
    StepDemand,
    whole_ms=st.floats(1.0, 50.0),
    memory_ms=st.just(0.0),
    arithmetic_ms=st.just(0.0),
    least_memory_ms=st.floats(0.0, 1.0),
    least_arithmetic_ms=st.floats(0.0, 1.0),
)


@given(st.lists(demands, min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_stretched_steps_are_those_of_the_law(found: list[StepDemand]) -> None:
    # Parts are shares of the whole step, so that none is longer than it.
    steps = [
        StepDemand(
            whole_ms=d.whole_ms,
            memory_ms=0.0,
            arithmetic_ms=0.0,
            least_memory_ms=d.least_memory_ms * d.whole_ms,
            least_arithmetic_ms=d.least_arithmetic_ms * d.whole_ms,
        )
        for d in found
    ]
    base = np.array([step.whole_ms for step in steps])
    memory = np.array([step.least_memory_ms for step in steps])
    arithmetic = np.array([step.least_arithmetic_ms for step in steps])
    empty = np.zeros(0)
    world = state.World(
        clock=empty,
        request=empty,
        llm=empty,
        member=empty,
        prefill=empty,
        decode_step=empty,
        prefill_knot=empty,
        per_square_ms=empty,
        job_base_ms=base,
        job_memory_ms=memory,
        job_arithmetic_ms=arithmetic,
    )
    by_memory, by_arithmetic = called(world, len(steps))
    ours = base + (by_memory - 1.0) * memory + (by_arithmetic - 1.0) * arithmetic
    jobs = [Job(sm_share_frac=1.0 / len(steps), step=step) for step in steps]
    assert ours.tolist() == pytest.approx(
        together_ms(jobs, SmSharing.published()), rel=1e-6
    )
