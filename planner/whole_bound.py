"""Whole bound: the bound of `planner.bound`, with whole replicas on whole hosts.

Reference
    None: an integer programme.

Idea
    No replica of a shape serves more than its GPU time, its KV cache and the SLO allow
    (`planner.capacity`), and a replica is there or not. So no plan is better than the
    best numbers of replicas at these ceilings. On few GPUs that is far closer than
    GPUs in parts: three GPUs of a replica that takes four serve nothing.

Steps
    1. The ceiling of every usable shape.
    2. The integer programme over numbers of replicas: GPUs of each type, groups of each
       width that its hosts have room for, the plan's limits, both phases keep up.
    3. The bound of branch and bound, or that of `planner.bound` where it is closer.

Differences from the paper
    - not applicable

Assumes   a pool serves no more than its replicas' ceilings add up to; groups of a
          replica stay on one host; the stages of a replica have one GPU type
Cost      one small integer programme; beyond `MOST_GPUS` whole numbers hardly matter,
          and it is left out
Guarantee a bound on every plan of the search space, whatever its scheduling
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pulp

from planner.bound import GpuRates, ShapeRate, objective_bound, rate_bound
from planner.objective import Goal
from planner.placement import FreeGpus
from planner.problem import Problem
from planner.search.milp import solve_milp
from planner.simulator.system import Phase

MOST_GPUS = 256
"""Clusters larger than this lose nothing to speak of by whole replicas."""

_TIME_LIMIT_S = 2.0
_GAP_FRAC = 1e-4
_RATIO_ROUNDS = 8
_TOLERANCE = 1e-6


def whole_bound(
    problem: Problem, gpus: Sequence[GpuRates], rates: Sequence[ShapeRate]
) -> float | None:
    """Bound on the objective's value; None when there is none (a price is missing).

    `rates` are the ceilings of all replicas there may be; without them (replicas of
    unlike stages are not listed) whole numbers are left out. Upper for goodput goals,
    lower for GPUs and cost (infinity: the rate is impossible).
    """
    relaxed = objective_bound(problem, gpus)
    budget = problem.search.max_gpus or problem.cluster.num_gpus
    if not rates or relaxed is None or math.isinf(relaxed) or budget > MOST_GPUS:
        return relaxed
    goal = problem.objective.goal
    target = problem.service.workload.rate_rps or 0.0
    most = target if goal.needs_rate else rate_bound(problem, gpus)
    programme = _Programme(problem, gpus, _capped(rates, most))
    if goal is Goal.MAX_GOODPUT:
        found = programme.bound(+programme.rate_rps)
        return relaxed if found is None else min(relaxed, found)
    if goal is Goal.MAX_GOODPUT_PER_GPU:
        return programme.ratio_bound(relaxed)
    programme.model += programme.rate_rps >= target
    if goal is Goal.MIN_GPUS:
        found = programme.bound(-programme.gpus)
        # GPUs come whole.
        least = None if found is None else float(math.ceil(-found - _TOLERANCE))
    elif goal is Goal.MIN_COST:
        found = programme.bound(-programme.usd_per_hour())
        least = None if found is None else -found
    elif goal is Goal.MIN_POWER:
        found = programme.bound(-programme.power_w())
        least = None if found is None else -found
    else:
        least = None
    if programme.is_infeasible:
        return math.inf
    return relaxed if least is None else max(relaxed, least)


def _capped(rates: Sequence[ShapeRate], most_rps: float) -> list[ShapeRate]:
    """Shapes that serve something, at no more than all of them together are to serve.

    One replica of them is enough then, and never a part of one: a phase without work
    has a rate so high that a solver takes next to nothing of it for something.
    """
    return [
        replace(rate, rate_rps=min(rate.rate_rps, most_rps))
        for rate in rates
        if rate.rate_rps > 0
    ]


class _Programme:
    """Numbers of replicas of each shape, the objective still open."""

    def __init__(
        self, problem: Problem, gpus: Sequence[GpuRates], rates: Sequence[ShapeRate]
    ) -> None:
        self.problem, self.rates = problem, rates
        self._usd_per_hour = {each.gpu_type: each.usd_per_hour or 0.0 for each in gpus}
        self._power_w = {each.gpu_type: each.power_w or 0.0 for each in gpus}
        self.is_infeasible = False
        self.model = pulp.LpProblem("whole_bound", pulp.LpMaximize)
        self.rate_rps = self.model.add_variable("rate_rps", lowBound=0)
        self.counts = [
            self.model.add_variable(f"replicas_{index}", lowBound=0, cat=pulp.LpInteger)
            for index in range(len(rates))
        ]
        self.gpus = pulp.lpSum(
            rate.shape.parallelism.num_gpus * count for rate, count in self._each()
        )
        for phase in (Phase.PREFILL, Phase.DECODE):
            self.serve(phase)
        for gpu_type in dict.fromkeys(rate.shape.gpu_type for rate in rates):
            self.pack(gpu_type)
        self.limit()

    def _each(self) -> list[tuple[ShapeRate, pulp.LpVariable]]:
        return list(zip(self.rates, self.counts, strict=True))

    def serve(self, phase: Phase) -> None:
        """A phase keeps up: R <= sum_s rate_s x_s, aggregated replicas included."""
        able = (phase, Phase.AGGREGATED)
        self.model += self.rate_rps <= pulp.lpSum(
            rate.rate_rps * count
            for rate, count in self._each()
            if rate.shape.phase in able
        )

    def pack(self, gpu_type: str) -> None:
        """Groups at least w wide, in multiples of w, fit the hosts of a type.

        sum_s (width_s // w) * groups_s * x_s <= sum_hosts GPUs // w, for each width w;
        with w = 1 these are the GPUs.
        """
        hosts = [
            host.num_free
            for host in FreeGpus.of(self.problem.cluster).hosts
            if host.gpu_type == gpu_type
        ]
        of_type = [
            (rate.shape.parallelism, count)
            for rate, count in self._each()
            if rate.shape.gpu_type == gpu_type
        ]
        for width in sorted({1, *(split.gpus_per_stage for split, _ in of_type)}):
            used = pulp.lpSum(
                (split.gpus_per_stage // width) * split.pp * count
                for split, count in of_type
            )
            self.model += used <= sum(size // width for size in hosts)

    def limit(self) -> None:
        """GPUs, replicas of each phase, $/h and W stay within the plan's limits."""
        space = self.problem.search
        if space.max_usd_per_hour is not None:
            self.model += self.usd_per_hour() <= space.max_usd_per_hour
        if space.max_power_w is not None:
            self.model += self.power_w() <= space.max_power_w
        for gpu_type, most in space.available_gpus.items():
            of_type = [
                rate.shape.parallelism.num_gpus * count
                for rate, count in self._each()
                if rate.shape.gpu_type == gpu_type
            ]
            if of_type:
                self.model += pulp.lpSum(of_type) <= most
        if space.max_gpus is not None:
            self.model += self.gpus <= space.max_gpus
        if space.max_replicas is not None:
            for phase in Phase:
                of_phase = [x for rate, x in self._each() if rate.shape.phase is phase]
                self.model += pulp.lpSum(of_phase) <= space.max_replicas

    def usd_per_hour(self) -> pulp.LpAffineExpression:
        """Price of the GPUs, each at the least that one of its type costs."""
        return self._sum(self._usd_per_hour)

    def power_w(self) -> pulp.LpAffineExpression:
        """Board limits of the GPUs; one that is not known counts nothing."""
        return self._sum(self._power_w)

    def _sum(self, of_one: Mapping[str, float]) -> pulp.LpAffineExpression:
        return pulp.lpSum(
            of_one[rate.shape.gpu_type] * rate.shape.parallelism.num_gpus * count
            for rate, count in self._each()
        )

    def bound(self, objective: pulp.LpAffineExpression) -> float | None:
        """What no solution exceeds; None where the solver tells none."""
        self.model.setObjective(objective)
        outcome = solve_milp(self.model, time_limit_s=_TIME_LIMIT_S, gap_frac=_GAP_FRAC)
        self.is_infeasible = outcome.status.value == "INFEASIBLE"
        return outcome.bound

    def ratio_bound(self, relaxed: float) -> float:
        """Most rate a GPU: the ratio with max R - ratio * GPUs <= 0, from above.

        At any ratio, R - ratio * GPUs <= b bounds R / GPUs by ratio + b, since there is
        at least one GPU.
        """
        self.model += self.gpus >= 1
        ratio, bound = 0.0, relaxed
        for _ in range(_RATIO_ROUNDS):
            most = self.bound(self.rate_rps - ratio * self.gpus)
            if most is None:
                return bound
            bound = min(bound, ratio + max(0.0, most))
            gpus = float(pulp.value(self.gpus) or 0.0)
            reached = float(pulp.value(self.rate_rps) or 0.0) / max(1.0, gpus)
            if reached <= ratio * (1.0 + _TOLERANCE):
                break
            ratio = reached
        return bound
