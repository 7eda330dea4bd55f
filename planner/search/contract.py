"""The contract of search methods: what they are given, and what they give back."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from clusters.fields import check_fields, spec
from planner.deployment import Deployment, Replica
from planner.evaluate import Evaluator
from planner.goodput import Goodput
from planner.objective import Amounts
from planner.plan import AllocationBound
from planner.problem import Problem
from planner.slo import Slo
from planner.stop import StoppingCriterion


@dataclass(slots=True)
class Ledger:
    """Counts every candidate: `enumerated == evaluated + sum(rejected.values())`."""

    evaluated: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def enumerated(self) -> int:
        """All candidates."""
        return self.evaluated + sum(self.rejected.values())

    def reject(self, reason: str, num: int = 1) -> None:
        """Count candidates that were not evaluated, with the reason."""
        if num:
            self.rejected[reason] += num

    def add(self, other: "Ledger") -> None:
        """Count the candidates of another ledger too."""
        self.evaluated += other.evaluated
        self.rejected.update(other.rejected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A deployment with its simulated goodput."""

    method: str = spec("Search method that proposed it.")
    deployment: Deployment = spec("The deployment.")
    goodput: Goodput = spec("Highest rate within the SLO.")
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    power_w: float | None = spec("Board power limits.", unit="W", default=None)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def amounts(self) -> Amounts:
        """What it serves and takes."""
        return Amounts(
            rate_rps=self.goodput.rate_rps,
            num_gpus=self.deployment.num_gpus,
            usd_per_hour=self.usd_per_hour,
            power_w=self.power_w,
        )

    @property
    def goodput_per_gpu_rps(self) -> float:
        """Goodput for each GPU used."""
        return self.goodput.rate_rps / self.deployment.num_gpus

    def rank(self, problem: Problem) -> tuple[float, ...]:
        """Sort key: the smaller, the better for the problem's objective.

        Goals with a target rate put candidates that reach it first (by size or price),
        and the others after them by the rate they reach. Those that meet the SLO at no
        rate come last, by how nearly they do.
        """
        if self.goodput.rate_rps <= 0:
            num_gpus = float(self.deployment.num_gpus)
            return (math.inf, -self.goodput.light_load_frac, num_gpus)
        target = problem.service.workload.rate_rps
        return problem.objective.rank(self.amounts, target)

    def score(self, problem: Problem) -> float | None:
        """What stopping criteria watch: the goal's value, the higher the better.

        What is to be small is negated. None when the SLO or the target rate is missed,
        or the price or power is not known.
        """
        rate = self.goodput.rate_rps
        target = problem.service.workload.rate_rps or 0.0
        if rate <= 0 or (problem.objective.needs_rate and rate < target):
            return None
        cost = self.amounts.cost(problem.objective.goal)
        return None if math.isinf(cost) else -cost


@dataclass(slots=True)
class SearchContext:
    """What the methods of one search work with, and when they have to end."""

    evaluator: Evaluator
    stop: StoppingCriterion
    best_score: float | None = None
    best: Candidate | None = None
    """The best candidate of all methods so far, for those that start from one."""
    is_stopped: bool = False
    batched: dict[tuple[Replica, Slo], Deployment] = field(default_factory=dict)
    """Replicas alone, with the batching found best for them (`search.batching`)."""

    @property
    def problem(self) -> Problem:
        """The problem."""
        return self.evaluator.planner.problem

    def note(self, candidate: Candidate) -> None:
        """Let the stopping criteria see a candidate."""
        if self.best is None or candidate.rank(self.problem) < self.best.rank(
            self.problem
        ):
            self.best = candidate
        score = candidate.score(self.problem)
        if score is not None and (self.best_score is None or score > self.best_score):
            self.best_score = score

    def should_stop(self) -> bool:
        """Whether the search has to end now; once it has, for all methods."""
        if not self.is_stopped:
            done = self.evaluator.num_evaluations
            self.is_stopped = self.stop.is_met(done, self.best_score)
        return self.is_stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """Candidates of one method, best first, and the count of all it looked at."""

    method: str = spec("Name of the method.")
    candidates: tuple[Candidate, ...] = spec("Best first.")
    ledger: Ledger = spec("Counts.")
    is_exact: bool = spec("Whether nothing in its space can be better.", default=False)
    left_out: tuple[str, ...] = spec(
        "What a search that goes through everything has not tried.", default=()
    )
    is_stopped: bool = spec("Whether it was stopped before its end.", default=False)
    has_unlike: bool = spec(
        "Whether it looked at replicas of unlike stages.", default=False
    )
    allocation: AllocationBound | None = spec(
        "Bound on what whole replicas add up to, if the method has one.", default=None
    )


STOPPED = "not reached before the search was stopped"
"""Why the rest of an interrupted search was rejected."""


class SearchMethod(Protocol):
    """A way to find deployments."""

    @property
    def name(self) -> str:
        """Name users select it by."""
        ...

    def supports(self, problem: Problem) -> str | None:
        """None, or why it cannot work on `problem`."""
        ...

    def search(self, context: SearchContext) -> SearchOutcome:
        """Find good deployments."""
        ...


def why_not_open(problem: Problem) -> str | None:
    """Why the rate of a problem's arrivals cannot be varied, or None."""
    if problem.service.workload.concurrency is not None:
        return "a closed loop has no arrival rate to plan for (simulate it instead)"
    return None
