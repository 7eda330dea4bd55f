"""Per type: every GPU type serves for itself, side by side or the best alone.

Two baselines: `per-type` and, without step 3, `homogeneous`.

Reference
    The separate pipelines that Mei et al., "Helix", ASPLOS 2025, arXiv 2406.01566, and
    Jiang et al., "HexGen-2", ICLR 2025, arXiv 2502.07903, compare with.

Idea
    What people do with unlike GPUs who have no planner for them: a system for each
    type, with its own prefill and decode replicas, and requests shared out among the
    systems. What mixing types is worth is what a plan has over this one.

Steps
    1. Shapes of each phase, and the goodput of one replica.
    2. For each type the numbers of replicas that promise most, split and aggregated;
       the first few are simulated alone.
    3. The best of the types side by side, the best type first, then one more at a
       time. KV caches stay within a type.

Differences from the paper
    - one router over all types, with the least work, as everywhere here

Assumes   one service with open arrivals
Cost      one goodput search a shape, and 2 * (3 T + T) whole ones for T types
Guarantee heuristic
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.deployment import Deployment
from planner.placement import place
from planner.problem import Problem
from planner.search.contract import (
    STOPPED,
    Candidate,
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.phases import rate_alone
from planner.search.ratios import Mix, RatedShape, gpu_budget, pair_mixes, single_mixes
from planner.search.refine import Simulated
from planner.search.shapes import usable_gpu_types, usable_shapes
from planner.serving import Planner
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class PerType:
    """A system for each GPU type."""

    is_side_by_side: bool = spec(
        "Whether types serve together; otherwise the best one alone.", default=True
    )
    num_finalists: int = spec(
        "Deployments of each type and kind simulated.", unit="1", ge=1, default=3
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "per-type" if self.is_side_by_side else "homogeneous"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals only."""
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-3."""
        ledger = Ledger()
        planner, problem = context.evaluator.planner, context.problem
        # 1. Shapes.
        rated = {
            phase: rate_alone(
                context, usable_shapes(planner, phase, ledger), phase, ledger
            )
            for phase in Phase
        }
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        for is_split in (True, False):
            # 2. The best of each type.
            found = []
            for name in usable_gpu_types(problem):
                mixes = _mixes(problem, rated, name, is_split=is_split)
                best = self._best(simulated, mixes)
                if best is not None:
                    found.append(best)
            # 3. Side by side.
            found.sort(key=lambda c: (c.rank(problem), c.deployment.describe()))
            most = len(found) if self.is_side_by_side else 1
            for number in range(2, most + 1):
                _try_together(simulated, [each.deployment for each in found[:number]])
        simulated.try_other_places()
        return simulated.outcome()

    def _best(self, simulated: Simulated, mixes: Sequence[Mix]) -> Candidate | None:
        """The best of the first mixes that fit; the others are counted."""
        found: list[Candidate] = []
        num_left = len(mixes)
        for mix in mixes:
            if len(found) == self.num_finalists or simulated.context.should_stop():
                break
            num_left -= 1
            counts = tuple((rated.shape, number) for rated, number in mix.counts)
            candidate = simulated.try_counts(counts)
            if candidate is not None:
                found.append(candidate)
        is_cut_short = simulated.context.is_stopped
        why = STOPPED if is_cut_short else "promises less than those simulated"
        simulated.ledger.reject(why, num_left)
        problem = simulated.context.problem
        return min(found, key=lambda c: c.rank(problem), default=None)


def _mixes(
    problem: Problem,
    rated: dict[Phase, list[RatedShape]],
    gpu_type: str,
    *,
    is_split: bool,
) -> list[Mix]:
    """Numbers of replicas of one type, the best promise first."""
    own = {
        phase: [each for each in shapes if each.shape.gpu_type == gpu_type]
        for phase, shapes in rated.items()
    }
    if is_split:
        return pair_mixes(problem, own[Phase.PREFILL], own[Phase.DECODE])
    return single_mixes(problem, own[Phase.AGGREGATED])


def _try_together(simulated: Simulated, parts: Sequence[Deployment]) -> None:
    """Simulate deployments of different types as one, each in a slice of its own."""
    context, ledger = simulated.context, simulated.ledger
    if context.should_stop():
        ledger.reject(STOPPED)
        return
    problem = context.problem
    num_replicas = [sum(len(part.of_phase(phase)) for part in parts) for phase in Phase]
    most = problem.search.max_replicas
    if sum(part.num_gpus for part in parts) > gpu_budget(problem) or (
        most is not None and max(num_replicas) > most
    ):
        ledger.reject("needs more GPUs or replicas than the plan may use")
        return
    together = _side_by_side(context.evaluator.planner, parts)
    if together is None:
        ledger.reject("does not fit the nodes")
    else:
        simulated.try_deployment(together)


def _side_by_side(planner: Planner, parts: Sequence[Deployment]) -> Deployment | None:
    """Replicas of all parts; those of a part are a slice."""
    replicas = [
        (replica.shape, number)
        for number, part in enumerate(parts)
        for replica in part.replicas
    ]
    replicas.sort(key=lambda each: each[0].phase is not Phase.PREFILL)
    shapes = [shape for shape, _ in replicas]
    problem = planner.problem
    placed = place(problem.cluster, shapes, problem.search.available_gpus)
    if placed is None:
        return None
    return planner.deploy_if_joined(shapes, placed, [number for _, number in replicas])
