"""Exhaustive search: every deployment of a small cluster, as the oracle of the others.

Reference
    None: complete enumeration.

Idea
    On few GPUs every multiset of replicas can be simulated, and every unit of low
    node-affinity. What it finds is the best that any method can find in the same space
    with the same evaluator, so heuristics are tested against it.

Steps
    1. Usable shapes of each phase, each with its best batching for one replica.
    2. Every multiset of prefill shapes with every multiset of decode shapes, and every
       multiset of aggregated shapes, within the GPUs; every unit, once and repeated.
    3. Drop those whose capacity bound cannot beat the best found so far (no schedule
       does better), and simulate the others.

Differences from the paper
    - not applicable

Assumes   one service with open arrivals; at most 8 GPUs
Cost      exponential in the GPUs: tens of deployments on 4 GPUs, thousands on 8
Guarantee exact over these deployments, given the placement rules and the evaluator
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.deployment import Deployment, ReplicaShape
from planner.limits import amounts_of
from planner.objective import Amounts
from planner.problem import Problem
from planner.search.batching import best_batching
from planner.search.contract import (
    STOPPED,
    Candidate,
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.phases import phase_slo
from planner.search.ratios import RatedShape, gpu_budget
from planner.search.refine import ShapeCounts, Simulated
from planner.search.shapes import usable_shapes
from planner.search.units import most_units, place_units, ranked_units
from planner.serving import Planner
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhaustive:
    """Simulate everything."""

    max_gpus: int = spec("Largest cluster it takes on.", unit="GPUs", ge=1, default=8)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "exhaustive"

    def supports(self, problem: Problem) -> str | None:
        """Small clusters with open arrivals."""
        budget = gpu_budget(problem)
        if budget > self.max_gpus:
            most = self.max_gpus
            return f"{budget} GPUs are too many to try everything (at most {most})"
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-3."""
        ledger = Ledger()
        planner = context.evaluator.planner
        # 1. Shapes.
        shapes = {phase: _shapes(context, phase, ledger) for phase in Phase}
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        # 2. Deployments.
        seen: set[Deployment] = set()
        for deployment in all_deployments(planner, shapes, ledger):
            if deployment in seen:
                continue  # a unit that a multiset has made already
            seen.add(deployment)
            if context.should_stop():
                ledger.reject(STOPPED)
            # 3. Bound, then simulate.
            elif not _can_win(context, simulated.best, deployment):
                ledger.reject("its capacity cannot beat the best")
            else:
                simulated.try_deployment(deployment)
        return SearchOutcome(
            method=self.name,
            candidates=simulated.ranked,
            ledger=ledger,
            is_exact=not context.is_stopped,
            is_stopped=context.is_stopped,
        )


def _shapes(context: SearchContext, phase: Phase, ledger: Ledger) -> list[ReplicaShape]:
    """Usable shapes of a phase, each with its best batching."""
    part = phase_slo(context.problem.service.slo, phase)
    usable = usable_shapes(context.evaluator.planner, phase, ledger)
    if part is not None:
        usable = tuple(best_batching(context, each, part) for each in usable)
    return [alone.replicas[0].shape for alone in usable]


def _can_win(
    context: SearchContext, best: Candidate | None, deployment: Deployment
) -> bool:
    if best is None:
        return True
    bound = context.evaluator.rate_limit_rps(deployment)
    return can_beat(
        context.problem, best, amounts_of(context.problem, deployment, bound)
    )


def can_beat(problem: Problem, best: Candidate, most: Amounts) -> bool:
    """Whether a deployment that serves and takes `most` could be preferred to `best`.

    A higher rate never makes a rank worse, so the rank at the bound is the best it has.
    """
    target = problem.service.workload.rate_rps
    if problem.objective.rank(most, target) <= best.rank(problem):
        return True
    may_give_up = problem.objective.give_up_frac > 0
    return may_give_up and problem.objective.is_as_good(most, best.amounts)


def all_deployments(
    planner: Planner, shapes: dict[Phase, list[ReplicaShape]], ledger: Ledger
) -> Iterator[Deployment]:
    """Multisets of replicas, then units of low node-affinity, once and repeated."""
    problem = planner.problem
    for counts in all_counts(problem, shapes):
        deployment = planner.deploy([s for s, n in counts for _ in range(n)])
        if deployment is None:
            ledger.reject("does not fit the nodes")
        else:
            yield deployment
    alike = {
        phase: [RatedShape(shape=shape, rate_rps=1.0) for shape in shapes[phase]]
        for phase in (Phase.PREFILL, Phase.DECODE)
    }
    for unit in ranked_units(problem, alike[Phase.PREFILL], alike[Phase.DECODE]):
        for count in range(1, most_units(problem, unit) + 1):
            deployment = place_units(planner, unit, count)
            if deployment is None:
                ledger.reject("does not fit the nodes")
            else:
                yield deployment


def all_counts(
    problem: Problem, shapes: dict[Phase, list[ReplicaShape]]
) -> Iterator[ShapeCounts]:
    """Numbers of replicas of each shape: disaggregated, then aggregated."""
    budget = gpu_budget(problem)
    limit = problem.search.max_replicas or budget
    for prefill in multisets(shapes[Phase.PREFILL], budget - 1, limit):
        left = budget - _num_gpus(prefill)
        for decode in multisets(shapes[Phase.DECODE], left, limit):
            yield prefill + decode
    yield from multisets(shapes[Phase.AGGREGATED], budget, limit)


def multisets(
    shapes: Sequence[ReplicaShape], budget: int, limit: int
) -> Iterator[ShapeCounts]:
    """Non-empty multisets of at most `limit` replicas on at most `budget` GPUs."""
    if not shapes:
        return
    first, rest = shapes[0], shapes[1:]
    size = first.parallelism.num_gpus
    for count in range(min(limit, budget // size), -1, -1):
        head: ShapeCounts = ((first, count),) if count else ()
        if head:
            yield head
        for tail in multisets(rest, budget - count * size, limit - count):
            yield head + tail


def _num_gpus(counts: ShapeCounts) -> int:
    return sum(shape.parallelism.num_gpus * n for shape, n in counts)
