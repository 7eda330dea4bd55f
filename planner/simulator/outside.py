"""Events from outside: replicas fail, come back, drain, change their phase.

Idea
    A schedule says what happens when. The event loop does it after the steps and
    transfers that end at that time, and before the requests that arrive then.

Steps
    1. A replica that fails or drains takes no more requests: it leaves the list that
       the routers choose from.
    2. A failure loses every KV cache on the replica and every transfer from it or to
       it, all before the first of them is sent on. Those requests start again, in the
       order of their arrival: the prompt and the tokens that the user has are prefilled
       on another replica, and the rest is decoded (counted as recomputed).
       Requests that only waited there are sent elsewhere (rerouted); so are those whose
       KV cache is whole on a prefill replica, and which it had not begun to fetch.
       Who had all tokens and only waited for the batch (request level) has ended.
    3. A role flip drains; when nothing is left on the replica, it switches.
    4. A replica that serves (again) joins the list, and requests that have waited for
       one of its phase are sent on, first come first served.
    5. The prefix cache of a failed replica is lost with it, one that is global is not;
       copies of other replicas' blocks that are on the way arrive all the same. A lost
       request is not refused: it has been let in.

Assumptions
    - Of what happens at one time, events of the schedule come before replicas that
      start to serve.
    - A failure is noticed at once. Links stay booked for transfers that it breaks.
    - A step under way when a replica fails yields no token. Its time counts as busy.
    - Arrivals wait at the router while no replica takes prompts; prefilled requests
      wait on their prefill replica while none of their slice decodes.
    - A failure during a drain cancels a flip; one during the switching does not.
    - What is prefilled again is not sent layer by layer on the way to its new target
      earlier than any other prompt: the rules of a new request hold.

Cost      O(requests so far) for a failure, O(replicas) otherwise; nothing without
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.events import cancel, schedule
from planner.simulator.flows import drop_flow, network_slot
from planner.simulator.kv import allocate
from planner.simulator.lifecycle import (
    finish,
    leave_prefill,
    route_prompt,
    send_to_decode,
    start_again,
    takes_prompts,
)
from planner.simulator.prefix_cache import lose_cache
from planner.simulator.promises import has_pools, promise_decode
from planner.simulator.queues import mark_dirty, remove_unsent
from planner.simulator.stages import count_idle, settle_steps
from planner.simulator.state import (
    ARRIVED,
    DECODE,
    DRAIN,
    FAIL,
    FLIP,
    IDLE,
    MIXED,
    NONE,
    OUTSIDE,
    PREFILL,
    SERVES,
    TO_BE_CHOSEN,
)
from planner.simulator.steps import run_ms, steps_until
from planner.simulator.streams import drop_stream


@optional
def happen(w: Any, which: int) -> None:
    """The timer `which` of a replica has run out, or the next event is due."""
    clock = w.clock[0]
    if which < w.replica.shape[0]:
        open_replica(w, which)
        return
    event = w.outside[clock.next_outside]
    clock.next_outside += 1
    if clock.next_outside < w.outside.shape[0]:
        due = w.outside[clock.next_outside].at_ms
        schedule(w, first_timer(w) + w.replica.shape[0], due, OUTSIDE)
    rep = w.replica[event.replica]
    if event.kind == FAIL:
        fail(w, event.replica)
    elif event.kind == DRAIN or event.kind == FLIP:
        close_replica(w, event.replica)
        rep.is_flipping = int(event.kind == FLIP)
        rep.switch_ms = event.takes_ms
        mark_dirty(w, event.replica)
    else:
        due = clock.now_ms + event.takes_ms
        schedule(w, first_timer(w) + event.replica, due, SERVES)


@inlined
def first_timer(w: Any) -> int:
    """Slot of the timer of the first replica."""
    return int(network_slot(w) + 1)


@compiled
def open_replica(w: Any, replica: int) -> None:
    """It serves from now on: routers may choose it, and it gets what has waited."""
    clock = w.clock[0]
    rep = w.replica[replica]
    rep.is_open = 1
    if rep.prefills:
        insert(w.prefill_replicas, clock.num_prefills, replica)
        clock.num_prefills += 1
    else:
        insert(w.decode_replicas, clock.num_decodes, replica)
        clock.num_decodes += 1
    while clock.wait_head != NONE and takes_prompts(w):
        request = clock.wait_head
        clock.wait_head = w.request[request].next
        route_prompt(w, request)
    request = clock.unsent_head
    clock.unsent_head = NONE
    clock.unsent_tail = NONE
    while request != NONE:
        following = w.request[request].pull_next
        send_to_decode(w, request)
        request = following


@compiled
def close_replica(w: Any, replica: int) -> None:
    """Routers do not choose it any more, and it does not come back by itself."""
    clock = w.clock[0]
    rep = w.replica[replica]
    cancel(w, first_timer(w) + replica)
    if rep.is_open == 0:
        return
    rep.is_open = 0
    if rep.prefills:
        clock.num_prefills -= 1
        remove(w.prefill_replicas, clock.num_prefills, replica)
        if clock.next_prefill >= clock.num_prefills:
            clock.next_prefill = 0
    else:
        clock.num_decodes -= 1
        remove(w.decode_replicas, clock.num_decodes, replica)
        if clock.next_decode >= clock.num_decodes:
            clock.next_decode = 0


@compiled
def insert(replicas: Any, size: int, replica: int) -> None:
    """Put `replica` into the first `size` entries, which rise."""
    place = size
    while place > 0 and replicas[place - 1] > replica:
        replicas[place] = replicas[place - 1]
        place -= 1
    replicas[place] = replica


@compiled
def remove(replicas: Any, size: int, replica: int) -> None:
    """Take `replica` out; `size` entries are left."""
    place = 0
    while replicas[place] != replica:
        place += 1
    while place < size:
        replicas[place] = replicas[place + 1]
        place += 1


@optional
def flip_if_empty(w: Any, replica: int) -> None:
    """A drained replica switches to the other phase."""
    rep = w.replica[replica]
    is_waiting = rep.prompt_head != NONE or rep.pull_head != NONE
    is_promised = rep.promised_tokens != 0  # to prompts on their way through the pools
    if is_waiting or is_promised or rep.free_blocks != rep.capacity_blocks:
        return
    rep.is_flipping = 0
    rep.prefills, rep.decodes = rep.decodes, rep.prefills
    rep.work_weight, rep.other_weight = rep.other_weight, rep.work_weight
    most, rep.max_micro_batch = rep.max_micro_batch, rep.other_micro_batch
    rep.other_micro_batch = most
    due = w.clock[0].now_ms + rep.switch_ms
    schedule(w, first_timer(w) + replica, due, SERVES)


@inlined
def fail(w: Any, replica: int) -> None:
    """Everything on the replica is lost; its requests go elsewhere."""
    clock = w.clock[0]
    close_replica(w, replica)
    w.replica[replica].is_flipping = 0
    note_tokens(w, replica)
    lost, last_lost, unsent, last_unsent = NONE, NONE, NONE, NONE
    seen = clock.next_arrival
    if w.turn.shape[0] > 0 or clock.is_ramped:  # later ones may have arrived before
        seen = w.request.shape[0]
    for request in range(seen):
        req = w.request[request]
        if req.status != ARRIVED or req.prefill_replica == NONE:
            continue
        if req.decode_replica == replica and req.done_tokens == req.output_tokens:
            finish(w, request)  # it has waited for the others of its batch
        elif is_lost(w, request, replica):
            let_go(w, request, replica)
            req.next = NONE
            if lost == NONE:
                lost = request
            else:
                w.request[last_lost].next = request
            last_lost = request
        elif req.decode_replica == replica and math.isnan(req.decode_ready_ms):
            drop_flow(w, request)
            req.decode_replica = TO_BE_CHOSEN if has_pools(w) else NONE
            req.begun_ms = math.nan
            req.transfer_start_ms = math.nan
            if req.done_tokens > 0:
                req.pull_next = NONE
                if unsent == NONE:
                    unsent = request
                else:
                    w.request[last_unsent].pull_next = request
                last_unsent = request
    clear(w, replica)
    while lost != NONE:
        request = lost
        lost = w.request[request].next
        start_again(w, request)
    while unsent != NONE:
        request = unsent
        unsent = w.request[request].pull_next
        send_to_decode(w, request)


@inlined
def is_lost(w: Any, request: int, replica: int) -> bool:
    """Whether `request` is on the replica, or its KV cache on the way from or to it."""
    req = w.request[request]
    if not math.isnan(req.decode_ready_ms):
        return bool(req.decode_replica == replica)
    if req.prefill_replica == replica:
        return True
    is_on_its_way = req.done_tokens > 0 and not math.isnan(req.transfer_start_ms)
    return bool(req.decode_replica == replica and is_on_its_way)


@inlined
def let_go(w: Any, request: int, replica: int) -> None:
    """The other end of a lost request's transfer forgets it."""
    req = w.request[request]
    if not math.isnan(req.decode_ready_ms):
        return
    cancel(w, w.stage.shape[0] + request)
    drop_flow(w, request)
    if req.prefill_replica != replica:
        leave_prefill(w, request)
    elif has_pools(w) and req.done_tokens == 0:
        if req.decode_replica >= 0 and req.decode_replica != replica:
            promise_decode(w, req.decode_replica, request, -1)
    elif req.decode_replica >= 0 and req.decode_replica != replica:
        drop_stream(w, request)
    elif req.decode_replica == NONE and req.done_tokens > 0:
        remove_unsent(w, request)


