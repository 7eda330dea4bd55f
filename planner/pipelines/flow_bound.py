"""Bound on the rate of any layout, staged or overlapping, over any links.

A token needs all L layers, and a machine that holds k layers gives at most k of them to
each token that passes it. With F tokens/s in all, it passes at most ``min(rate(k), F)``
of them, so

    L * F <= sum over machines of max over k of k * min(rate(k), F).

The largest such F bounds every layout. The cap at F makes it much tighter than the sum
of ``max k * rate(k)`` alone: it proves the best staged layouts of Helix's 24 machines
with Llama-70B and of its 4 A100 with LLaMA-30B optimal (2045.6 and 1044.5 tokens/s,
where the uncapped sum gives 2803.9 and 1628.2).
"""

import math

from planner.pipelines.teams import Pool

_ROUNDING = 1e-12
"""Where all machines are capped, both sides are equal up to rounding."""


def flow_bound(pool: Pool, num_layers: int) -> float:
    """Tokens/s that no layout of the machines of `pool` exceeds.

    The right side over F never rises with F, so bisection finds the largest F. It is 0
    when the machines cannot hold the layers.
    """
    most = sum(n * len(own) for n, own in zip(pool.counts, pool.rates, strict=True))
    if most < num_layers:
        return 0.0
    low, high = 0.0, _layer_rate(pool, math.inf) / num_layers
    if _layer_rate(pool, high) >= num_layers * high * (1.0 - _ROUNDING):
        return high
    while high - low > _ROUNDING * high:
        middle = 0.5 * (low + high)
        if _layer_rate(pool, middle) >= num_layers * middle * (1.0 - _ROUNDING):
            low = middle
        else:
            high = middle
    return high


def _layer_rate(pool: Pool, rate: float) -> float:
    """Layers times tokens/s of all machines, of which at most `rate` tokens pass."""
    return sum(
        count * max(held * min(own, rate) for held, own in enumerate(rates, start=1))
        for rates, count in zip(pool.rates, pool.counts, strict=True)
    )
