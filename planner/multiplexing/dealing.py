"""Dealing requests among units as planned, in order of arrival."""

from collections.abc import Sequence

import numba
import numpy as np

from planner.multiplexing.unit_state import Array
from planner.workload.requests import Requests

TURNED_AWAY = -1
"""Where a request goes that the placement does not promise to serve."""


def deal(num: int, promised_rps: Sequence[float], rate_rps: float) -> Array:
    """Unit of each of `num` requests in order, or `TURNED_AWAY`; shape (num,).

    Each goes where the promise is furthest from being kept (smooth weighted round
    robin), so that every unit gets its share of any stretch of the traffic.
    """
    promised = np.array([*promised_rps, max(0.0, rate_rps - sum(promised_rps))])
    weight = promised / promised.sum()
    if (weight > 0).sum() == 1:
        target = np.full(num, int(np.argmax(weight)), dtype=np.int64)
    else:
        target = _in_turns(num, weight)
    target[target == len(promised_rps)] = TURNED_AWAY
    return target


@numba.njit(cache=True)
def _in_turns(num: int, weight: Array) -> Array:
    credit = np.zeros(len(weight))
    target = np.empty(num, dtype=np.int64)
    for i in range(num):
        chosen = 0
        for unit in range(len(weight)):
            credit[unit] += weight[unit]
            if credit[unit] > credit[chosen]:
                chosen = unit
        credit[chosen] -= 1.0
        target[i] = chosen
    return target


def only(requests: Requests, kept: Array) -> Requests:
    """Some of the requests, by a mask or by their indices in order of arrival."""
    return Requests(
        arrival_ms=requests.arrival_ms[kept],
        input_tokens=requests.input_tokens[kept],
        output_tokens=requests.output_tokens[kept],
    )
