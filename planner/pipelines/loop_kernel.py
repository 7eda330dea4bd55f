"""The closed-loop simulation of a layout, compiled: admission, steps, journeys.

A step of a machine serves everything that waits: prompt chunks up to a budget and
decodes up to a number. What leaves a machine for the next in the same step travels in
one message, decodes before chunks; a link sends one message after the other. All that
happens at one instant is handled before steps start: what arrives together is batched.
"""

import math
from typing import Any

from planner.pipelines.loop_state import (
    ARRIVED,
    DECODES,
    INSTANT_MS,
    NONE,
    PROMPTS,
    STEP_DONE,
)
from planner.simulator.compiled import compiled, entry_point, inlined
from planner.simulator.events import pop, schedule


@entry_point
def run(w: Any) -> None:
    """Run until the end of the measured time."""
    clock = w.clock[0]
    num_machines = w.machine.shape[0]
    admit(w)
    while True:
        next_ms = w.slot[w.heap[0]].time_ms if clock.heap_size > 0 else math.inf
        if clock.num_waiting > 0 and next_ms > clock.now_ms + INSTANT_MS:
            start_waiting(w)
            continue
        if next_ms > clock.end_ms:
            break
        which = pop(w)
        clock.now_ms = max(clock.now_ms, next_ms)
        if which < num_machines:
            end_step(w, which)
        else:
            arrive(w, which - num_machines)
    clock.now_ms = clock.end_ms
    count_in_flight(w, 0)


@inlined
def start_waiting(w: Any) -> None:
    """Start steps on the idle machines that something has happened to."""
    clock = w.clock[0]
    for i in range(clock.num_waiting):
        w.machine[w.waiting[i]].is_waiting = 0
        if not w.machine[w.waiting[i]].is_busy:
            start_step(w, w.waiting[i])
    clock.num_waiting = 0


@compiled
def mark_waiting(w: Any, machine: int) -> None:
    """Something has happened to a machine: it may start a step before time goes on."""
    clock = w.clock[0]
    if not w.machine[machine].is_waiting:
        w.machine[machine].is_waiting = 1
        w.waiting[clock.num_waiting] = machine
        clock.num_waiting += 1


# --- Requests -------------------------------------------------------------------------


@compiled
def admit(w: Any) -> None:
    """Let requests in while few prompts are under way and a route has KV room."""
    clock = w.clock[0]
    while clock.free_request != NONE and clock.prompts_under_way < clock.max_prompts:
        at = clock.next_request % w.input_tokens.shape[0]
        kept = w.input_tokens[at] + w.output_tokens[at]
        request = clock.free_request
        req = w.request[request]
        if not choose_route(w, request, kept):
            if clock.in_flight > 0 or clock.refused_in_row == w.input_tokens.shape[0]:
                return
            clock.num_refused += 1  # longer than the KV room of an empty fleet
            clock.refused_in_row += 1
            clock.next_request += 1
            continue
        clock.refused_in_row = 0
        clock.next_request += 1
        clock.free_request = req.next_free
        req.input_tokens = w.input_tokens[at]
        req.output_tokens = w.output_tokens[at]
        req.left_tokens = w.output_tokens[at]
        req.chunks_back = 0
        clock.prompts_under_way += 1
        reserve(w, request, kept)
        count_in_flight(w, 1)
        send_prompt(w, request)


@inlined
def choose_route(w: Any, request: int, kept: int) -> bool:
    """Walk to the last layer, at every node on to the least loaded hop with room.

    Loads are tokens over planned flow, so in the long run flows are as planned.
    """
    coordinator = w.machine.shape[0]
    node, hops = coordinator, 0
    while True:
        chosen = NONE
        least = math.inf
        for hop in range(w.hop_start[node], w.hop_start[node + 1]):
            target = w.hop_target[hop]
            if target != coordinator:
                layers = w.machine[target].layers - w.hop_skip[hop]
                if w.machine[target].kv_free < kept * layers:
                    continue
            load = w.hop_load[hop] + kept / w.hop_weight[hop]
            if load < least:
                chosen, least = hop, load
        if chosen == NONE:
            return False
        w.route_hop[request, hops] = chosen
        node = w.hop_target[chosen]
        if node == coordinator:
            w.request[request].num_hops = hops
            return True
        w.route_machine[request, hops] = node
        w.route_skip[request, hops] = w.hop_skip[chosen]
        hops += 1


