"""The order of waiting prompts: windows of them, sorted by length.

TetriInfer (arXiv 2401.11181, section 3.3.1) sorts the prompts of a window, first come
first served, shortest or longest first, and takes the next window when this one is used
up: so nobody is passed over for ever. A request that is preempted goes before all.
"""

from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.state import FCFS, LONGEST_FIRST, NONE


@inlined
def prompt_key(w: Any, replica: int, request: int) -> int:
    """What prompts are sorted by, least first: the tokens to compute, or minus them."""
    req = w.request[request]
    tokens = req.input_tokens + req.done_tokens
    return int(-tokens if w.replica[replica].prompt_order == LONGEST_FIRST else tokens)


@compiled
def take_window(w: Any, replica: int) -> None:
    """Sort the first prompts of the queue, when those sorted before are used up.

    Prompts of equal length stay in order.
    """
    rep = w.replica[replica]
    if rep.prompt_order == FCFS or rep.window_left > 0:
        return
    head, tail = NONE, NONE
    waiting = rep.prompt_head
    while waiting != NONE and rep.window_left < rep.prompt_window:
        request = waiting
        waiting = w.request[request].next
        rep.window_left += 1
        key = prompt_key(w, replica, request)
        before, after = NONE, head
        while after != NONE and prompt_key(w, replica, after) <= key:
            before, after = after, w.request[after].next
        w.request[request].next = after
        if before == NONE:
            head = request
        else:
            w.request[before].next = request
        if after == NONE:
            tail = request
    if head == NONE:
        return
    rep.prompt_head = head
    w.request[tail].next = waiting
    if waiting == NONE:
        rep.prompt_tail = tail
