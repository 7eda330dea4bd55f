"""Refinement shared by the methods: the best promises, then their neighbours."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from planner.cost import power_w, usd_per_hour
from planner.deployment import Deployment, ReplicaShape
from planner.goodput import Effort
from planner.limits import why_over
from planner.placement import FreeGpus
from planner.places.deployments import deployed_apart, other_places
from planner.problem import Problem
from planner.search.contract import (
    STOPPED,
    Candidate,
    Ledger,
    SearchContext,
    SearchOutcome,
)
from planner.search.ratios import gpu_budget
from planner.serving import place_in_order
from planner.simulator.system import Phase

MAX_STEPS = 40
"""Deployments that one climb may look at."""

LARGE_CLUSTER = 256
"""On so many GPUs whole simulations take seconds: a few of them have to do."""

_FEW = 2
"""Deployments simulated before the climb, and by it, on a large cluster."""

LARGE_POOL = 8
"""Pools beyond this size change by more than one replica a step."""

_NUM_PLACED, _NUM_PLACES = 4, 4
"""Best numbers of replicas that are simulated in other places, and places of each."""

_SMALL_CLUSTER = 16
"""On more GPUs only the best numbers of replicas are."""

ShapeCounts = tuple[tuple[ReplicaShape, int], ...]


@dataclass(slots=True)
class Simulated:
    """Deployments simulated by one method: each is made and simulated once."""

    method: str
    context: SearchContext
    ledger: Ledger
    deploy: Callable[[Sequence[ReplicaShape]], Deployment | None]
    effort: Effort | None = None
    known: dict[ShapeCounts, Candidate | None] = field(default_factory=dict)
    candidates: dict[Deployment, Candidate] = field(default_factory=dict)
    best: Candidate | None = None

    def try_counts(self, counts: ShapeCounts) -> Candidate | None:
        """Simulate these numbers of replicas; None when they do not fit the cluster."""
        counts = tuple((shape, n) for shape, n in counts if n > 0)
        if counts in self.known:
            return self.known[counts]
        shapes = [shape for shape, n in counts for _ in range(n)]
        deployment = self.deploy(shapes)
        if deployment is None:
            self.ledger.reject("does not fit the nodes")
            self.known[counts] = None
            return None
        found = self.try_deployment(deployment)
        apart = self.try_apart(shapes, found)
        problem = self.context.problem
        if found is None or (apart and apart.rank(problem) < found.rank(problem)):
            found = apart
        self.known[counts] = found
        return found

    def try_apart(
        self, shapes: Sequence[ReplicaShape], whole: Candidate | None
    ) -> Candidate | None:
        """Simulate replicas in slices too, where KV flows promise no less of that."""
        context = self.context
        if is_large(context.problem) or context.should_stop():
            return None
        planner = context.evaluator.planner
        ordered = sorted(shapes, key=place_in_order)
        apart = deployed_apart(planner, ordered)
        return None if apart is None else self._try_elsewhere(apart, whole)

    def _try_elsewhere(
        self, deployment: Deployment, known: Candidate | None
    ) -> Candidate | None:
        """Simulate replicas in another place, if one run there is not worse."""
        rate_rps = 0.0 if known is None else known.goodput.rate_rps
        evaluator = self.context.evaluator
        if deployment in self.candidates:
            return self.candidates[deployment]
        if rate_rps > 0 and not evaluator.is_met_at(deployment, rate_rps):
            self.ledger.reject("serves less than in another place")
            return None
        return self.try_deployment(deployment)

    def try_deployment(self, deployment: Deployment) -> Candidate | None:
        """Simulate a deployment, if it has not been; None beyond the plan's limits."""
        if deployment in self.candidates:
            return self.candidates[deployment]
        why_not = why_over(self.context.problem, deployment)
        if why_not:
            self.ledger.reject(why_not)
            return None
        evaluator = self.context.evaluator
        candidate = Candidate(
            method=self.method,
            deployment=deployment,
            goodput=evaluator.goodput(deployment, effort=self.effort),
            usd_per_hour=usd_per_hour(self.context.problem.cluster, deployment),
            power_w=power_w(self.context.problem.cluster, deployment),
        )
        self.ledger.evaluated += 1
        self.candidates[deployment] = candidate
        self.context.note(candidate)
        problem = self.context.problem
        if self.best is None or candidate.rank(problem) < self.best.rank(problem):
            self.best = candidate
        return candidate

    def try_other_places(self) -> None:
        """Simulate the best numbers of replicas on other GPUs of unlike hosts too.

        The places are those of the highest KV flows, which know no queues.
        """
        context = self.context
        planner = context.evaluator.planner
        if is_large(context.problem):
            return
        best: dict[str, Candidate] = {}
        for candidate in self.ranked:
            if candidate.deployment.routes:
                best.setdefault(candidate.deployment.describe(), candidate)
        is_small = gpu_budget(context.problem) <= _SMALL_CLUSTER
        most = _NUM_PLACED if is_small else 1
        for candidate in list(best.values())[:most]:
            for deployment in other_places(planner, candidate.deployment, _NUM_PLACES):
                if context.should_stop():
                    return
                self._try_elsewhere(deployment, candidate)

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """All simulated candidates, best first."""
        problem = self.context.problem
        return tuple(
            sorted(
                self.candidates.values(),
                key=lambda c: (c.rank(problem), c.deployment.describe()),
            )
        )

    def outcome(self, *, has_unlike: bool = False) -> SearchOutcome:
        """What the method found, with all that it simulated."""
        return SearchOutcome(
            method=self.method,
            candidates=self.ranked,
            ledger=self.ledger,
            is_stopped=self.context.is_stopped,
            has_unlike=has_unlike,
        )


