"""Gaps between the tokens of a request (ITL), counted in a histogram.

Everyone in a decode group has the last token at the same time, but those who have just
joined or come from another group: they are `late`, in a list, with a time of their own
until the next step ends. So a step costs O(1) and O(number of late members), and a run
of k steps O(bins its step times pass through): they rise by the same amount from each
step to the next.
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.state import GAP_BINS_PER_E, GAP_LEAST_MS, NONE, NUM_GAP_BINS


@inlined
def gap_bin(gap_ms: float) -> int:
    """Bin of a gap: 0 up to the least, then so many for each factor of e."""
    if gap_ms < GAP_LEAST_MS:
        return 0
    place = 1 + int(math.log(gap_ms / GAP_LEAST_MS) * GAP_BINS_PER_E)
    return min(place, NUM_GAP_BINS - 1)


@compiled
def add_gaps(w: Any, gap_ms: float, count: int) -> None:
    """Count `count` gaps of one length."""
    w.gap_counts[gap_bin(gap_ms)] += count


@compiled
def add_rising_gaps(
    w: Any, first_ms: float, rise_ms: float, steps: int, count: int
) -> None:
    """Count `count` gaps for each of `steps` steps of first, first + rise, ... ms."""
    step = 0
    while step < steps:
        which = gap_bin(first_ms + rise_ms * step)
        following = steps
        if rise_ms > 0.0 and which < NUM_GAP_BINS - 1:
            upper_ms = GAP_LEAST_MS * math.exp(which / GAP_BINS_PER_E)
            beyond = math.ceil((upper_ms - first_ms) / rise_ms)
            following = max(step + 1, min(steps, int(beyond)))
        w.gap_counts[which] += count * (following - step)
        step = following


@compiled
def push_late(w: Any, group: int, request: int) -> None:
    """A member whose last token was at another time than that of the others."""
    grp = w.group[group]
    w.request[request].next = grp.late_head
    grp.late_head = request
    grp.num_late += 1


@compiled
def detach(w: Any, group: int, request: int) -> None:
    """A member leaves between two tokens: it keeps the time of the last one."""
    grp = w.group[group]
    if math.isnan(w.request[request].last_token_ms):
        w.request[request].last_token_ms = grp.token_ms
        return
    previous, late = NONE, grp.late_head
    while late != request:
        previous, late = late, w.request[late].next
    if previous == NONE:
        grp.late_head = w.request[request].next
    else:
        w.request[previous].next = w.request[request].next
    grp.num_late -= 1


@compiled
def count_first_step(w: Any, group: int, end_ms: float) -> None:
    """Every member has a token at `end_ms`."""
    grp = w.group[group]
    regular = grp.num_members - grp.num_late
    if regular > 0:
        add_gaps(w, end_ms - grp.token_ms, regular)
    late = grp.late_head
    while late != NONE:
        req = w.request[late]
        add_gaps(w, end_ms - req.last_token_ms, 1)
        req.last_token_ms = math.nan
        late = req.next
    grp.late_head = NONE
    grp.num_late = 0
    grp.token_ms = end_ms


@inlined
def count_run(w: Any, stage: int, steps: int, duration_ms: float) -> None:
    """Every member has `steps` tokens from the run of a stage, before it is counted."""
    st = w.stage[stage]
    grp = w.group[st.current]
    first_ms = st.run_fixed_ms + st.run_slope_ms * grp.kv_tokens
    count_first_step(w, st.current, st.run_start_ms + first_ms)
    if steps > 1:
        rise_ms = st.run_slope_ms * grp.width
        add_rising_gaps(w, first_ms + rise_ms, rise_ms, steps - 1, grp.num_members)
        grp.token_ms = st.run_start_ms + duration_ms


@compiled
def count_token(w: Any, request: int, now_ms: float) -> None:
    """One request has a token outside a group: its gap, and the time of the token."""
    req = w.request[request]
    add_gaps(w, now_ms - req.last_token_ms, 1)
    req.last_token_ms = now_ms
