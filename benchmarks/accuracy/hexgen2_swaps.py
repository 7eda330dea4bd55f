"""Guided swaps against random ones: the flow reached in equal processor time."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hexgen2_cases import (
    CLOUD,
    SETTINGS,
    TRACE,
    cluster_of,
    lengths_of,
    workload_of,
)
from hexgen2_plans import evaluator_of, problem_of

from planner.problem import Problem
from planner.search.contract import Ledger, SearchContext
from planner.search.hexgen2.graph import gpu_graph
from planner.search.hexgen2.grouping import Judge
from planner.search.hexgen2.kv_flow import KvFlows
from planner.search.hexgen2.method import HexGen2
from planner.search.hexgen2.moves import Neighbours
from planner.search.hexgen2.strategy import Strategies
from planner.stop import Never

SWAP_CASES = (
    (SETTINGS[0], "llama-2-70b", "HPHD"),
    (SETTINGS[0], "opt-30b", "HPLD"),
    (SETTINGS[0], "opt-30b", "LPHD"),
    (CLOUD, "llama-30b", "HPHD"),
    (CLOUD, "llama-30b", "LPHD"),
)
SWAP_S = (0.25, 1.0)


@dataclass(slots=True)
class ProcessorTime:
    """Stop after some seconds of processor time, so that other processes count not."""

    max_s: float
    _start_s: float = field(default_factory=time.process_time)

    def is_met(self, num_evaluations: int, best: float | None) -> bool:
        """Whether they are used up."""
        return time.process_time() - self._start_s >= self.max_s


def run_swaps(data: dict[str, Any], num_seeds: int) -> list[dict[str, Any]]:
    """Best flow of both kinds of swaps, by seed and time."""
    rows = []
    for cluster_name, model, name in SWAP_CASES:
        workload = workload_of(lengths_of(TRACE, model, name))
        cluster = cluster_of(data, cluster_name, nic_gbit_per_s=10.0)
        problem = problem_of(cluster, model, workload)
        warm = SearchContext(evaluator_of(problem), Never())
        strategies = Strategies(warm, Ledger())
        # Rates of shapes are worked out once, so that time goes into swaps alone.
        for is_guided in (True, False):
            flow_of(problem, strategies, 0, is_guided, 4.0)
        for max_s in SWAP_S:
            flows = {
                kind: [
                    flow_of(problem, strategies, seed, kind == "guided", max_s)
                    for seed in range(num_seeds)
                ]
                for kind in ("guided", "random")
            }
            rows.append(
                {
                    "cluster": cluster_name,
                    "model": model,
                    "class": name,
                    "processor_s": max_s,
                    "starts_alone_rps": flow_of(problem, strategies, 0, None, 60.0),
                    "guided_rps": flows["guided"],
                    "random_rps": flows["random"],
                    "num_guided_not_below": sum(
                        g >= r * (1.0 - 1e-3)
                        for g, r in zip(flows["guided"], flows["random"], strict=True)
                    ),
                    "mean_gain_frac": float(
                        np.mean(flows["guided"]) / np.mean(flows["random"]) - 1.0
                    ),
                }
            )
    return rows


def flow_of(
    problem: Problem,
    strategies: Strategies,
    seed: int,
    is_guided: bool | None,
    max_s: float,
) -> float:
    """Best flow that swaps reach in a time; None: of the starts, without swaps."""
    evaluator = evaluator_of(problem, seed)
    types = [gpu.type.name for gpu in problem.cluster.topology.gpus]
    moves = Neighbours(gpu_graph(problem.cluster), types)
    judge = Judge(problem, strategies, KvFlows(problem))
    method = HexGen2(num_starts=100_000, is_guided=bool(is_guided))
    if is_guided is None:
        method = HexGen2(max_tried=0)
    context = SearchContext(evaluator, ProcessorTime(max_s))
    best = method.explore(context, [judge], moves, strategies)
    return best.flow.rate_rps if best is not None else 0.0
