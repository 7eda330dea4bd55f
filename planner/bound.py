"""Bound: the best value of the objective that any plan in the search space can reach.

Every request costs GPU time in each phase, at least what the cheapest usable shape
takes for it (`planner.capacity`). Splitting the GPUs of each type between the phases in
any real proportion gives a linear programme whose optimum no plan exceeds. Aggregated
replicas are a third use of a GPU: prompts and decodes that share a step read the
weights once, so their costs are less than the sum of both. As in `planner.capacity`,
every replica keeps the SLO for its own requests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from clusters.fields import spec
from planner.deployment import ReplicaShape
from planner.layer_bound import layer_rates
from planner.objective import Goal
from planner.problem import Problem
from planner.search.batching import batching_bound_rps
from planner.search.contract import Ledger
from planner.search.shapes import usable_gpu_types, usable_shapes
from planner.serving import Planner
from planner.simulator.system import Phase
from planner.step_costs import FloatArray
from planner.workload.requests import Requests

_SAMPLE_REQUESTS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRates:
    """Highest rate per GPU of one type in each phase."""

    gpu_type: str = spec("GPU type.")
    num_gpus: int = spec("How many there are.", unit="GPUs", ge=1)
    prefill_rps: float = spec("Per GPU.", unit="requests/s", ge=0)
    decode_rps: float = spec("Per GPU.", unit="requests/s", ge=0)
    aggregated_rps: float = spec("Per GPU.", unit="requests/s", ge=0, default=0.0)
    usd_per_hour: float | None = spec("Price of one.", unit="usd/h", default=None)
    power_w: float | None = spec("Board limit of one.", unit="W", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRate:
    """Rate that no replica of a shape exceeds for long."""

    shape: ReplicaShape = spec("Phase, GPU type and parallelism.")
    rate_rps: float = spec("Its ceiling within the SLO.", unit="requests/s", ge=0)


def shape_rates(planner: Planner, *, seed: int = 0) -> tuple[ShapeRate, ...]:
    """The ceiling of every shape that can run, with its best batching."""
    slo = planner.problem.service.slo
    sample = _sample(planner, seed)
    return tuple(
        ShapeRate(
            shape=alone.replicas[0].shape,
            rate_rps=batching_bound_rps(planner, alone, slo, sample),
        )
        for phase in Phase
        for alone in usable_shapes(planner, phase, Ledger())
    )


def gpu_rates(
    planner: Planner,
    *,
    seed: int = 0,
    has_unlike: bool = False,
    shapes: Sequence[ShapeRate] | None = None,
) -> tuple[GpuRates, ...]:
    """Best rate per GPU of every usable type, over all `shapes` that can run.

    With `has_unlike`, in replicas of unlike stages too (`planner.layer_bound`).
    """
    problem = planner.problem
    best: dict[tuple[str, Phase], float] = {}
    if has_unlike:
        best = layer_rates(planner, _sample(planner, seed))
    for each in shape_rates(planner, seed=seed) if shapes is None else shapes:
        key = (each.shape.gpu_type, each.shape.phase)
        per_gpu = each.rate_rps / each.shape.parallelism.num_gpus
        best[key] = max(best.get(key, 0.0), per_gpu)
    return tuple(
        GpuRates(
            gpu_type=name,
            num_gpus=_num_available(problem, name),
            prefill_rps=best.get((name, Phase.PREFILL), 0.0),
            decode_rps=best.get((name, Phase.DECODE), 0.0),
            aggregated_rps=best.get((name, Phase.AGGREGATED), 0.0),
            usd_per_hour=_cheapest(problem, name),
            power_w=problem.cluster.power_w(_gpus_of(problem, name)[:1]),
        )
        for name in usable_gpu_types(problem)
    )


def _sample(planner: Planner, seed: int) -> Requests:
    workload = planner.problem.service.workload
    return workload.draw(_SAMPLE_REQUESTS, seed=seed, rate_rps=1.0)


def objective_bound(problem: Problem, rates: Sequence[GpuRates]) -> float | None:
    """Bound on the objective's value; None when there is none (a price is missing).

    Upper for goodput goals, lower for GPUs and cost (infinity: the rate is impossible).
    """
    goal, most = problem.objective.goal, _limits(problem, rates)
    if goal is Goal.MAX_GOODPUT:
        return _max_rate(rates, most)
    if goal is Goal.MAX_GOODPUT_PER_GPU:
        alone = [_per_gpu(rate, other) for rate in rates for other in rates]
        return max([*alone, *(rate.aggregated_rps for rate in rates)], default=0.0)
    target = problem.service.workload.rate_rps or 0.0
    if goal is Goal.MIN_GPUS:
        ones = dict.fromkeys((rate.gpu_type for rate in rates), 1.0)
        least = _least_cost(rates, most, target, ones)
        # GPUs come whole, and nothing runs without one.
        return least if math.isinf(least) else float(max(1, math.ceil(least - 1e-9)))
    by_power = goal is Goal.MIN_POWER
    prices = {r.gpu_type: r.power_w if by_power else r.usd_per_hour for r in rates}
    known = {name: price for name, price in prices.items() if price is not None}
    if len(known) < len(prices):
        return None
    return _least_cost(rates, most, target, known)


def rate_bound(problem: Problem, rates: Sequence[GpuRates]) -> float:
    """Rate that no plan on the whole cluster exceeds, in requests/s."""
    return _max_rate(rates, _limits(problem, rates))


def _limits(
    problem: Problem, rates: Sequence[GpuRates]
) -> list[tuple[list[float], float]]:
    """Limits on all GPUs together: what one of each type counts, and the most.

    A price that is not known counts nothing, so that the bound holds.
    """
    space = problem.search
    found: list[tuple[list[float], float]] = []
    if space.max_gpus is not None:
        found.append(([1.0] * len(rates), float(space.max_gpus)))
    if space.max_usd_per_hour is not None:
        found.append(([r.usd_per_hour or 0.0 for r in rates], space.max_usd_per_hour))
    if space.max_power_w is not None:
        found.append(([r.power_w or 0.0 for r in rates], space.max_power_w))
    return found


def _per_gpu(prefill: GpuRates, decode: GpuRates) -> float:
    if prefill.prefill_rps <= 0 or decode.decode_rps <= 0:
        return 0.0
    return 1.0 / (1.0 / prefill.prefill_rps + 1.0 / decode.decode_rps)


def _max_rate(
    rates: Sequence[GpuRates], limits: Sequence[tuple[list[float], float]]
) -> float:
    """Maximise R, subject to the rows of `_rows`."""
    a_ub, b_ub = _rows(rates, limits)
    cost = np.zeros(3 * len(rates) + 1)
    cost[-1] = -1.0
    solution = linprog(cost, A_ub=a_ub, b_ub=b_ub)
    return abs(float(solution.fun or 0.0))


def _least_cost(
    rates: Sequence[GpuRates],
    limits: Sequence[tuple[list[float], float]],
    target_rps: float,
    price: Mapping[str, float],
) -> float:
    """Minimise the price of the GPUs that serve the target; infinity if none do."""
    num = len(rates)
    a_ub, b_ub = _rows(rates, limits)
    cost = np.array([price[r.gpu_type] for r in rates] * 3 + [0.0], dtype=np.float64)
    bounds = [(0.0, None)] * (3 * num) + [(target_rps, target_rps)]
    solution = linprog(cost, A_ub=a_ub, b_ub=b_ub, bounds=bounds)
    return math.inf if solution.fun is None else float(solution.fun)


def _rows(
    rates: Sequence[GpuRates], limits: Sequence[tuple[list[float], float]]
) -> tuple[FloatArray, FloatArray]:
    """Rows ``a x <= b``: GPUs a_t that prefill, b_t that decode, c_t both; rate R.

    R <= sum_t rate_t * (GPUs_t + c_t) in each phase; a_t + b_t + c_t <= N_t for each
    type; all GPUs together within each of `limits`. Shapes
    ``(num_rows, 3 * num_gpu_types + 1)`` and ``(num_rows,)``.
    """
    num = len(rates)
    both = [-rate.aggregated_rps for rate in rates]
    prefill = [-rate.prefill_rps for rate in rates] + [0.0] * num + both + [1.0]
    decode = [0.0] * num + [-rate.decode_rps for rate in rates] + both + [1.0]
    each = np.hstack([np.eye(num), np.eye(num), np.eye(num), np.zeros((num, 1))])
    rows, most = [prefill, decode, *each], [0.0, 0.0, *(r.num_gpus for r in rates)]
    for of_one, limit in limits:
        rows.append([*of_one, *of_one, *of_one, 0.0])
        most.append(limit)
    return np.array(rows), np.array(most, dtype=np.float64)


def _gpus_of(problem: Problem, name: str) -> list[int]:
    topology = problem.cluster.topology
    return [gpu.index for gpu in topology.gpus if gpu.type.name == name]


def _num_available(problem: Problem, name: str) -> int:
    """GPUs of a type that a plan may use."""
    total = len(_gpus_of(problem, name))
    return min(total, problem.search.available_gpus.get(name, total))


def _cheapest(problem: Problem, name: str) -> float | None:
    """Least price of a GPU of a type; None when one is not known."""
    cluster = problem.cluster
    firsts: dict[tuple[str, float | None], int] = {}
    for index in _gpus_of(problem, name):
        node = cluster.nodes[cluster.topology.gpu(index).node]
        firsts.setdefault((node.type.name, node.price_usd_per_hour), index)
    prices = [cluster.usd_per_hour([index]) for index in firsts.values()]
    known = [price for price in prices if price is not None]
    return min(known) if known and len(known) == len(prices) else None
