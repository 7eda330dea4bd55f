"""Runs of decode steps in a unit, whose speed changes with what runs beside them.

A run of an unchanged batch has the closed form of `planner.simulator.steps`. When
another step begins or ends, the steps that are over are counted, the part of the step
under way that is done stays done, and the rest goes on at the new speed.
"""

from typing import Any

from planner.multiplexing.stretch_kernel import (
    gather_jobs,
    set_decode_speed,
    stretches,
)
from planner.multiplexing.unit_state import NONE
from planner.simulator.compiled import compiled, inlined
from planner.simulator.steps import run_ms, steps_until


@compiled
def settle_decode(w: Any, llm: int) -> None:
    """Count the steps of a run that are over; the one under way begins the run."""
    model = w.llm[llm]
    elapsed = w.clock[0].now_ms - model.run_start_ms
    if model.run_steps <= 1 or elapsed <= 0.0:
        return
    batch, kv = model.num_members, model.kv_tokens
    over = steps_until(elapsed, model.fixed_ms, model.slope_ms, batch, kv) - 1
    over = min(over, model.run_steps - 1)
    if over <= 0:
        return
    duration = run_ms(over, model.fixed_ms, model.slope_ms, batch, kv)
    model.run_start_ms += duration
    model.run_steps -= over
    model.step += over
    model.kv_tokens += batch * over
    model.held_tokens += batch * over
    model.num_decode_tokens += batch * over
    model.decode_busy_ms += duration


@inlined
def set_end(w: Any, llm: int) -> None:
    """When the run ends at its speed."""
    model = w.llm[llm]
    model.run_end_ms = model.run_start_ms + run_ms(
        model.run_steps,
        model.fixed_ms,
        model.slope_ms,
        model.num_members,
        model.kv_tokens,
    )


@compiled
def shorten(w: Any, llm: int, steps: int) -> None:
    """End a run after so many steps from its beginning, if it does not end before."""
    model = w.llm[llm]
    if steps < model.run_steps:
        model.run_steps = steps
        set_end(w, llm)


@compiled
def limit_run(w: Any, llm: int) -> None:
    """End a settled run where its tokens would exceed the quota."""
    model = w.llm[llm]
    room = (model.quota_tokens - model.held_tokens) // model.num_members
    shorten(w, llm, max(1, room))


@inlined
def cut_run(w: Any, llm: int) -> None:
    """End a run with the step under way, as the batch can change there."""
    if w.llm[llm].run_steps > 1:
        settle_decode(w, llm)
        shorten(w, llm, 1)


@inlined
def retime(w: Any) -> None:
    """Give everything under way the speed at which it runs beside the rest."""
    clock, job = w.clock[0], w.prefill[0]
    for llm in range(w.llm.shape[0]):
        if w.llm[llm].is_decoding:
            settle_decode(w, llm)
    by_memory, by_arithmetic = stretches(w, gather_jobs(w))
    if job.llm != NONE:
        job.left_frac -= (clock.now_ms - job.settled_ms) / job.duration_ms
        job.settled_ms = clock.now_ms
        job.duration_ms = (
            job.alone_ms
            + (by_memory - 1.0) * job.memory_ms
            + (by_arithmetic - 1.0) * job.arithmetic_ms
        )
        job.end_ms = clock.now_ms + max(0.0, job.left_frac) * job.duration_ms
    for llm in range(w.llm.shape[0]):
        model = w.llm[llm]
        if not model.is_decoding:
            continue
        done_frac = 0.0
        step_ms = model.fixed_ms + model.slope_ms * model.kv_tokens
        if step_ms > 0.0:
            done_frac = min(1.0, (clock.now_ms - model.run_start_ms) / step_ms)
        set_decode_speed(w, llm, by_memory, by_arithmetic)
        step_ms = model.fixed_ms + model.slope_ms * model.kv_tokens
        model.decode_busy_ms += clock.now_ms - model.run_start_ms - done_frac * step_ms
        model.run_start_ms = clock.now_ms - done_frac * step_ms
        set_end(w, llm)
    clock.is_changed = 0
