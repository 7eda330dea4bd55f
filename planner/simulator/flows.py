"""Fair sharing of links: the rates of concurrent KV transfers.

Reference
    Bertsekas and Gallager, "Data Networks", 2nd edition, 1992, section 6.5.2: max-min
    fair rates by progressive filling.

Idea
    Transfers that cross a link at the same time share it, as RDMA and TCP flows do.
    Between two starts or ends of a transfer all rates are constant, so the next end is
    known.

Steps
    1. When a transfer starts or ends, the bytes sent so far are counted at the old
       rates.
    2. All rates rise together until a link is full, or a transfer has the rate of its
       route alone. Its rate is then final; the others go on, in what is left.
    3. The transfer that will be done first is the next event of the network.

Differences from the paper
    - A transfer takes different shares of its links (it is spread over GPU pairs):
      r bytes/ms occupy a link for r times the link's time a byte, at most 1 in all.

Cost      O(rounds * flows * links of a route) for each start and end
Guarantee no link carries more than it can; no rate can rise without lowering one that
          is no greater
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.events import cancel, schedule
from planner.simulator.state import TRANSFER_DONE

UNSET = -1.0
"""Rate of a flow whose rate is not final."""

ROUNDING = 1e-12


@inlined
def network_slot(w: Any) -> int:
    """Slot of the next end of a flow."""
    return int(w.stage.shape[0] + w.request.shape[0])


@inlined
def route_of(w: Any, request: int) -> int:
    """Route between the replicas of `request`."""
    req = w.request[request]
    return int(req.prefill_replica * w.replica.shape[0] + req.decode_replica)


@optional
def start_flow(w: Any, request: int, size: float) -> None:
    """`size` bytes of `request` are on their way from now on."""
    clock = w.clock[0]
    send_until_now(w)
    w.request[request].link_ms = math.nan
    w.request[request].left_bytes = size
    w.flow[clock.num_flows] = request
    clock.num_flows += 1
    share_links(w)


@compiled
def drop_flow(w: Any, request: int) -> None:
    """`request` is not sent any further, if it is on its way."""
    clock = w.clock[0]
    for place in range(clock.num_flows):
        if w.flow[place] == request:
            send_until_now(w)
            clock.num_flows -= 1
            for later in range(place, clock.num_flows):
                w.flow[later] = w.flow[later + 1]
            share_links(w)
            return


@compiled
def send_until_now(w: Any) -> None:
    """Count what was sent at the present rates since they were set."""
    clock = w.clock[0]
    elapsed = clock.now_ms - clock.flows_ms
    clock.flows_ms = clock.now_ms
    if elapsed <= 0.0:
        return
    for place in range(clock.num_flows):
        req = w.request[w.flow[place]]
        req.left_bytes = max(0.0, req.left_bytes - req.rate_bytes_per_ms * elapsed)


@compiled
def share_links(w: Any) -> None:
    """Set all rates, and when the first flow will be done."""
    clock = w.clock[0]
    num = clock.num_flows
    for place in range(num):
        w.request[w.flow[place]].rate_bytes_per_ms = UNSET
    num_unset = num
    while num_unset > 0:
        measure_links(w)
        level = math.inf
        for place in range(num):
            if w.request[w.flow[place]].rate_bytes_per_ms == UNSET:
                level = min(level, highest_rate(w, w.flow[place]))
        for place in range(num):
            request = w.flow[place]
            req = w.request[request]
            is_unset = req.rate_bytes_per_ms == UNSET
            if is_unset and highest_rate(w, request) <= level * (1.0 + ROUNDING):
                req.rate_bytes_per_ms = level
                num_unset -= 1
    soonest = math.inf
    for place in range(num):
        req = w.request[w.flow[place]]
        left_ms = req.left_bytes / req.rate_bytes_per_ms
        if left_ms < soonest:
            soonest = left_ms
            clock.first_flow = w.flow[place]
    if num == 0:
        cancel(w, network_slot(w))
    else:
        schedule(w, network_slot(w), clock.now_ms + soonest, TRANSFER_DONE)


@inlined
def measure_links(w: Any) -> None:
    """Room that final rates leave on the links, and time a byte of all the others."""
    num = w.clock[0].num_flows
    for place in range(num):
        route = route_of(w, w.flow[place])
        for i in range(w.route[route].first_edge, w.route[route + 1].first_edge):
            w.edge[w.edge_share[i].edge].room = 1.0
            w.edge[w.edge_share[i].edge].demand = 0.0
    for place in range(num):
        route = route_of(w, w.flow[place])
        rate = w.request[w.flow[place]].rate_bytes_per_ms
        for i in range(w.route[route].first_edge, w.route[route + 1].first_edge):
            edge = w.edge[w.edge_share[i].edge]
            if rate == UNSET:
                edge.demand += w.edge_share[i].ms_per_byte
            elif w.edge_share[i].ms_per_byte > 0.0:
                edge.room -= rate * w.edge_share[i].ms_per_byte


@compiled
def highest_rate(w: Any, request: int) -> float:
    """Rate at which the route of `request`, or the first of its links, is full."""
    route = route_of(w, request)
    rate = math.inf
    if w.route[route].ms_per_byte > 0.0:
        rate = 1.0 / w.route[route].ms_per_byte
    for i in range(w.route[route].first_edge, w.route[route + 1].first_edge):
        if w.edge_share[i].ms_per_byte > 0.0:
            edge = w.edge[w.edge_share[i].edge]
            rate = min(rate, max(0.0, edge.room) / edge.demand)
    return float(rate)
