"""Local search: the best deployment so far, changed replica by replica.

Reference
    Aarts and Lenstra (eds.), "Local Search in Combinatorial Optimization", 1997,
    chapter 1 (iterative improvement); the moves are those that Jiang et al.,
    "HexGen-2", ICLR 2025, arXiv 2502.07903, make on groups of GPUs.

Idea
    Methods leave out what their model does not see. From the best deployment of all of
    them, a replica changes its phase, its parallelism or its GPU type, becomes two, or
    two become one. What that promises is the old sums plus a difference, so hundreds of
    changes are ranked in a moment and only the first few are simulated.

Steps
    1. The best candidate of the methods before; without one, the best promise of one
       shape a phase. Rates of all shapes.
    2. All moves from it, ranked by what they promise; those beyond a limit, and those
       that promise clearly less than the best serves, are left out.
    3. The first few are simulated; the first that ranks better is the new start, and
       back to 2. Without one, the end.

Differences from the reference
    - moves change numbers of replicas; placement puts them on GPUs anew
    - promises are scaled by what the start serves of its own promise

Assumes   one service with open arrivals
Cost      a goodput search a shape not rated yet, and at most `num_simulated` whole ones
Guarantee heuristic; never worse than where it starts
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from models.parallelism import Parallelism
from planner.deployment import Deployment, ReplicaShape
from planner.limits import why_too_much
from planner.objective import Amounts
from planner.placement import FreeGpus
from planner.problem import Problem
from planner.search.contract import (
    Candidate,
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.phases import rate_alone
from planner.search.ratios import (
    Mix,
    RatedShape,
    gpu_budget,
    pair_mixes,
    single_mixes,
)
from planner.search.refine import LARGE_POOL, Simulated, is_large
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase

POOL_SIZE = 4
"""Replicas that share the arrivals when a shape is rated, or as many as fit."""

_SLACK = 1.15
"""How much more than it promises a move may serve: moves below the best are left out
only beyond it."""

ShapeKey = tuple[Phase, str, Parallelism]
Change = Mapping[ShapeKey, int]
OTHER = {Phase.PREFILL: Phase.DECODE, Phase.DECODE: Phase.PREFILL}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSearch:
    """Moves from the best of the other methods."""

    num_simulated: int = spec("Most moves simulated.", unit="1", ge=0, default=64)
    num_tried: int = spec("Moves simulated from one start.", unit="1", ge=1, default=16)
    needs_unlike: bool = spec(
        "Leave clusters of one GPU type, and large ones, to other methods.",
        default=False,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "local-search"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals only."""
        if self.needs_unlike and len(problem.usable_gpu_types) < 2:
            return "all GPUs are of one type (ask for it by name)"
        if self.needs_unlike and is_large(problem):
            return "whole simulations of so many GPUs take long (ask for it by name)"
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-3."""
        ledger = Ledger()
        simulated = Simulated(
            self.name, context, ledger, context.evaluator.planner.deploy
        )
        # 1. The start.
        rated = _rated(context, ledger)
        best = _start(simulated, rated)
        left = self.num_simulated
        while best is not None and left > 0 and not context.should_stop():
            # 2. Moves by their promise.
            start = best
            promising = _promising(context.problem, start, rated)
            # 3. The first few, whole.
            for counts in promising[: min(self.num_tried, left)]:
                if context.should_stop():
                    break
                left -= 1
                found = simulated.try_counts(counts)
                problem = context.problem
                if found and found.rank(problem) < best.rank(problem):
                    best = found
                    break
            if best is start:
                break
        simulated.try_other_places()
        return SearchOutcome(
            method=self.name,
            candidates=simulated.ranked,
            ledger=ledger,
            is_stopped=context.is_stopped,
        )


def _rated(context: SearchContext, ledger: Ledger) -> dict[ShapeKey, RatedShape]:
    """Rate of every usable shape of every phase, in a pool."""
    planner, problem = context.evaluator.planner, context.problem
    free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
    found: dict[ShapeKey, RatedShape] = {}
    for phase in Phase:
        usable = usable_shapes(planner, phase, ledger)
        sizes = [
            max(1, min(POOL_SIZE, free.most_replicas(each.replicas[0].shape)))
            for each in usable
        ]
        for each in rate_alone(context, usable, phase, ledger, pool_sizes=sizes):
            found[key_of(each.shape)] = each
    return found


def key_of(shape: ReplicaShape) -> ShapeKey:
    """A shape without its batching."""
    return shape.phase, shape.gpu_type, shape.parallelism


def _start(
    simulated: Simulated, rated: Mapping[ShapeKey, RatedShape]
) -> Candidate | None:
    """The best of the methods before, or the best promise of one shape a phase."""
    context = simulated.context
    if context.best is not None:
        return simulated.try_deployment(context.best.deployment)
    of = {p: [r for r in rated.values() if r.shape.phase is p] for p in Phase}
    mixes: list[Mix] = pair_mixes(context.problem, of[Phase.PREFILL], of[Phase.DECODE])
    mixes += single_mixes(context.problem, of[Phase.AGGREGATED])
    mixes.sort(key=lambda mix: mix.rank(context.problem))
    for mix in mixes:
        counts = tuple((each.shape, number) for each, number in mix.counts)
        found = simulated.try_counts(counts)
        if found is not None:
            return found
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What replicas add up to; a change adds its difference."""

    rates_rps: Mapping[Phase, float] = spec("By phase.", unit="requests/s")
    replicas: Mapping[Phase, int] = spec("By phase.", unit="replicas")
    gpus: Mapping[str, int] = spec("By type.", unit="GPUs")
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=0.0)
    power_w: float | None = spec("Board limits.", unit="W", default=0.0)

    @classmethod
    def of(
        cls, counts: Mapping[ShapeKey, int], rated: Mapping[ShapeKey, RatedShape]
    ) -> "Sums":
        """The sums of some replicas."""
        return cls(rates_rps={}, replicas={}, gpus={}).changed(counts, rated)

    def changed(self, change: Change, rated: Mapping[ShapeKey, RatedShape]) -> "Sums":
        """The sums after a change, without adding up the rest again."""
        rates, replicas = Counter(self.rates_rps), Counter(self.replicas)
        gpus, usd, power = Counter(self.gpus), self.usd_per_hour, self.power_w
        for key, number in change.items():
            each = rated[key]
            rates[each.shape.phase] += each.rate_rps * number  # type: ignore[assignment]
            replicas[each.shape.phase] += number
            gpus[each.shape.gpu_type] += each.num_gpus * number
            usd = _plus(usd, each.usd_per_hour, number)
            power = _plus(power, each.power_w, number)
        return Sums(
            rates_rps=rates,
            replicas=replicas,
            gpus=gpus,
            usd_per_hour=usd,
            power_w=power,
        )

    @property
    def amounts(self) -> Amounts:
        """What they promise and take: the slower phase, or all together."""
        phases = [p for p, n in self.replicas.items() if n > 0]
        rate = min((self.rates_rps.get(p, 0.0) for p in phases), default=0.0)
        return Amounts(
            rate_rps=max(0.0, rate),
            num_gpus=sum(self.gpus.values()),
            usd_per_hour=self.usd_per_hour,
            power_w=self.power_w,
        )


