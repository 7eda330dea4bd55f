"""Mooncake's ratio of prefill to decode nodes, and what it depends on.

Qin et al., "Mooncake", FAST 2025, figure 15: synthetic trace on 16 nodes, TTFT within
10 s and time between tokens within 100 ms, best near 1:1.

* `ratios`: by ratio, the share of requests that keep both limits at the recorded rate,
  with the paper's measure of the second one, the mean of the longest tenth of a
  request's gaps; and the highest rate that keeps both for 90 %, with the mean of all;
* `shares`: the best ratio by that share, at higher rates.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mooncake_nodes import NUM_NODES, SHARED, serving_system

from clusters.units import MS_PER_S
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import Routing, ServingSystem
from planner.workload.requests import Requests
from planner.workload.traces import read_trace

TTFT_MS, TBT_MS, SHARE = 10_000.0, 100.0, 0.9
MOST_RPS, STEP_FRAC = 20.0, 0.005
NUM_PREFILLS = range(5, 16)
SPEEDS = (1.0, 1.25, 1.5, 2.0, 2.5)
"""Times the recorded rate."""


def worst_tenth_ms(result: SimulationResult) -> np.ndarray:
    """Mean of the longest tenth of the gaps of each request; 0 with no gap.

    The first gap holds the transfer and any wait for a place; the others are taken as
    equal, as steps of a decode node change slowly.
    """
    num_gaps = np.maximum(result.output_tokens - 1, 1)
    spent = result.finish_ms - result.first_token_ms
    waited = result.decode_ready_ms - result.first_token_ms
    other = (spent - waited) / num_gaps
    num_worst = np.ceil(num_gaps / 10.0)
    return np.nan_to_num(other + np.maximum(waited, 0.0) / num_worst)


def share_within(result: SimulationResult) -> float:
    """Share of the requests within both limits, as the paper measures them."""
    is_good = (result.ttft_ms <= TTFT_MS) & (worst_tenth_ms(result) <= TBT_MS)
    return float(is_good.mean())


def system_of(num_prefill: int) -> ServingSystem:
    """So many of the nodes prefill, with one global cache."""
    return serving_system(
        num_prefill,
        NUM_NODES - num_prefill,
        SHARED,
        routing=Routing.CACHE_AWARE,
    )


def synthetic(folder: Path) -> Requests:
    """The trace of the experiment."""
    return read_trace(folder / "mooncake_synthetic_trace.jsonl")


def ratios(folder: Path) -> list[dict[str, Any]]:
    """Highest rate that keeps both limits for 90 % of the synthetic trace."""
    trace, rows = synthetic(folder), []
    for num_prefill in NUM_PREFILLS:
        system = system_of(num_prefill)
        result = simulate(system, trace)
        worst_ms = worst_tenth_ms(result)
        rows.append(
            {
                "ratio": ratio_name(num_prefill),
                "rate_rps": rate_of(system, trace),
                "recorded_rate_p90_ttft_s": result.percentile_ms("ttft", 90) / MS_PER_S,
                "recorded_rate_p90_tpot_ms": result.percentile_ms("tpot", 90),
                "recorded_rate_p90_worst_tenth_ms": float(np.percentile(worst_ms, 90)),
                "recorded_rate_share": share_within(result),
            }
        )
    return rows


def shares(folder: Path) -> list[dict[str, Any]]:
    """The best ratio by the share within both limits, by rate."""
    trace, rows = synthetic(folder), []
    for speed in SPEEDS:
        faster = trace.at_rate(trace.rate_rps * speed)
        found = {n: share_within(simulate(system_of(n), faster)) for n in NUM_PREFILLS}
        best = max(found, key=lambda n: found[n])
        rows.append(
            {
                "rate_rps": faster.rate_rps,
                "best_ratio": ratio_name(best),
                "share": found[best],
                **{f"share_{ratio_name(n)}": found[n] for n in (5, 8, 11, 14)},
            }
        )
    return rows


def ratio_name(num_prefill: int) -> str:
    """As in 8P8D."""
    return f"{num_prefill}P{NUM_NODES - num_prefill}D"


def rate_of(system: ServingSystem, trace: Requests) -> float:
    """The highest rate at which enough requests are within both limits."""
    limits = {"ttft": TTFT_MS, "tpot": TBT_MS}

    def is_met(rate_rps: float) -> bool:
        result = simulate(system, trace.at_rate(rate_rps))
        return float(result.meets(limits).mean()) >= SHARE

    return highest(is_met, MOST_RPS)


def highest(is_met: Callable[[float], bool], most: float) -> float:
    """The highest rate at which something holds, to a share of the most."""
    low, high = 0.0, most
    while high - low > STEP_FRAC * most:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if is_met(middle) else (low, middle)
    return low
