"""Aggregated baseline: every replica prefills and decodes.

Reference
    Yu et al., "Orca", OSDI 2022 (iteration-level batching); Kwon et al.,
    "PagedAttention" (vLLM), SOSP 2023 (prefill-first scheduling).

Idea
    The alternative to disaggregation, on the same GPUs under the same SLO. It needs no
    KV transfer and no ratio, but prompts delay the tokens of requests that decode. It
    is always evaluated, so that a plan can say honestly whether to disaggregate.

Steps
    1. Enumerate TP and PP; drop what does not divide, fit or have a latency.
    2. Goodput of one replica of each shape.
    3. Numbers of replicas, ranked by promise.
    4. Simulate the most promising whole, requests routed to the least work.
    5. Improve the best by single replicas more or fewer, and by replicas of one more
       shape (another GPU type, say) on GPUs that it leaves free.

Differences from the paper
    - several replicas behind one router, which share bursts

Assumes   one service with open arrivals
Cost      TP x PP goodput searches and about 8 + 2 a round whole ones
Guarantee heuristic
"""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.problem import Problem
from planner.search.contract import (
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.phases import rate_alone
from planner.search.ratios import best_of_each_type, single_mixes
from planner.search.refine import Simulated, refine
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated:
    """Replicas that do both phases."""

    num_finalists: int = spec(
        "Whole deployments simulated before the climb.", unit="1", ge=1, default=8
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "aggregated"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals only."""
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-5."""
        ledger = Ledger()
        planner = context.evaluator.planner
        # 1. Shapes.
        usable = usable_shapes(planner, Phase.AGGREGATED, ledger)
        # 2. Goodput of one replica.
        rated = rate_alone(context, usable, Phase.AGGREGATED, ledger)
        # 3. Numbers of replicas.
        mixes = single_mixes(context.problem, rated)
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        # 4. The most promising, whole.
        promised = [mix.shape_counts for mix in mixes]
        # 5. Then the neighbours of the best.
        extras = best_of_each_type(rated)
        refine(simulated, promised, num_finalists=self.num_finalists, extras=extras)
        return simulated.outcome()
