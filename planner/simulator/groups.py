"""Decode groups: the requests of a decode batch, in a heap by their last step.

A group counts its own steps. A member that joins at step s with r tokens to go finishes
at step s + r, so nothing is done to members that keep running: its context at any step
is `input + output - (finish - step)`.
"""

from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.state import NONE


@inlined
def context_tokens(w: Any, group: int, position: int) -> int:
    """Tokens the member at `position` attends to in the group's next step."""
    grp = w.group[group]
    offset = grp.offset + position
    request = w.request[w.member[offset].request]
    left = w.member[offset].finish - grp.step
    return int(request.input_tokens + request.output_tokens - left)


@compiled
def take_group(w: Any, replica: int) -> int:
    """An empty group from the replica's free list."""
    rep = w.replica[replica]
    group = rep.free_group
    grp = w.group[group]
    rep.free_group = grp.next
    grp.next = NONE
    grp.num_members = 0
    grp.step = 0
    grp.covered_step = 0
    grp.kv_tokens = 0
    grp.head = NONE
    grp.num_padded = 0
    grp.late_head = NONE
    grp.num_late = 0
    grp.chunk_tokens = 0
    w.residues[group, :] = 0
    return int(group)


@compiled
def release_group(w: Any, group: int) -> None:
    """Give an empty group back."""
    rep = w.replica[w.group[group].replica]
    w.group[group].next = rep.free_group
    rep.free_group = group


@compiled
def add_member(w: Any, group: int, request: int, finish_step: int) -> None:
    """Put `request` in the heap of `group`, to finish at `finish_step`."""
    grp = w.group[group]
    offset = grp.offset
    position = grp.num_members
    grp.num_members += 1
    req = w.request[request]
    total = req.input_tokens + req.output_tokens
    grp.kv_tokens += total - (finish_step - grp.step)
    block = w.replica[grp.replica].block_tokens
    w.residues[group, (total - finish_step) % block] += 1
    while position > 0:
        parent = (position - 1) >> 1
        if w.member[offset + parent].finish <= finish_step:
            break
        w.member[offset + position].finish = w.member[offset + parent].finish
        w.member[offset + position].request = w.member[offset + parent].request
        position = parent
    w.member[offset + position].finish = finish_step
    w.member[offset + position].request = request


@compiled
def remove_member(w: Any, group: int, position: int) -> int:
    """Take the member at `position` out of the heap; returns its request."""
    grp = w.group[group]
    offset = grp.offset
    request = w.member[offset + position].request
    finish = w.member[offset + position].finish
    req = w.request[request]
    total = req.input_tokens + req.output_tokens
    grp.kv_tokens -= total - (finish - grp.step)
    block = w.replica[grp.replica].block_tokens
    w.residues[group, (total - finish) % block] -= 1
    last = grp.num_members - 1
    grp.num_members = last
    if position == last:
        return int(request)
    moved_finish = w.member[offset + last].finish
    moved_request = w.member[offset + last].request
    _place(w, offset, last, position, moved_finish, moved_request)
    return int(request)


@inlined
def _place(
    w: Any, offset: int, size: int, position: int, finish: int, request: int
) -> None:
    while position > 0:
        parent = (position - 1) >> 1
        if w.member[offset + parent].finish <= finish:
            break
        w.member[offset + position].finish = w.member[offset + parent].finish
        w.member[offset + position].request = w.member[offset + parent].request
        position = parent
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if (
            child + 1 < size
            and w.member[offset + child + 1].finish < w.member[offset + child].finish
        ):
            child += 1
        if w.member[offset + child].finish >= finish:
            break
        w.member[offset + position].finish = w.member[offset + child].finish
        w.member[offset + position].request = w.member[offset + child].request
        position = child
    w.member[offset + position].finish = finish
    w.member[offset + position].request = request


@inlined
def latest_member(w: Any, group: int) -> int:
    """Position of the member that was admitted last: the first to be preempted."""
    grp = w.group[group]
    best = 0
    for position in range(1, grp.num_members):
        request = w.member[grp.offset + position].request
        if (
            w.request[request].admission
            > w.request[w.member[grp.offset + best].request].admission
        ):
            best = position
    return best
