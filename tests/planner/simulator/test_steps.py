"""Step latencies in the kernel, and the closed form of a run of decode steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.latency.step_table import StepTable
from planner.simulator.compiled import entry_point
from planner.simulator.simulate import simulate
from planner.simulator.steps import run_ms, steps_until
from planner.simulator.system import Phase
from tests.planner.simulator.systems import tiny_replica, tiny_requests, tiny_system


@entry_point
def run_of(steps, fixed_ms, slope_ms, batch, kv):
    return run_ms(steps, fixed_ms, slope_ms, batch, kv)


@entry_point
def until(elapsed_ms, fixed_ms, slope_ms, batch, kv):
    return steps_until(elapsed_ms, fixed_ms, slope_ms, batch, kv)


def test_a_run_is_the_sum_of_its_steps():
    # 3 requests, 10 tokens: steps of 2 + 0.5 * (10, 13, 16) = 7, 8.5 and 10 ms.
    assert run_of(3, 2.0, 0.5, 3, 10) == 25.5


SLOPES = st.one_of(st.just(0.0), st.floats(1e-12, 1e-2), st.just(1e-300))


@given(
    steps=st.integers(1, 100_000_000),
    share=st.floats(0.0, 1.0, exclude_min=True),
    fixed_ms=st.floats(1e-3, 1e3),
    slope_ms=SLOPES,
    batch=st.integers(1, 4096),
    context=st.integers(1, 100_000),
)
@settings(max_examples=500, deadline=None)
def test_steps_until_is_the_first_boundary_at_or_after(
    steps, share, fixed_ms, slope_ms, batch, context
):
    run = (fixed_ms, slope_ms, batch, batch * context)
    before = run_of(steps - 1, *run)
    elapsed_ms = before + share * (run_of(steps, *run) - before)
    found = until(elapsed_ms, *run)
    assert run_of(found, *run) >= elapsed_ms
    assert found == 1 or run_of(found - 1, *run) < elapsed_ms


def test_no_time_elapsed_means_the_next_boundary_is_the_first():
    assert until(0.0, 1.0, 0.5, 2, 8) == 1
    assert until(0.0, 0.0, 0.0, 2, 8) == 1


@given(
    knots=st.lists(st.integers(0, 5000), min_size=1, max_size=5, unique=True),
    values=st.lists(st.floats(0.0, 500.0), min_size=5, max_size=5),
    squares=st.floats(0.0, 1e-4),
    tokens=st.integers(1, 100_000_000),
)
@settings(max_examples=200, deadline=None)
def test_a_lone_prompt_takes_what_its_table_says(knots, values, squares, tokens):
    """A second replica's longer table pads the arrays; that must not show."""
    table = StepTable(
        prefill_tokens=tuple(float(k) for k in sorted(knots)),
        prefill_ms=tuple(values[: len(knots)]),
        prefill_per_sq_token_ms=squares,
        decode_batch=(1.0,),
        decode_ms=(1.0,),
        decode_per_kv_token_ms=(0.0,),
    )
    long_table = StepTable(
        prefill_tokens=tuple(float(k) for k in range(7)),
        prefill_ms=(1.0,) * 7,
        decode_batch=(1.0,),
        decode_ms=(1.0,),
        decode_per_kv_token_ms=(0.0,),
    )
    system = tiny_system(
        tiny_replica(Phase.PREFILL, table), tiny_replica(Phase.PREFILL, long_table)
    )
    result = simulate(system, tiny_requests((0.0, tokens, 1), (0.0, tokens, 1)))
    chosen = [table, long_table]
    expected = [chosen[r].prefill_step_ms([tokens]) for r in result.prefill_replica]
    assert result.prefill_replica[0] in (0, 1)
    np.testing.assert_allclose(result.ttft_ms[:1], expected[:1], rtol=1e-9, atol=1e-9)


def test_decode_steps_use_the_knots_of_the_batch_size():
    # G is 2 ms for one request and 4 ms for two; H is 0.
    table = StepTable(
        prefill_tokens=(0.0,),
        prefill_ms=(0.0,),
        decode_batch=(1.0, 2.0),
        decode_ms=(2.0, 4.0),
        decode_per_kv_token_ms=(0.0, 0.0),
    )
    system = tiny_system(tiny_replica(Phase.DECODE, table))
    # Two together: 4 ms to the end of r0; r1 alone for two steps of 2 ms more.
    result = simulate(system, tiny_requests((0.0, 1, 2), (0.0, 1, 4)))
    assert result.finish_ms == pytest.approx([4.0, 8.0])