@compiled
def reserve(w: Any, request: int, kept: int) -> None:
    """Take KV room for the whole request on its route, and load its hops."""
    req = w.request[request]
    for i in range(req.num_hops):
        mach = w.machine[w.route_machine[request, i]]
        mach.kv_free -= kept * (mach.layers - w.route_skip[request, i])
    for i in range(req.num_hops + 1):
        hop = w.route_hop[request, i]
        w.hop_load[hop] += kept / w.hop_weight[hop]


@compiled
def release(w: Any, request: int) -> None:
    """A request is answered: free its KV room and its place."""
    clock = w.clock[0]
    req = w.request[request]
    kept = req.input_tokens + req.output_tokens
    for i in range(req.num_hops):
        mach = w.machine[w.route_machine[request, i]]
        mach.kv_free += kept * (mach.layers - w.route_skip[request, i])
    req.next_free = clock.free_request
    clock.free_request = request
    count_in_flight(w, -1)


@compiled
def count_in_flight(w: Any, change: int) -> None:
    """Add up requests under way over the measured time."""
    clock = w.clock[0]
    since = max(clock.in_flight_since_ms, clock.measure_from_ms)
    if clock.now_ms > since:
        clock.in_flight_ms += clock.in_flight * (clock.now_ms - since)
    clock.in_flight_since_ms = clock.now_ms
    clock.in_flight += change


@compiled
def send_prompt(w: Any, request: int) -> None:
    """Cut the prompt in chunks and send them to the first machine, in order."""
    clock = w.clock[0]
    req = w.request[request]
    per_request = w.item.shape[0] // w.request.shape[0]
    done, chunk = 0, 0
    while done < req.input_tokens:
        item = request * per_request + 1 + chunk
        it = w.item[item]
        it.position = 0
        it.past_tokens = done
        it.tokens = min(clock.chunk_tokens, req.input_tokens - done)
        done += it.tokens
        chunk += 1
        num_bytes = clock.token_bytes * it.tokens
        send(w, w.machine.shape[0], w.route_machine[request, 0], item, num_bytes)
    req.num_chunks = chunk


# --- Journeys -------------------------------------------------------------------------


@compiled
def send(w: Any, source: int, target: int, head: int, num_bytes: float) -> None:
    """Send a list of items over a link, behind what is on it already."""
    clock = w.clock[0]
    free_ms = max(clock.now_ms, w.link_free_ms[source, target])
    free_ms += num_bytes * w.link_ms_per_byte[source, target]
    w.link_free_ms[source, target] = free_ms
    arrival_ms = free_ms + w.link_latency_ms[source, target]
    schedule(w, w.machine.shape[0] + head, arrival_ms, ARRIVED)


@inlined
def target_of(w: Any, item: int) -> int:
    """The node an item goes to next: the coordinator behind its last machine."""
    it = w.item[item]
    if it.position == w.request[it.request].num_hops:
        return int(w.machine.shape[0])
    return int(w.route_machine[it.request, it.position])


@compiled
def gather(w: Any, item: int) -> None:
    """Put a decode into the message to its next node."""
    target = target_of(w, item)
    message = w.message[target]
    w.item[item].next = NONE
    if message.head == NONE:
        message.head = item
        w.targets[w.clock[0].num_targets] = target
        w.clock[0].num_targets += 1
    else:
        w.item[message.tail].next = item
    message.tail = item
    message.size += 1


@compiled
def send_messages(w: Any, source: int) -> None:
    """Send what was gathered."""
    clock = w.clock[0]
    for i in range(clock.num_targets):
        target = w.targets[i]
        message = w.message[target]
        is_hop = max(source, target) < w.machine.shape[0]
        size = clock.hop_bytes if is_hop else clock.token_bytes
        send(w, source, target, message.head, size * message.size)
        message.head = NONE
        message.size = 0
    clock.num_targets = 0


@inlined
def arrive(w: Any, head: int) -> None:
    """A message has arrived: at the coordinator, or in the queue of a machine."""
    node = target_of(w, head)
    if node == w.machine.shape[0]:
        item = head
        while item != NONE:
            following = w.item[item].next
            receive(w, item)
            item = following
        send_messages(w, node)
        admit(w)
        return
    tail = head
    while w.item[tail].next != NONE:
        tail = w.item[tail].next
    queue = w.queue[node, w.item[head].is_decode]
    if queue.head == NONE:
        queue.head = head
    else:
        w.item[queue.tail].next = head
    queue.tail = tail
    mark_waiting(w, node)