def _plus(total: float | None, each: float | None, number: int) -> float | None:
    return None if total is None or each is None else total + each * number


def _promising(
    problem: Problem, best: Candidate, rated: Mapping[ShapeKey, RatedShape]
) -> list[tuple[tuple[ReplicaShape, int], ...]]:
    """Numbers of replicas after each move that may be better, best promise first."""
    counts = counts_of(best.deployment)
    if any(replica.shape.has_unlike_stages for replica in best.deployment.replicas):
        return []  # shapes that are not rated here
    if not set(counts) <= set(rated):
        return []  # a stopped search has not rated all of them
    shapes = {key_of(r.shape): r.shape for r in best.deployment.replicas}
    own = Sums.of(counts, rated)
    scale = (
        best.goodput.rate_rps / own.amounts.rate_rps if own.amounts.rate_rps else 1.0
    )
    target = problem.service.workload.rate_rps
    free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
    room = {name: free.num_free(name) for name in problem.usable_gpu_types}
    found: dict[frozenset[tuple[ShapeKey, int]], tuple[tuple[float, ...], str]] = {}
    for change in moves(counts, rated):
        after = own.changed(change, rated)
        if not _is_within(problem, after, room):
            continue
        promised = after.amounts.rate_rps * scale
        rank = problem.objective.rank(_at(after.amounts, promised), target)
        hoped = problem.objective.rank(_at(after.amounts, promised * _SLACK), target)
        if hoped <= best.rank(problem):
            new = {k: counts.get(k, 0) + change.get(k, 0) for k in {*counts, *change}}
            kept = frozenset((k, n) for k, n in new.items() if n)
            found.setdefault(kept, (rank, str(sorted(map(str, kept)))))
    order = sorted(found, key=lambda kept: found[kept])
    return [
        tuple(
            (shapes.get(key, rated[key].shape), number)
            for key, number in sorted(kept, key=lambda each: str(each[0]))
        )
        for kept in order
    ]