def refine(
    simulated: Simulated,
    promised: Sequence[ShapeCounts],
    *,
    num_finalists: int,
    extras: Sequence[ReplicaShape] = (),
) -> None:
    """Simulate the first promises that fit, climb from the best, count the others.

    `extras` are shapes that the climb may add: that is how GPUs which no pool of the
    best uses (another type, the rest of a node) come to serve too.
    """
    simulate_promising(simulated, promised, num_finalists=num_finalists)
    climb(simulated, extras=extras)
    simulated.try_other_places()
    # Counted last: the climb may have come across some of them.
    left = sum(1 for counts in promised if counts not in simulated.known)
    is_cut_short = simulated.context.is_stopped
    why = STOPPED if is_cut_short else "promises less than those simulated"
    simulated.ledger.reject(why, left)


def simulate_promising(
    simulated: Simulated, promised: Iterable[ShapeCounts], *, num_finalists: int
) -> None:
    """Simulate the first `num_finalists` that fit."""
    num_done = 0
    if is_large(simulated.context.problem):
        num_finalists = min(num_finalists, _FEW)
    for counts in promised:
        if num_done >= num_finalists or simulated.context.should_stop():
            return
        if simulated.try_counts(counts) is not None:
            num_done += 1


def climb(
    simulated: Simulated,
    *,
    extras: Sequence[ReplicaShape] = (),
    max_rounds: int = 20,
) -> None:
    """Move from the best candidate to better numbers of replicas, until none is.

    Neighbours have a replica more or fewer of one shape (an eighth of a large pool), or
    of all shapes at once, or replicas of one more shape: one, or as many as there are
    GPUs for. A climb ends after `MAX_STEPS` deployments in any case.
    """
    start = len(simulated.known)
    most = _FEW if is_large(simulated.context.problem) else MAX_STEPS
    for _ in range(max_rounds):
        best = simulated.best
        if best is None or simulated.context.should_stop():
            return
        for neighbour in _neighbours(simulated, best, extras):
            if simulated.context.should_stop():
                return
            if len(simulated.known) - start >= most:
                return
            simulated.try_counts(neighbour)
        if simulated.best is best:
            return


def is_large(problem: Problem) -> bool:
    """Whether the search has to make do with few whole simulations."""
    return gpu_budget(problem) >= LARGE_CLUSTER


def _neighbours(
    simulated: Simulated, best: Candidate, extras: Sequence[ReplicaShape]
) -> list[ShapeCounts]:
    pools = best.deployment.pools()
    shapes = [pool.shape for pool in pools]
    counts = [len(pool.replicas) for pool in pools]
    steps = [[0] * len(counts) for _ in range(2 * len(counts))]
    for i in range(len(counts)):
        size = max(1, counts[i] // LARGE_POOL)
        steps[2 * i][i], steps[2 * i + 1][i] = size, -size
    if len(counts) > 1:
        sizes = [max(1, count // LARGE_POOL) for count in counts]
        steps += [sizes, [-size for size in sizes]]
    found: list[ShapeCounts] = []
    for step in steps:
        moved = [n + s for n, s in zip(counts, step, strict=True)]
        if min(moved) >= 1:
            found.append(tuple(zip(shapes, moved, strict=True)))
    kept = tuple(zip(shapes, counts, strict=True))
    for extra in extras:
        left = _room_for(simulated, best, extra)
        if extra not in shapes:
            found += [(*kept, (extra, n)) for n in sorted({min(1, left), left}) if n]
    return [each for each in found if _is_within(simulated, each)]


def _room_for(simulated: Simulated, best: Candidate, shape: ReplicaShape) -> int:
    """Replicas of a shape that there are GPUs for beside the best."""
    problem = simulated.context.problem
    free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
    return free.without(set(best.deployment.gpu_indices)).most_replicas(shape)


def _is_within(simulated: Simulated, counts: ShapeCounts) -> bool:
    """Whether the limits on GPUs and on the replicas of each phase are kept."""
    space = simulated.context.problem.search
    gpus = sum(n * shape.parallelism.num_gpus for shape, n in counts)
    budget = gpu_budget(simulated.context.problem)
    replicas: dict[Phase, int] = {}
    for shape, n in counts:
        replicas[shape.phase] = replicas.get(shape.phase, 0) + n
    limit = space.max_replicas or budget
    return gpus <= budget and max(replicas.values()) <= limit