@inlined
def note_tokens(w: Any, replica: int) -> None:
    """Write down the tokens that every request has at the end of the last whole step.

    Under a cap on the context of a step they are written down anyway.
    """
    clock = w.clock[0]
    rep = w.replica[replica]
    st = w.stage[rep.first_stage]
    if rep.max_step_context > 0:
        return
    if st.doing == DECODE and st.run_steps > 1:
        settle_steps(w, rep.first_stage, steps_over(w, rep.first_stage))
    for group in range(w.group.shape[0]):
        grp = w.group[group]
        if grp.replica != replica:
            continue
        for position in range(grp.offset, grp.offset + grp.num_members):
            member = w.member[position]
            req = w.request[member.request]
            req.done_tokens = req.output_tokens - (member.finish - grp.step)
            if clock.counts_gaps and math.isnan(req.last_token_ms):
                req.last_token_ms = grp.token_ms


@inlined
def steps_over(w: Any, stage: int) -> int:
    """Steps of the stage's run that have ended by now, this moment included."""
    st = w.stage[stage]
    grp = w.group[st.current]
    elapsed = w.clock[0].now_ms - st.run_start_ms
    fixed, slope, kv = st.run_fixed_ms, st.run_slope_ms, grp.kv_tokens
    steps = steps_until(elapsed, fixed, slope, grp.width, kv)
    if run_ms(steps, fixed, slope, grp.width, kv) > elapsed:
        steps -= 1
    return int(min(steps, st.run_steps - 1))


