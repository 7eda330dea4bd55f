"""What each replica has been promised: the books that routing policies go by.

Only the two policies that look at more than queues keep them. A request is entered with
its prompt and the forecast of its output, never with its true output.
"""

from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.queues import mark_dirty
from planner.simulator.state import SPLITWISE, TETRIINFER


@inlined
def keeps_books(w: Any) -> bool:
    """Whether the routing policy looks at promises."""
    return bool(w.clock[0].routing >= TETRIINFER)


@inlined
def has_pools(w: Any) -> bool:
    """Whether replicas are lent from phase to phase."""
    return bool(w.clock[0].routing == SPLITWISE)


@compiled
def promised_room(w: Any, replica: int) -> int:
    """Tokens of KV cache that nobody has been promised yet (below 0: too many)."""
    rep = w.replica[replica]
    return int(rep.capacity_blocks * rep.block_tokens - rep.promised_tokens)


@inlined
def forecast_tokens(w: Any, request: int) -> int:
    """Prompt and forecast output of a request."""
    req = w.request[request]
    return int(req.input_tokens + req.expected_output)


@optional
def promise_decode(w: Any, replica: int, request: int, sign: int) -> None:
    """Enter (sign 1) a request that decodes at `replica`, or strike it out (-1)."""
    rep = w.replica[replica]
    rep.promised_tokens += sign * forecast_tokens(w, request)
    if w.request[request].expected_output > w.clock[0].heavy_output:
        rep.num_heavy += sign
    else:
        rep.num_light += sign
    if not rep.decodes:
        rep.num_foreign += sign
    if rep.is_flipping:  # it may have waited for this one
        mark_dirty(w, replica)


@optional
def promise_prompt(w: Any, request: int) -> None:
    """Enter a request at the replica that prefills it."""
    req = w.request[request]
    rep = w.replica[req.prefill_replica]
    rep.num_foreign += rep.decodes
    if req.prefill_replica != req.decode_replica:
        rep.promised_tokens += req.input_tokens


@optional
def strike_prompt(w: Any, request: int) -> None:
    """The prompt is computed; one that stays is a decode like others from here on."""
    req = w.request[request]
    rep = w.replica[req.prefill_replica]
    if req.prefill_replica == req.decode_replica:
        rep.num_foreign -= rep.decodes


@optional
def strike_departure(w: Any, request: int) -> None:
    """The KV cache of a prompt has left the replica that computed it."""
    req = w.request[request]
    rep = w.replica[req.prefill_replica]
    rep.promised_tokens -= req.input_tokens
    rep.num_foreign -= rep.decodes
