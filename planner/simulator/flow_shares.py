"""Routing by shares: every replica and KV route gets its part of the requests, in turn.

Reference
    Balinski and Young, "The Quota Method of Apportionment", American Mathematical
    Monthly 82(7), 1975: whole seats that stay within one of their quotas at any size.

Idea
    The maximum flow of a plan says which share of the requests each prefill replica
    gets, and which part of these goes to each decode replica. A gateway with weights
    can be told so. Of those who have had less than their share by now, the next request
    goes to the one that would first fall a whole request behind.

Steps
    1. With each request, everyone's credit grows by his share.
    2. Of those with credit, the one whose credit would reach a whole request first
       gets it (at equal times the first), and pays one. Credit is the quota so far
       minus the requests so far.

Differences from the paper
    - credits in place of counts, so that replicas may leave and come back; their shares
      then go to the others in proportion, and where nobody with a share is left, to the
      replica with the least work
    - prefill replicas share the arrivals; for each of them apart, decode replicas share
      what it has prefilled

Assumes   shares of the routes, and of a replica to itself its share of the arrivals; a
          replica that changes its phase has none
Cost      O(replicas) a request
Guarantee after n requests a share of w has had between floor(n w) and ceil(n w)
"""

import math
from typing import Any

from planner.simulator.compiled import compiled
from planner.simulator.state import NONE

ROUNDING = 1e-9
"""Credit that is nothing but the rounding of sums."""


@compiled
def choose_by_share(w: Any, candidates: Any, source: int) -> int:
    """Who gets an arrival (`source` NONE), or a request prefilled at `source`.

    NONE when no candidate has a share.
    """
    num = w.replica.shape[0]
    total = 0.0
    for replica in candidates:
        first = replica if source == NONE else source
        total += w.route[first * num + replica].share
    best = NONE
    best_is_due = False
    soonest = math.inf
    for replica in candidates:
        first = replica if source == NONE else source
        route = w.route[first * num + replica]
        if route.share <= 0.0:
            continue
        # 1. The credit grows.
        share = route.share / total
        route.credit += share
        # 2. The one who would be a whole request behind first.
        is_due = route.credit > ROUNDING
        behind = (1.0 - route.credit) / share
        is_first = is_due == best_is_due and behind < soonest - ROUNDING
        if is_first or (is_due and not best_is_due) or best == NONE:
            best, best_is_due, soonest = replica, is_due, behind
    if best != NONE:
        first = best if source == NONE else source
        w.route[first * num + best].credit -= 1.0
    return int(best)
