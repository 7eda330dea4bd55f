"""Pipeline stages: starting work, ending it, and cutting a fast-forwarded run short.

With one stage, a decode group runs until its first member finishes (or blocks run out)
in one event; whoever becomes ready in between joins at the next step boundary. With
several stages each step of each stage is an event, and groups that meet at the first
stage go on together.
"""

from typing import Any

from planner.simulator.batching import (
    advance_group,
    can_prefill,
    end_decode,
    end_prefill,
    form_decode,
    form_prefill,
)
from planner.simulator.compiled import compiled, inlined
from planner.simulator.events import schedule
from planner.simulator.kv import steps_that_fit
from planner.simulator.lifecycle import start_pulls
from planner.simulator.queues import mark_dirty, push_batch, push_group
from planner.simulator.rotation import end_capped, form_capped, pass_on_capped
from planner.simulator.state import (
    DECODE,
    DECODE_DONE,
    IDLE,
    NONE,
    PREFILL,
    PREFILL_DONE,
)
from planner.simulator.steps import prefill_ms, run_ms, steps_until


@compiled
def run_prefill(w: Any, stage: int, batch: int) -> None:
    """Start a prefill batch on an idle stage."""
    st = w.stage[stage]
    first = w.request[batch]
    duration = prefill_ms(w, st.table, first.batch_tokens, first.batch_squares)
    st.doing = PREFILL
    st.current = batch
    st.run_start_ms = w.clock[0].now_ms
    schedule(w, stage, w.clock[0].now_ms + duration, PREFILL_DONE)


@compiled
def run_decode(w: Any, stage: int, group: int) -> None:
    """Start a run of decode steps of `group` on an idle stage."""
    clock = w.clock[0]
    st = w.stage[stage]
    grp = w.group[group]
    rep = w.replica[st.replica]
    st.doing = DECODE
    st.current = group
    st.run_start_ms = clock.now_ms
    st.run_fixed_ms = w.decode_fixed[st.table, grp.num_members]
    st.run_slope_ms = w.decode_slope[st.table, grp.num_members]
    st.run_steps = 1
    if clock.fast_forward and rep.num_stages == 1 and rep.max_step_context == 0:
        wanted = w.member_finish[grp.offset] - grp.step
        st.run_steps = steps_that_fit(w, group, wanted, rep.block_tokens)
    schedule_run(w, stage)


@compiled
def schedule_run(w: Any, stage: int) -> None:
    """Set the event at the end of the stage's run."""
    st = w.stage[stage]
    grp = w.group[st.current]
    duration = run_ms(
        st.run_steps, st.run_fixed_ms, st.run_slope_ms, grp.num_members, grp.kv_tokens
    )
    schedule(w, stage, st.run_start_ms + duration, DECODE_DONE)


@inlined
def cut_run(w: Any, stage: int) -> None:
    """End the run at the next step boundary, because the batch can change there."""
    st = w.stage[stage]
    if st.run_steps == 1:
        return
    grp = w.group[st.current]
    elapsed = w.clock[0].now_ms - st.run_start_ms
    steps = steps_until(
        elapsed, st.run_fixed_ms, st.run_slope_ms, grp.num_members, grp.kv_tokens
    )
    if steps < st.run_steps:
        st.run_steps = steps
        schedule_run(w, stage)


@inlined
def settle_run(w: Any, stage: int) -> None:
    """Count the steps of the run that are over, so that free blocks are true now."""
    st = w.stage[stage]
    if st.doing != DECODE or st.run_steps == 1:
        return
    group = st.current
    grp = w.group[group]
    elapsed = w.clock[0].now_ms - st.run_start_ms
    over = (
        steps_until(
            elapsed, st.run_fixed_ms, st.run_slope_ms, grp.num_members, grp.kv_tokens
        )
        - 1
    )
    over = min(over, st.run_steps - 1)
    if over <= 0:
        return
    duration = run_ms(
        over, st.run_fixed_ms, st.run_slope_ms, grp.num_members, grp.kv_tokens
    )
    count_decode(w, stage, over, duration)
    advance_group(w, group, over, grp.step + over)
    st.run_start_ms += duration
    st.run_steps -= over


