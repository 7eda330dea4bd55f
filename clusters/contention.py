"""Max-min fairness: which rate each transfer gets when transfers share links.

Reference
    D. Bertsekas, R. Gallager, "Data Networks", 2nd ed. 1992, section 6.5.2
    (progressive filling).

Idea
    All transfers speed up together. When a link is full, those that cross it keep
    their rate, and the others go on. At the end every transfer crosses a full link on
    which nobody is faster.

Steps
    1. Every link offers an equal share of what it has left to its active transfers.
    2. The links with the smallest share are full: their transfers get that share.
    3. Take these rates off all links, and repeat with the other transfers.

Assumes   one fixed path a transfer; capacities > 0
Cost      one pass over all hops for every distinct level of rates
Guarantee exact, up to rounding
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_TIE_FRAC = 1e-9
"""Shares this close are one level, so that rounding does not split it."""


def max_min_rates(
    paths: Sequence[Sequence[int]], capacity_bytes_per_s: FloatArray
) -> FloatArray:
    """Max-min fair rates of simultaneous transfers.

    Parameters
    ----------
    paths
        For each transfer the indices of the edges it crosses.
    capacity_bytes_per_s
        Capacity of every edge, shape ``(num_edges,)``.

    Returns
    -------
    FloatArray
        Rates in bytes/s, shape ``(num_transfers,)``; inf for an empty path.
    """
    num_hops = np.array([len(path) for path in paths], dtype=np.int64)
    rates = np.full(len(paths), np.inf)
    if num_hops.sum() == 0:
        return rates
    hops = np.concatenate([np.asarray(path, dtype=np.int64) for path in paths])
    used, edge = np.unique(hops, return_inverse=True)
    transfer = np.repeat(np.arange(len(paths)), num_hops)
    left = np.asarray(capacity_bytes_per_s, dtype=np.float64)[used].copy()
    active = num_hops > 0
    while active.any():
        # 1. Equal shares of what is left.
        load = np.bincount(edge[active[transfer]], minlength=len(used))
        share = np.divide(left, load, out=np.full(len(used), np.inf), where=load > 0)
        level = max(float(share.min()), 0.0)
        # 2. The smallest share is final for those who cross such a link.
        full = share <= level * (1.0 + _TIE_FRAC)
        settled = np.zeros(len(paths), dtype=np.bool_)
        settled[transfer[full[edge]]] = True
        settled &= active
        rates[settled] = level
        # 3. Their rates are taken; the others continue.
        taken = np.bincount(edge[settled[transfer]], minlength=len(used))
        left = np.maximum(left - level * taken, 0.0)
        active &= ~settled
    return rates
