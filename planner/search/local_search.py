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
    1. The best candidate of the methods before; where it serves nothing, or there is
       none, the first of the best promises that serves anything. Rates of all shapes,
       those of unlike stages as the start has them.
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

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from clusters.fields import check_fields, spec
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
from planner.search.local_moves import ShapeKey, Sums, key_of, moves
from planner.search.phases import rate_alone
from planner.search.ratios import (
    Mix,
    RatedShape,
    gpu_budget,
    pair_mixes,
    single_mixes,
)
from planner.search.refine import Simulated, is_large
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase

POOL_SIZE = 4
"""Replicas that share the arrivals when a shape is rated, or as many as fit."""

_SLACK = 1.15
"""How much more than it promises a move may serve: moves below the best are left out
only beyond it."""

MOST_STARTS = 4
"""Promises of each kind that are simulated when nothing serves anything yet."""

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
        if best is not None:
            rated |= _rated_unlike(context, best.deployment, ledger)
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
        return simulated.outcome()


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


def _rated_unlike(
    context: SearchContext, deployment: Deployment, ledger: Ledger
) -> dict[ShapeKey, RatedShape]:
    """The same of the replicas of unlike stages, in either phase on the same GPUs."""
    planner = context.evaluator.planner
    found: dict[ShapeKey, RatedShape] = {}
    for pool in deployment.pools():
        shape, first = pool.shape, pool.replicas[0]
        if not shape.has_unlike_stages:
            continue
        size = min(POOL_SIZE, len(pool.replicas))
        for phase in (shape.phase, OTHER.get(shape.phase)):
            if phase is None or key_of(replace(shape, phase=phase)) in found:
                continue
            limits = shape.limits if phase is shape.phase else None
            turned = replace(shape, phase=phase, limits=limits)
            alone = planner.deploy_if_joined([turned], [first.stage_gpus])
            usable = () if alone is None else (alone,)
            for each in rate_alone(context, usable, phase, ledger, pool_sizes=[size]):
                found[key_of(each.shape)] = each
    return found


def _start(
    simulated: Simulated, rated: Mapping[ShapeKey, RatedShape]
) -> Candidate | None:
    """The best of the methods before, if it serves anything.

    Else the first of the best promises that does, of both phases and of replicas for
    both; where none does, the best of those all the same.
    """
    context, problem = simulated.context, simulated.context.problem
    best = None
    if context.best is not None:
        best = simulated.try_deployment(context.best.deployment)
    of = {p: [r for r in rated.values() if r.shape.phase is p] for p in Phase}
    kinds: list[list[Mix]] = [
        pair_mixes(problem, of[Phase.PREFILL], of[Phase.DECODE]),
        single_mixes(problem, of[Phase.AGGREGATED]),
    ]
    kinds.sort(key=lambda mixes: [mix.rank(problem) for mix in mixes[:1]])
    for mixes in kinds:
        num_tried = 0
        for mix in mixes:
            if best is not None and best.goodput.rate_rps > 0:
                return best
            if num_tried == MOST_STARTS or context.should_stop():
                break
            found = simulated.try_counts(mix.shape_counts)
            num_tried += found is not None
            if found and (best is None or found.rank(problem) < best.rank(problem)):
                best = found
    return best


def _promising(
    problem: Problem, best: Candidate, rated: Mapping[ShapeKey, RatedShape]
) -> list[tuple[tuple[ReplicaShape, int], ...]]:
    """Numbers of replicas after each move that may be better, best promise first."""
    counts = counts_of(best.deployment)
    if not set(counts) <= set(rated):
        return []  # a stopped search has not rated all of them
    shapes = {key_of(r.shape): r.shape for r in best.deployment.replicas}
    own = Sums.of(counts, rated)
    # A start that serves nothing says nothing about what others promise.
    scale = best.goodput.rate_rps / (own.amounts.rate_rps or math.inf) or 1.0
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