@compiled
def receive(w: Any, item: int) -> None:
    """A chunk or a token is back at the coordinator; the next token sets out."""
    clock = w.clock[0]
    it = w.item[item]
    req = w.request[it.request]
    is_measured = clock.now_ms >= clock.measure_from_ms
    if it.is_decode:
        clock.num_tokens += is_measured
        clock.round_trip_ms += is_measured * (clock.now_ms - req.sent_ms)
    else:
        req.chunks_back += 1
        if req.chunks_back < req.num_chunks:
            return
        clock.prompts_under_way -= 1
        clock.num_prompts += is_measured
    req.left_tokens -= 1
    if req.left_tokens == 0:
        release(w, it.request)
        return
    decode = it.request * (w.item.shape[0] // w.request.shape[0])
    w.item[decode].position = 0
    req.sent_ms = clock.now_ms
    gather(w, decode)


# --- Steps ----------------------------------------------------------------------------


@compiled
def start_step(w: Any, machine: int) -> None:
    """Start a step of an idle machine over what waits there, if anything does."""
    clock = w.clock[0]
    mach = w.machine[machine]
    for layer in range(mach.layers):
        work = w.work[layer]
        work.tokens, work.squares, work.decodes, work.kv_tokens = 0, 0.0, 0, 0.0
    take(w, machine, PROMPTS, clock.step_tokens)
    if clock.mixes_decodes or w.queue[machine, PROMPTS].batch == NONE:
        take(w, machine, DECODES, clock.max_decodes)
    if w.queue[machine, PROMPTS].batch == w.queue[machine, DECODES].batch == NONE:
        return
    mach.is_busy = 1
    duration = step_ms(w, machine)
    end = clock.now_ms + duration
    begin = max(clock.now_ms, clock.measure_from_ms)
    mach.busy_ms += max(0.0, min(end, clock.end_ms) - begin)
    schedule(w, machine, end, STEP_DONE)


@compiled
def take(w: Any, machine: int, which: int, budget: int) -> None:
    """Move items from a queue to the batch: one at least, more within the budget."""
    queue = w.queue[machine, which]
    queue.batch = queue.head
    taken, last, item = 0, NONE, queue.head
    while item != NONE:
        it = w.item[item]
        if last != NONE and taken + it.tokens > budget:
            break
        taken += it.tokens
        work = w.work[w.route_skip[it.request, it.position]]
        if which == DECODES:
            req = w.request[it.request]
            work.decodes += 1
            work.kv_tokens += req.input_tokens + req.output_tokens - req.left_tokens
        else:
            work.tokens += it.tokens
            work.squares += it.tokens * (it.tokens + 2.0 * it.past_tokens)
        last, item = item, it.next
    queue.head = item
    if last != NONE:
        w.item[last].next = NONE


@inlined
def step_ms(w: Any, machine: int) -> float:
    """Duration of the step: every layer on what has entered up to it."""
    mach = w.machine[machine]
    tokens, decodes, squares, kv_tokens = 0, 0, 0.0, 0.0
    total = layer_ms = 0.0
    for layer in range(mach.layers):
        work = w.work[layer]
        if work.tokens > 0 or work.decodes > 0:
            tokens += work.tokens
            squares += work.squares
            decodes += work.decodes
            kv_tokens += work.kv_tokens
            whole = whole_step_ms(w, machine, tokens, squares, decodes, kv_tokens)
            layer_ms = whole / mach.layers
        total += layer_ms
    return total


@inlined
def whole_step_ms(
    w: Any, machine: int, tokens: int, squares: float, decodes: int, kv_tokens: float
) -> float:
    """Duration of a step through all layers (see `models.latency.step_table`)."""
    decode_ms = w.decode_slope[machine, decodes] * kv_tokens
    if tokens == 0:
        return float(w.decode_fixed[machine, decodes] + decode_ms)
    linear_ms = w.linear_ms[machine, tokens + decodes] + w.mixed_extra[machine, decodes]
    return float(linear_ms + w.prefill_squares[machine] * squares + decode_ms)


@inlined
def end_step(w: Any, machine: int) -> None:
    """A step is over: its items go on to their next nodes."""
    clock = w.clock[0]
    item = w.queue[machine, DECODES].batch
    while item != NONE:
        following = w.item[item].next
        w.item[item].position += 1
        gather(w, item)
        item = following
    send_messages(w, machine)
    item = w.queue[machine, PROMPTS].batch
    while item != NONE:
        it = w.item[item]
        following = it.next
        it.next = NONE
        it.position += 1
        target = target_of(w, item)
        is_hop = target != w.machine.shape[0]
        num_bytes = clock.hop_bytes * it.tokens if is_hop else clock.token_bytes
        send(w, machine, target, item, num_bytes)
        item = following
    w.queue[machine, DECODES].batch = NONE
    w.queue[machine, PROMPTS].batch = NONE
    w.machine[machine].is_busy = 0
    mark_waiting(w, machine)
