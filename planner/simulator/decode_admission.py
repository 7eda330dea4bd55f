"""When a decode replica fetches a prefilled request, by the forecast of its output.

Reference
    Hu et al., TetriInfer, arXiv 2401.11181, 2024, section 3.4: greedy, reserve-static
    and reserve-dynamic. Blocks for the prompt and one token are needed in any case.
"""

from typing import Any

from planner.simulator.compiled import inlined, optional
from planner.simulator.groups import context_tokens
from planner.simulator.kv import blocks_for, can_allocate
from planner.simulator.micro_batches import GROUPS_PER_STAGE
from planner.simulator.promises import forecast_tokens
from planner.simulator.state import (
    DECODE,
    GREEDY,
    NONE,
    RESERVE_DYNAMIC,
    RESERVE_STATIC,
)
from planner.simulator.steps import run_ms

_FAR = 1 << 60


@inlined
def has_forecast_room(w: Any, replica: int, request: int) -> bool:
    """Whether the admission rule of the replica lets it fetch `request` now.

    An empty replica always may.
    """
    rep = w.replica[replica]
    if rep.decode_admission == GREEDY or rep.num_running == 0:
        return True
    if rep.decode_admission == RESERVE_STATIC:
        blocks = blocks_for(w, replica, request, forecast_tokens(w, request))
        return bool(can_allocate(w, replica, blocks))
    return bool(fits_after_shortest(w, replica, request))


@inlined
def watches_steps(w: Any, replica: int) -> bool:
    """Whether a request waits whose chances change with every decode step."""
    rep = w.replica[replica]
    return bool(rep.pull_head != NONE and rep.decode_admission == RESERVE_DYNAMIC)


@optional
def fits_after_shortest(w: Any, replica: int, request: int) -> bool:
    """Whether there is room when the decode forecast to end first has ended.

    Until then everyone, with the new request, gets as many tokens; the one that ends
    gives its context back. One past its forecast is about to end.
    """
    rep = w.replica[replica]
    least, freed, num = _FAR, 0, 0
    end = rep.first_group + GROUPS_PER_STAGE * rep.num_stages
    for group in range(rep.first_group, end):
        ended = ended_steps(w, replica, group)
        for position in range(w.group[group].num_members):
            member = w.member[w.group[group].offset + position].request
            context = context_tokens(w, group, position) + ended
            left = max(forecast_tokens(w, member) - context, 0)
            num += 1
            if left < least or (left == least and context > freed):
                least, freed = left, context
    joining = rep.join_head
    while joining != NONE:
        req = w.request[joining]
        context = req.input_tokens + req.done_tokens
        left = max(forecast_tokens(w, joining) - context, 0)
        num += 1
        if left < least or (left == least and context > freed):
            least, freed = left, context
        joining = req.next
    if num == 0:
        return True
    tokens = w.request[request].input_tokens + least * num
    return bool(tokens <= rep.free_blocks * rep.block_tokens + freed)


@inlined
def ended_steps(w: Any, replica: int, group: int) -> int:
    """1 when a step in the middle of the run of `group` ends just now."""
    rep = w.replica[replica]
    st = w.stage[rep.first_stage]
    if st.current != group or st.doing != DECODE or st.run_steps == 1:
        return 0
    grp = w.group[group]
    step = run_ms(1, st.run_fixed_ms, st.run_slope_ms, grp.width, grp.kv_tokens)
    return int(st.run_start_ms + step <= w.clock[0].now_ms)