def _at(amounts: Amounts, rate_rps: float) -> Amounts:
    return Amounts(
        rate_rps=rate_rps,
        num_gpus=amounts.num_gpus,
        usd_per_hour=amounts.usd_per_hour,
        power_w=amounts.power_w,
    )


def counts_of(deployment: Deployment) -> dict[ShapeKey, int]:
    """Replicas of each shape, whatever their batching."""
    return dict(Counter(key_of(replica.shape) for replica in deployment.replicas))


def _is_within(problem: Problem, after: Sums, room: Mapping[str, int]) -> bool:
    """Whether both phases, the GPUs and all limits are kept."""
    numbers = [n for n in after.replicas.values() if n]
    split = [after.replicas.get(p, 0) > 0 for p in OTHER]
    if not numbers or min(numbers) < 0 or split[0] != split[1]:
        return False
    most = problem.search.max_replicas
    if most is not None and max(numbers) > most:
        return False
    if sum(after.gpus.values()) > gpu_budget(problem):
        return False
    if any(used > room.get(name, 0) for name, used in after.gpus.items()):
        return False
    amounts = after.amounts
    return not why_too_much(problem, after.gpus, amounts.usd_per_hour, amounts.power_w)


def moves(
    counts: Mapping[ShapeKey, int], rated: Mapping[ShapeKey, RatedShape]
) -> Iterator[Change]:
    """Every change of one kind, a few replicas of a large pool at a time."""
    for key, number in counts.items():
        some = max(1, number // LARGE_POOL)
        phase, gpu_type, _ = key
        size = rated[key].num_gpus
        yield {key: some}  # more
        yield {key: -some}  # fewer
        for other, each in rated.items():
            if other == key or (phase is Phase.AGGREGATED) != (
                other[0] is Phase.AGGREGATED
            ):
                continue
            alike = other[1] == gpu_type
            if alike and other[0] is phase and 2 * each.num_gpus == size:
                yield {key: -some, other: 2 * some}  # split
            elif alike and other[0] is phase and each.num_gpus == 2 * size:
                if number >= 2:
                    yield {key: -2 * some, other: some}  # merge
            elif each.num_gpus == size and alike:
                yield {key: -some, other: some}  # flip the phase, or change TP and PP
            elif alike and each.num_gpus < size:
                yield {key: -some, other: some * (size // each.num_gpus)}  # move GPUs
            else:
                yield {other: some}  # add another shape
        yield from _swaps(key, counts, rated)


def _swaps(
    key: ShapeKey, counts: Mapping[ShapeKey, int], rated: Mapping[ShapeKey, RatedShape]
) -> Iterable[Change]:
    """Replicas of unlike phases and GPU types exchange their phases."""
    phase, gpu_type, parallelism = key
    if phase is not Phase.PREFILL:
        return
    for other in counts:
        if other[0] is Phase.DECODE and other[1] != gpu_type:
            ours = (Phase.DECODE, gpu_type, parallelism)
            theirs = (Phase.PREFILL, other[1], other[2])
            if ours in rated and theirs in rated:
                change = Counter({key: -1, other: -1})
                change[ours] += 1
                change[theirs] += 1
                yield change
