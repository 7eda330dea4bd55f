"""Layer-wise KV transfers: the decode replica is ready before the prefill ends.

Reference
    Patel et al., "Splitwise", ISCA 2024, section 4.2 and figure 11.

Idea
    The KV cache of a layer is final as soon as the layer is prefilled. Sending it while
    the next layers are computed leaves little to wait for after the first token.

Steps
    1. When a prompt starts its prefill, a decode replica is chosen, and the request
       joins its queue of pulls.
    2. The replica admits it in turn, with blocks and a place. From then on, and not
       before the first layer is there, the links of the route are taken for it, as for
       any transfer.
    3. With L layers, prefilled in the same time each from s to e, and T for the whole
       KV cache, layer i is sent after s + i (e - s) / L and after the layer before it.
       A transfer whose turn on the links is at t then ends at

           max(max(t, s + (e - s) / L) + T, e + T / L) + the fixed times.

    4. A request that is not admitted when its prefill ends is pulled as usual.

Differences from the paper
    - The prefill is not slowed by what is sent beside it (the paper measured little).
    - First come, first served, links are booked for the whole time T from t on, not for
      each layer apart: a slow prefill leaves gaps that the next transfer may fill, but
      not before its turn. Under fair sharing the bytes flow from the admission on, as
      if all were there; what the first layer comes later is added at the end.

Assumes   layers of equal KV size and time; of a chunked prompt the last layer is whole
Cost      no event more than a serialized transfer
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, optional
from planner.simulator.events import schedule
from planner.simulator.flows import drop_flow, route_of
from planner.simulator.kv import allocate, blocks_for, num_blocks
from planner.simulator.promises import has_pools, keeps_books, promise_decode
from planner.simulator.queues import mark_dirty, push_pull, remove_pull
from planner.simulator.routing import choose_decode
from planner.simulator.state import NONE, TRANSFER_DONE


@compiled
def queue_pull(w: Any, request: int, target: int) -> None:
    """`request` is to be decoded at `target`, which will fetch its KV cache."""
    req = w.request[request]
    rep = w.replica[target]
    req.decode_replica = target
    rep.work_tokens += req.input_tokens
    rep.num_requests += 1
    if keeps_books(w) and not has_pools(w):
        promise_decode(w, target, request, 1)
    push_pull(w, target, request)
    mark_dirty(w, target)


@optional
def begin_stream(w: Any, request: int) -> None:
    """The prefill starts: a layer-wise transfer looks for its target now.

    One that can never hold the request is left to be refused after the prefill.
    """
    req = w.request[request]
    if w.decode_replicas.shape[0] == 0:
        return
    target = choose_decode(w, req.prefill_replica, request)
    if target == NONE:
        return
    total = req.input_tokens + req.output_tokens
    if blocks_for(w, target, request, total) <= w.replica[target].capacity_blocks:
        req.begun_ms = w.clock[0].now_ms
        queue_pull(w, request, target)


@compiled
def transfer_ms(w: Any, request: int) -> float:
    """Time of the whole KV cache on its route alone, without the fixed times."""
    size = w.clock[0].kv_bytes_per_token * w.request[request].input_tokens
    bytes_ms = size * w.route[route_of(w, request)].ms_per_byte
    return float(blocks_ms(w, request) + bytes_ms)


@compiled
def blocks_ms(w: Any, request: int) -> float:
    """Time of the connector for the blocks of a prompt."""
    req = w.request[request]
    source = w.replica[req.prefill_replica]
    blocks = num_blocks(req.input_tokens, source.block_tokens)
    return float(w.clock[0].transfer_block_ms * blocks)


@optional
def end_stream(w: Any, request: int) -> None:
    """The prefill of an admitted layer-wise transfer is over."""
    req = w.request[request]
    req.made_ms = w.clock[0].now_ms
    if not math.isnan(req.link_ms):
        schedule_stream_end(w, request)


@optional
def schedule_stream_end(w: Any, request: int) -> None:
    """Both the prefill and the time on the links are known: so is the end."""
    clock = w.clock[0]
    req = w.request[request]
    route = route_of(w, request)
    whole_ms = transfer_ms(w, request)
    first_made = req.begun_ms + (req.made_ms - req.begun_ms) / clock.num_layers
    if clock.is_fair:  # all bytes could be sent by `link_ms`
        wait_ms = max(0.0, first_made - req.transfer_start_ms)
        end = req.link_ms + blocks_ms(w, request) + wait_ms
    else:
        end = max(req.link_ms, first_made) + whole_ms
    end = max(end, req.made_ms + whole_ms / clock.num_layers)
    end += w.route[route].latency_ms + clock.layer_wise_ms
    schedule(w, w.stage.shape[0] + request, end, TRANSFER_DONE)


@optional
def drop_stream(w: Any, request: int) -> None:
    """The target of a transfer forgets a request it will not decode."""
    req = w.request[request]
    target = req.decode_replica
    rep = w.replica[target]
    if math.isnan(req.transfer_start_ms):
        remove_pull(w, target, request)
    else:
        drop_flow(w, request)
        blocks = blocks_for(w, target, request, req.input_tokens + 1)
        allocate(w, target, -blocks)
        rep.num_running -= 1
    rep.work_tokens -= req.input_tokens
    if keeps_books(w):
        promise_decode(w, target, request, -1)
    req.decode_replica = NONE
    req.begun_ms = math.nan
    req.transfer_start_ms = math.nan
    mark_dirty(w, target)