@inlined
def clear(w: Any, replica: int) -> None:
    """An empty replica: nothing queued, resident or under way."""
    rep = w.replica[replica]
    for stage in range(rep.first_stage, rep.first_stage + rep.num_stages):
        stop_stage(w, stage)
    rep.free_group = NONE
    for group in range(w.group.shape[0]):
        if w.group[group].replica == replica:
            w.group[group].num_members = 0
            w.group[group].next = rep.free_group
            rep.free_group = group
    rep.idle_group = NONE
    rep.num_flying = 0
    rep.prompt_head = rep.prompt_tail = NONE
    rep.partial_head = rep.partial_tail = NONE
    rep.pull_head = rep.pull_tail = NONE
    rep.join_head = rep.join_tail = NONE
    rep.num_partial = 0
    rep.num_joining = 0
    rep.num_running = 0
    rep.batches_ended = rep.batches_begun
    rep.work_tokens = 0.0
    rep.window_left = 0
    rep.pending_tokens = rep.promised_tokens = 0
    rep.num_heavy = rep.num_light = rep.num_foreign = 0
    rep.ended_head = NONE
    rep.num_ended = 0
    rep.queue_ms = 0.0
    allocate(w, replica, rep.free_blocks - rep.capacity_blocks)
    lose_cache(w, replica)


@inlined
def stop_stage(w: Any, stage: int) -> None:
    """The stage drops what it does; the time it took was busy all the same."""
    st = w.stage[stage]
    cancel(w, stage)
    spent_ms = w.clock[0].now_ms - st.run_start_ms
    if st.doing != IDLE:
        count_idle(w, st.replica)
    if st.doing == PREFILL:
        st.prefill_busy_ms += spent_ms
    elif st.doing == DECODE:
        st.decode_busy_ms += spent_ms
    elif st.doing == MIXED and w.group[st.current].num_members > 0:
        st.mixed_busy_ms += spent_ms
    elif st.doing == MIXED:
        st.prefill_busy_ms += spent_ms
    st.doing = IDLE
    st.current = NONE
    st.prefill_head = st.prefill_tail = NONE
    st.decode_head = st.decode_tail = NONE
