"""Mooncake's ratio of prefill to decode nodes, and what it depends on.

Qin et al., "Mooncake", FAST 2025, figure 15: synthetic trace on 16 nodes, TTFT within
10 s and time between tokens (TBT) within 100 ms, best near 1:1. The TBT of a request is
the mean of the longest tenth of its gaps.

* `ratios`: the highest rate that keeps both limits for 90 %, by ratio;
* `decode_speeds`: the best ratio when every decode step takes so many times longer.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mooncake_nodes import NUM_NODES, SHARED, node, serving_system

from clusters.units import MS_PER_S
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, Routing, ServingReplica, ServingSystem
from planner.workload.requests import Requests
from planner.workload.traces import read_trace

TTFT_MS, TBT_MS, SHARE = 10_000.0, 100.0, 0.9
MOST_RPS, STEP_FRAC = 60.0, 0.01
NUM_PREFILLS = range(5, 16)
SLOWDOWNS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


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


def share_within(system: ServingSystem, requests: Requests) -> float:
    """Share of the requests within both limits."""
    result = simulate(system, requests)
    is_good = (result.ttft_ms <= TTFT_MS) & (worst_tenth_ms(result) <= TBT_MS)
    return float(is_good.mean())


def system_of(num_prefill: int, decode: ServingReplica | None = None) -> ServingSystem:
    """So many of the nodes prefill, with one global cache."""
    return serving_system(
        num_prefill,
        NUM_NODES - num_prefill,
        SHARED,
        decode,
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
        rows.append(
            {
                "ratio": ratio_name(num_prefill),
                "rate_rps": rate_of(system, trace),
                "recorded_rate_p90_ttft_s": result.percentile_ms("ttft", 90) / MS_PER_S,
                "recorded_rate_p90_tbt_ms": float(
                    np.percentile(worst_tenth_ms(result), 90)
                ),
            }
        )
    return rows


def decode_speeds(folder: Path) -> list[dict[str, Any]]:
    """The best ratio, by how much longer a decode step takes."""
    trace, rows = synthetic(folder), []
    for slowdown in SLOWDOWNS:
        base = node(Phase.DECODE)
        slow = replace(base, stages=tuple(s.scaled(slowdown) for s in base.stages))
        rates = {n: rate_of(system_of(n, slow), trace) for n in NUM_PREFILLS}
        best = max(rates, key=lambda n: rates[n])
        table = slow.stages[0]
        rows.append(
            {
                "slowdown": slowdown,
                "step_of_12_at_15k_ms": table.decode_step_ms(12, 12 * 15_325),
                "best_ratio": ratio_name(best),
                "rate_rps": rates[best],
                "rate_8P8D_rps": rates[8],
            }
        )
    return rows


def ratio_name(num_prefill: int) -> str:
    """As in 8P8D."""
    return f"{num_prefill}P{NUM_NODES - num_prefill}D"


def rate_of(system: ServingSystem, trace: Requests) -> float:
    """The highest rate at which enough requests are within both limits."""
    return highest(
        lambda rate: share_within(system, trace.at_rate(rate)) >= SHARE, MOST_RPS
    )


def highest(is_met: Callable[[float], bool], most: float) -> float:
    """The highest rate at which something holds, to 1 %."""
    low, high = 0.0, most
    while high - low > STEP_FRAC * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if is_met(middle) else (low, middle)
    return low
