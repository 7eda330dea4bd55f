"""Pipeline stages: starting work, ending it, and cutting a fast-forwarded run short.

With one stage, a decode group runs until its first member finishes (or blocks run out)
in one event; whoever becomes ready in between joins at the next step boundary. With
several stages each step of each stage is an event, and groups stay apart: they are the
micro-batches (`micro_batches`).
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
from planner.simulator.chunks import can_begin, form_chunked, next_chunk
from planner.simulator.compiled import compiled, inlined
from planner.simulator.decode_admission import watches_steps
from planner.simulator.events import schedule
from planner.simulator.gaps import count_first_step, count_run
from planner.simulator.kv import steps_that_fit
from planner.simulator.prompt_order import take_window
from planner.simulator.queues import mark_dirty, push_batch, push_group
from planner.simulator.rotation import end_capped, form_capped, pass_on_capped
from planner.simulator.state import (
    DECODE,
    DECODE_DONE,
    IDLE,
    MIXED,
    NONE,
    PREFILL,
    PREFILL_DONE,
)
from planner.simulator.steps import mixed_ms, prefill_ms, run_ms, steps_until
from planner.simulator.transfers import start_pulls


@inlined
def count_active(w: Any, replica: int) -> None:
    """A stage starts: the replica is at work from when the first one does."""
    rep = w.replica[replica]
    if rep.num_busy == 0:
        rep.active_since_ms = w.clock[0].now_ms
    rep.num_busy += 1


@inlined
def count_idle(w: Any, replica: int) -> None:
    """A stage ends; whatever the others do not work on meanwhile is a bubble."""
    rep = w.replica[replica]
    rep.num_busy -= 1
    if rep.num_busy == 0:
        rep.active_ms += w.clock[0].now_ms - rep.active_since_ms


@compiled
def run_prefill(w: Any, stage: int, batch: int) -> None:
    """Start a prefill batch on an idle stage."""
    st = w.stage[stage]
    count_active(w, st.replica)
    first = w.request[batch]
    duration = prefill_ms(w, stage, first.batch_tokens, first.batch_squares)
    if w.replica[st.replica].cache != NONE:
        reuse = w.reuse[batch]
        loaded = max(reuse.batch_load_ms, reuse.batch_ready_ms - w.clock[0].now_ms)
        duration = max(duration, loaded)
    st.doing = PREFILL
    st.current = batch
    st.run_start_ms = w.clock[0].now_ms
    schedule(w, stage, w.clock[0].now_ms + duration, PREFILL_DONE)


@compiled
def run_group(w: Any, stage: int, group: int) -> None:
    """Start a group on an idle stage: a step with prompt chunks, or a run without."""
    if w.group[group].chunk_tokens == 0:
        run_decode(w, stage, group)
        return
    st = w.stage[stage]
    count_active(w, st.replica)
    st.doing = MIXED
    st.current = group
    st.run_start_ms = w.clock[0].now_ms
    st.run_steps = 1
    w.group[group].width = w.group[group].num_members
    duration = mixed_ms(w, stage, group)
    if w.replica[st.replica].cache != NONE:
        grp = w.group[group]
        duration = max(duration, grp.load_ms, grp.ready_ms - w.clock[0].now_ms)
    schedule(w, stage, w.clock[0].now_ms + duration, PREFILL_DONE)


@compiled
def run_decode(w: Any, stage: int, group: int) -> None:
    """Start a run of decode steps of `group` on an idle stage."""
    clock = w.clock[0]
    st = w.stage[stage]
    grp = w.group[group]
    rep = w.replica[st.replica]
    count_active(w, st.replica)
    st.doing = DECODE
    st.current = group
    st.run_start_ms = clock.now_ms
    grp.width = grp.num_members + grp.num_padded
    batch = w.batch[st.table, grp.width]
    st.run_fixed_ms = batch.fixed_ms
    st.run_slope_ms = batch.slope_ms
    st.run_steps = 1
    is_long = rep.max_step_context == 0 and rep.is_stepwise == 0
    if clock.fast_forward and rep.num_stages == 1 and is_long:
        wanted = w.member[grp.offset].finish - grp.step
        st.run_steps = steps_that_fit(w, group, wanted, rep.block_tokens)
    schedule_run(w, stage)


@compiled
def schedule_run(w: Any, stage: int) -> None:
    """Set the event at the end of the stage's run."""
    st = w.stage[stage]
    grp = w.group[st.current]
    duration = run_ms(
        st.run_steps, st.run_fixed_ms, st.run_slope_ms, grp.width, grp.kv_tokens
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
        elapsed, st.run_fixed_ms, st.run_slope_ms, grp.width, grp.kv_tokens
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
    grp = w.group[st.current]
    elapsed = w.clock[0].now_ms - st.run_start_ms
    over = (
        steps_until(elapsed, st.run_fixed_ms, st.run_slope_ms, grp.width, grp.kv_tokens)
        - 1
    )
    settle_steps(w, stage, min(over, st.run_steps - 1))


@compiled
def settle_steps(w: Any, stage: int, over: int) -> None:
    """Count the first `over` steps of the run, which goes on after them."""
    if over <= 0:
        return
    st = w.stage[stage]
    group = st.current
    grp = w.group[group]
    duration = run_ms(over, st.run_fixed_ms, st.run_slope_ms, grp.width, grp.kv_tokens)
    if w.clock[0].counts_gaps:
        count_run(w, stage, over, duration)
    count_decode(w, stage, over, duration)
    advance_group(w, group, over, grp.step + over)
    st.run_start_ms += duration
    st.run_steps -= over


@compiled
def record_span(
    w: Any, stage: int, steps: int, end_ms: float, prompt_tokens: int
) -> None:
    """Keep what the stage has just done for the timeline, while there is room."""
    clock = w.clock[0]
    if clock.num_spans == w.span.shape[0]:
        clock.num_spans_left_out += 1
        return
    st = w.stage[stage]
    span = w.span[clock.num_spans]
    clock.num_spans += 1
    span.start_ms = st.run_start_ms
    span.end_ms = end_ms
    span.stage = stage
    span.num_steps = steps
    span.num_prompt_tokens = prompt_tokens
    span.num_decodes = 0 if st.doing == PREFILL else w.group[st.current].num_members
    span.doing = st.doing if span.num_decodes > 0 else PREFILL


@inlined
def count_prefill(w: Any, stage: int) -> None:
    """Add a finished prefill step to the stage's counters."""
    st = w.stage[stage]
    st.prefill_busy_ms += w.clock[0].now_ms - st.run_start_ms
    st.num_prefill_steps += 1
    tokens = int(w.request[st.current].batch_tokens)
    st.num_prefill_tokens += tokens
    if w.span.shape[0] > 0:
        record_span(w, stage, 1, w.clock[0].now_ms, tokens)


@compiled
def count_decode(w: Any, stage: int, steps: int, duration_ms: float) -> None:
    """Add finished decode steps to the stage's counters."""
    st = w.stage[stage]
    st.decode_busy_ms += duration_ms
    st.num_decode_steps += steps
    st.num_decode_tokens += steps * w.group[st.current].num_members
    if w.span.shape[0] > 0:
        record_span(w, stage, steps, st.run_start_ms + duration_ms, 0)


@inlined
def count_mixed(w: Any, stage: int) -> None:
    """Add a finished step with prompt chunks to the stage's counters."""
    st = w.stage[stage]
    grp = w.group[st.current]
    duration_ms = w.clock[0].now_ms - st.run_start_ms
    st.num_prefill_tokens += grp.chunk_tokens
    if w.span.shape[0] > 0:
        record_span(w, stage, 1, w.clock[0].now_ms, grp.chunk_tokens)
    if grp.num_members == 0:
        st.prefill_busy_ms += duration_ms
        st.num_prefill_steps += 1
        return
    st.mixed_busy_ms += duration_ms
    st.num_mixed_steps += 1
    st.num_mixed_tokens += grp.chunk_tokens + grp.num_members
    st.num_decode_tokens += grp.num_members


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
            run_group(w, stage, group)
        return
    if rep.is_chunked:
        group = form_chunked(w, replica)
        if group != NONE:
            run_group(w, stage, group)
            if w.group[group].chunk_tokens > 0 and rep.pull_head != NONE:
                mark_dirty(w, replica)  # pulls wait while preempted prompts do
        return
    batch = NONE
    if may_begin_prompts(w, replica):
        batch = form_prefill(w, replica)
    if batch != NONE:
        rep.num_flying += int(shares_pipeline(w, replica))
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
def shares_pipeline(w: Any, replica: int) -> bool:
    """Whether batches of prompts count among the micro-batches under way.

    They do where the replica decodes too, as in engines: a scheduler has as many
    batches under way as there are stages, whatever is in them.
    """
    rep = w.replica[replica]
    return bool(rep.decodes and rep.max_step_context == 0 and rep.is_request_level == 0)


@inlined
def may_begin_prompts(w: Any, replica: int) -> bool:
    """Whether the policy lets a batch of prompts into the pipeline now."""
    rep = w.replica[replica]
    if rep.is_request_level:
        return bool(rep.num_running == 0)
    is_full = rep.num_flying >= rep.num_stages
    return not (is_full and shares_pipeline(w, replica))


@inlined
def end_stage(w: Any, stage: int) -> None:
    """A stage is done: its batch moves on, or leaves the pipeline."""
    st = w.stage[stage]
    rep = w.replica[st.replica]
    current = st.current
    count_idle(w, st.replica)
    if st.doing == PREFILL:
        count_prefill(w, stage)
        st.doing = IDLE
        st.current = NONE
        if st.is_last:
            rep.num_flying -= int(shares_pipeline(w, st.replica))
            end_prefill(w, st.replica, current)
        else:
            push_batch(w, stage + 1, current)
            mark_dirty(w, st.replica)
        return
    steps = st.run_steps
    if st.doing == MIXED:
        count_mixed(w, stage)
        if st.is_last and w.clock[0].counts_gaps:
            count_first_step(w, current, w.clock[0].now_ms)
    else:
        grp = w.group[current]
        duration = run_ms(
            steps, st.run_fixed_ms, st.run_slope_ms, grp.width, grp.kv_tokens
        )
        if st.is_last and w.clock[0].counts_gaps and rep.max_step_context == 0:
            if rep.num_stages == 1:
                count_run(w, stage, steps, duration)
            else:
                count_first_step(w, current, w.clock[0].now_ms)
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
def is_prompt_due(w: Any, stage: int) -> bool:
    """Whether a waiting prompt goes into the step after the one under way."""
    st = w.stage[stage]
    rep = w.replica[st.replica]
    if rep.is_request_level:
        return False
    if not rep.is_chunked:
        return bool(can_prefill(w, st.replica))
    decodes = w.group[st.current].num_members if rep.mixes_decodes else 0
    if rep.cache != NONE and rep.partial_head == NONE:
        # Others that share the cache may shorten the prompt until the run ends.
        return bool(can_begin(w, st.replica) and decodes < rep.max_batch_tokens)
    return bool(next_chunk(w, st.replica, decodes) > 0)


@inlined
def pump(w: Any, replica: int) -> None:
    """Start everything `replica` can start now."""
    rep = w.replica[replica]
    first = rep.first_stage
    st = w.stage[first]
    take_window(w, replica)
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
    if st.doing == DECODE and (
        rep.join_head != NONE or is_prompt_due(w, first) or watches_steps(w, replica)
    ):
        cut_run(w, first)