@inlined
def count_prefill(w: Any, stage: int) -> None:
    """Add a finished prefill step to the stage's counters."""
    st = w.stage[stage]
    st.prefill_busy_ms += w.clock[0].now_ms - st.run_start_ms
    st.num_prefill_steps += 1
    st.num_prefill_tokens += int(w.request[st.current].batch_tokens)


@compiled
def count_decode(w: Any, stage: int, steps: int, duration_ms: float) -> None:
    """Add finished decode steps to the stage's counters."""
    st = w.stage[stage]
    st.decode_busy_ms += duration_ms
    st.num_decode_steps += steps
    st.num_decode_tokens += steps * w.group[st.current].num_members


@inlined
def start_stage(w: Any, stage: int) -> None:
    """Give an idle stage its next work: prompts before decodes."""
    st = w.stage[stage]
    replica = st.replica
    rep = w.replica[replica]
    if stage > rep.first_stage:
        if st.prefill_head != NONE:
            batch = st.prefill_head
            st.prefill_head = w.request[batch].batch_next
            run_prefill(w, stage, batch)
        elif rep.max_step_context > 0:
            group = form_capped(w, stage)
            if group != NONE:
                run_decode(w, stage, group)
        elif st.decode_head != NONE:
            group = st.decode_head
            st.decode_head = w.group[group].next
            run_decode(w, stage, group)
        return
    batch = form_prefill(w, replica)
    if batch != NONE:
        run_prefill(w, stage, batch)
        if rep.pull_head != NONE:
            mark_dirty(w, replica)  # pulls wait while preempted prompts do
        return
    if rep.max_step_context > 0:
        group = form_capped(w, stage)
    else:
        group = form_decode(w, replica)
    if group != NONE:
        run_decode(w, stage, group)


@inlined
def end_stage(w: Any, stage: int) -> None:
    """A stage is done: its batch moves on, or leaves the pipeline."""
    st = w.stage[stage]
    rep = w.replica[st.replica]
    current = st.current
    if st.doing == PREFILL:
        count_prefill(w, stage)
        st.doing = IDLE
        st.current = NONE
        if st.is_last:
            end_prefill(w, st.replica, current)
        else:
            push_batch(w, stage + 1, current)
            mark_dirty(w, st.replica)
        return
    steps = st.run_steps
    grp = w.group[current]
    duration = run_ms(
        steps, st.run_fixed_ms, st.run_slope_ms, grp.num_members, grp.kv_tokens
    )
    count_decode(w, stage, steps, duration)
    st.doing = IDLE
    st.current = NONE
    if not st.is_last and rep.max_step_context > 0:
        pass_on_capped(w, stage, current)
    elif not st.is_last:
        push_group(w, stage + 1, current)
        mark_dirty(w, st.replica)
    elif rep.max_step_context > 0:
        end_capped(w, current)
    else:
        end_decode(w, current, steps)


@inlined
def pump(w: Any, replica: int) -> None:
    """Start everything `replica` can start now."""
    rep = w.replica[replica]
    first = rep.first_stage
    st = w.stage[first]
    if rep.pull_head != NONE:
        settle_run(w, first)
        start_pulls(w, replica)
        if st.doing == DECODE and st.run_steps > 1:
            fits = steps_that_fit(w, st.current, st.run_steps, rep.block_tokens)
            if fits < st.run_steps:
                st.run_steps = fits
                schedule_run(w, first)
    for stage in range(first + rep.num_stages - 1, first - 1, -1):
        if w.stage[stage].doing == IDLE:
            start_stage(w, stage)
    if st.doing == DECODE and (rep.join_head != NONE or can_prefill(w, replica)):
        cut_run(w, first)
