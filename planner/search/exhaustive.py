"""Exhaustive search: every deployment of a small cluster, as the oracle of the others.

Reference
    None: complete enumeration.

Idea
    On few GPUs every multiset of replicas can be simulated, on every set of GPUs that
    is not like another one, with every pairing of prefill and decode replicas. What it
    finds is the best that any method can find in the same space with the same
    evaluator, so heuristics are tested against it.

Steps
    1. Usable shapes of each phase, each with its best batching for one replica.
    2. Every multiset of prefill shapes with every multiset of decode shapes, and every
       multiset of aggregated shapes, within the GPUs, where the planner would put it;
       every unit of low node-affinity, once and repeated.
    3. Drop those whose capacity bound cannot beat the best found so far (no schedule
       does better), and simulate the others.
    4. The same multisets in every other place (`placements`), and dealt out to slices
       in every way.

Differences from the paper
    - not applicable

Assumes   one service with open arrivals; at most 8 GPUs
Cost      exponential in the GPUs: tens of places on 4 GPUs, thousands on 8; at most
          `max_placements` are looked at, and `max_runs` of them simulated
Guarantee exact with the evaluator's runs and the problem's routing (finalists of all
          methods try shares later), where nothing is left out: no batch limits but one
          a shape (`search.is_batching_searched` is off), no pipelines of unlike stages,
          no more places than it may look at; otherwise it says what is left out
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from clusters.fields import InputError, check_fields, spec
from models.latency.library import LatencyUnavailableError
from planner.capacity import UNLIMITED_RPS
from planner.deployment import Deployment, ReplicaShape
from planner.limits import amounts_of, why_over
from planner.objective import Amounts
from planner.placement import StageGpus
from planner.problem import Problem
from planner.search.batching import best_batching, policies_of
from planner.search.contract import (
    STOPPED,
    Candidate,
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.phases import phase_slo
from planner.search.pipelines.leftovers import why_not_unlike
from planner.search.placements import Seats, placements, signature, slicings
from planner.search.ratios import RatedShape, gpu_budget
from planner.search.refine import ShapeCounts, Simulated
from planner.search.shapes import usable_shapes
from planner.search.units import most_units, place_units, ranked_units
from planner.serving import Planner, place_in_order
from planner.simulator.system import Phase

ALIKE = "the same as another one but for names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhaustive:
    """Simulate everything."""

    max_gpus: int = spec("Largest cluster it takes on.", unit="GPUs", ge=1, default=8)
    max_placements: int = spec(
        "Places and pairings that are looked at.", unit="1", ge=1, default=20_000
    )
    max_runs: int = spec(
        "Of these, how many are simulated.", unit="1", ge=0, default=1_000
    )

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
        """Run steps 1-4."""
        ledger = Ledger()
        planner = context.evaluator.planner
        left_out = list(_not_in_space(planner))
        # 1. Shapes.
        shapes = {phase: _shapes(context, phase, ledger) for phase in Phase}
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        # 2. Deployments.
        places = _Places(simulated)
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
                places.is_new(deployment)
                simulated.try_deployment(deployment)
        # 4. Other places and pairings.
        for counts in all_counts(context.problem, shapes):
            if context.should_stop():
                ledger.reject(STOPPED)
                continue
            for placed in places.of(counts):
                if places.num_seen >= self.max_placements or context.is_stopped:
                    break
                places.try_all(placed, self)
        if places.num_seen >= self.max_placements:
            left_out.append(f"places beyond the first {self.max_placements}")
        if places.num_not_run:
            left_out.append(f"{places.num_not_run} places beyond {self.max_runs} runs")
        return replace(
            simulated.outcome(),
            is_exact=not context.is_stopped and not left_out,
            left_out=tuple(left_out),
        )


def _not_in_space(planner: Planner) -> Iterator[str]:
    """What other methods may choose and this one does not try."""
    problem = planner.problem
    alone = (
        each
        for phase in (Phase.AGGREGATED, Phase.PREFILL)
        for each in usable_shapes(planner, phase, Ledger())
    )
    if any(policies_of(problem, each) for each in alone):
        yield "batch limits but those best for one replica alone"
    if why_not_unlike(problem) is None:
        yield "pipelines of unlike stages"


@dataclass(slots=True)
class _Places:
    """Places and pairings of multisets of replicas, each simulated once."""

    simulated: Simulated
    seats: Seats = field(init=False)
    num_seen: int = 0
    num_runs: int = 0
    num_not_run: int = 0
    _shapes: list[ReplicaShape] = field(default_factory=list)
    _signatures: set[tuple[object, ...]] = field(default_factory=set)
    _bounds: dict[tuple[object, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seats = Seats.of(self.simulated.context.problem.cluster)

    def of(self, counts: ShapeCounts) -> Iterator[list[StageGpus]]:
        """Every place of these replicas."""
        shapes = [shape for shape, n in counts for _ in range(n)]
        self._shapes = sorted(shapes, key=place_in_order)
        return placements(self.seats, self._shapes)

    def is_new(self, deployment: Deployment) -> bool:
        """Whether no deployment that is the same to the simulator has been seen."""
        planner = self.simulated.context.evaluator.planner
        size = len(self._signatures)
        self._signatures.add(signature(planner.system(deployment)))
        return len(self._signatures) > size

    def try_all(self, placed: Sequence[StageGpus], most: Exhaustive) -> None:
        """Simulate replicas in one place, with every pairing of them."""
        ledger, planner = self.simulated.ledger, self._planner
        bound = self._bound_rps(placed)
        if bound is None:
            self.num_seen += 1
            ledger.reject("does not run there")
            return
        phases = [shape.phase for shape in self._shapes]
        for slices in chain([None], slicings(phases)):
            if self.num_seen >= most.max_placements:
                return
            self.num_seen += 1
            if not self._can_win(placed, bound):
                ledger.reject("its capacity cannot beat the best")
                return  # no slices add to it
            deployment = planner.deploy_if_joined(self._shapes, placed, slices)
            if deployment is None:
                ledger.reject("nothing joins its GPUs")
            elif not self.is_new(deployment):
                ledger.reject(ALIKE)
            else:
                self._try(deployment, most)

    @property
    def _planner(self) -> Planner:
        return self.simulated.context.evaluator.planner

    def _try(self, deployment: Deployment, most: Exhaustive) -> None:
        context, ledger = self.simulated.context, self.simulated.ledger
        why_not = why_over(context.problem, deployment)
        if context.should_stop():
            why_not = STOPPED
        elif self.num_runs >= most.max_runs:
            self.num_not_run += 1
            why_not = "beyond the runs of the search"
        if why_not is not None:
            ledger.reject(why_not)
            return
        self.num_runs += 1
        self.simulated.try_deployment(deployment)

    def _bound_rps(self, placed: Sequence[StageGpus]) -> float | None:
        """Rate that the replicas cannot exceed there; None where they do not run.

        It depends on the links within replicas, not on those between them.
        """
        try:
            choices = [
                self._planner.latency(shape, stage_gpus)
                for shape, stage_gpus in zip(self._shapes, placed, strict=True)
            ]
        except (InputError, LatencyUnavailableError):
            return None
        tables = [tuple(map(id, choice.stages)) for choice in choices]
        key = tuple(zip(self._shapes, tables, strict=True))
        if key not in self._bounds:
            joined = self._planner.deploy_if_joined(self._shapes, placed)
            if joined is None:
                return UNLIMITED_RPS  # slices may leave out what nothing joins
            self._bounds[key] = bound_rps(self.simulated.context, joined)
        return self._bounds[key]

    def _can_win(self, placed: Sequence[StageGpus], bound: float) -> bool:
        """Whether the replicas can beat the best, as far as capacity tells."""
        context, best = self.simulated.context, self.simulated.best
        if best is None:
            return True
        gpus = [g for stages in placed for gpus in stages for g in gpus]
        cluster = context.problem.cluster
        most = Amounts(
            rate_rps=bound,
            num_gpus=len(gpus),
            usd_per_hour=cluster.usd_per_hour(gpus),
            power_w=cluster.power_w(gpus),
        )
        return can_beat(context.problem, best, most)


def bound_rps(context: SearchContext, deployment: Deployment) -> float:
    """Rate that the goodput of a deployment cannot exceed."""
    slo = context.problem.service.slo
    return context.evaluator.rate_limit_rps(deployment, slo=slo)


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
    bound = bound_rps(context, deployment)
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
