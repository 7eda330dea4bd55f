"""Pipelines: replicas whose stages are on unlike GPUs, beside uniform ones.

Reference
    Mei et al., "Helix: Serving Large Language Models over Heterogeneous GPUs and
    Network via Max-Flow", ASPLOS 2025, arXiv 2406.01566; Jiang et al., "HexGen:
    Generative Inference of Large-Scale Foundation Model over Heterogeneous
    Decentralized Environment", ICML 2024, arXiv 2311.11514.

Idea
    GPUs that cannot hold the model among their own kind, or that are left over when
    their kind has made its replicas, serve together with others: one pipeline, in which
    every stage holds as many layers as suit it.

Steps
    1. Recipes: numbers of tensor-parallel groups of two GPU types or more; for each the
       exact layer split of its phase, and what that promises.
    2. Goodput of one replica of the most promising recipes, as of uniform ones.
    3. Numbers of aggregated replicas, and of prefill and decode replicas of which one
       kind at least is unlike, ranked by promise; the most promising simulated whole.
    4. Improve the best by replicas more or fewer, and by replicas of one more shape,
       uniform or unlike, on GPUs that it leaves free.

Differences from the papers
    - a GPU belongs to one replica (Helix routes every request its own way through
      machines whose layers may overlap; `planner.pipelines` does that for a closed
      loop)
    - no genetic search or integer programme: few recipes, judged by simulation within
      the SLO

Assumes   one service with open arrivals; GPUs of two usable types or more
Cost      a dynamic programme a recipe (some milliseconds), a goodput search for each
          of `num_rated` shapes of a phase with each batching, about 20 whole ones
Guarantee heuristic (layer splits are exact for the typical load of `split_of`)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.deployment import ReplicaShape
from planner.placement import FreeGpus
from planner.problem import Problem
from planner.search.contract import (
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.phases import rate_alone
from planner.search.pipelines.candidates import UnlikeReplicas
from planner.search.pipelines.leftovers import why_no_leftovers, why_not_unlike
from planner.search.ratios import (
    Mix,
    RatedShape,
    best_of_each_type,
    pair_mixes,
    single_mixes,
)
from planner.search.refine import Simulated, refine
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipelines:
    """Pipelines across unlike GPUs."""

    num_rated: int = spec(
        "Unlike shapes of each phase that are simulated.", unit="1", ge=1, default=4
    )
    num_finalists: int = spec(
        "Whole deployments of each kind simulated before the climb.",
        unit="1",
        ge=1,
        default=5,
    )
    max_gpus: int = spec("Largest cluster it takes on.", unit="GPUs", ge=2, default=128)
    needs_leftovers: bool = spec(
        "Leave clusters where every type serves by itself to other methods.",
        default=False,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "pipelines"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals, two GPU types, stages to join, and not too many GPUs."""
        num_gpus = problem.cluster.num_gpus
        if num_gpus > self.max_gpus:
            return f"{num_gpus} GPUs are too many (at most {self.max_gpus})"
        why_not = why_not_open(problem) or why_not_unlike(problem)
        if why_not is None and self.needs_leftovers:
            return why_no_leftovers(problem)
        return why_not

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-4."""
        ledger = Ledger()
        planner, problem = context.evaluator.planner, context.problem
        makes = UnlikeReplicas(planner)
        unlike: dict[Phase, list[RatedShape]] = {}
        uniform: dict[Phase, list[RatedShape]] = {}
        for phase in Phase:
            # 1. Recipes.
            free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
            found = makes.best(free, phase, self.num_rated, ledger)
            # 2. Goodput of one replica.
            alone = tuple(each.alone for each in found)
            unlike[phase] = rate_alone(context, alone, phase, ledger)
            usable = usable_shapes(planner, phase, ledger) if unlike[phase] else ()
            uniform[phase] = rate_alone(context, usable, phase, ledger)
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        # 3. and 4. Aggregated, then prefill and decode apart.
        single = single_mixes(problem, unlike[Phase.AGGREGATED])
        self._refine(simulated, single, (Phase.AGGREGATED,), unlike, uniform)
        pairs = _unlike_pairs(problem, unlike, uniform)
        simulated.best = None  # the climb of the other kind has its own best
        self._refine(simulated, pairs, (Phase.PREFILL, Phase.DECODE), unlike, uniform)
        return simulated.outcome(has_unlike=True)

    def _refine(
        self,
        simulated: Simulated,
        mixes: Sequence[Mix],
        phases: Sequence[Phase],
        unlike: dict[Phase, list[RatedShape]],
        uniform: dict[Phase, list[RatedShape]],
    ) -> None:
        promised = [mix.shape_counts for mix in mixes]
        extras: list[ReplicaShape] = []
        for phase in phases:
            extras += best_of_each_type(uniform[phase])
            extras += [each.shape for each in unlike[phase] if each.rate_rps > 0]
        refine(simulated, promised, num_finalists=self.num_finalists, extras=extras)


def _unlike_pairs(
    problem: Problem,
    unlike: dict[Phase, list[RatedShape]],
    uniform: dict[Phase, list[RatedShape]],
) -> list[Mix]:
    """Pairs of a prefill and a decode shape, one of them unlike at least."""
    prefill, decode = Phase.PREFILL, Phase.DECODE
    mixes = pair_mixes(problem, unlike[prefill], unlike[decode] + uniform[decode])
    mixes += pair_mixes(problem, uniform[prefill], unlike[decode])
    return sorted(mixes, key=lambda mix: mix.rank(problem))
