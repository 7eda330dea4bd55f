"""DistServe, high node-affinity: choose each phase alone, then replicate both.

Reference
    Zhong et al., "DistServe: Disaggregating Prefill and Decoding for Goodput-optimized
    Large Language Model Serving", OSDI 2024, arXiv 2401.09670.
    Algorithm 1 (section 4.1).

Idea
    When the network between nodes carries the KV cache easily, prefill and decode
    replicas can be anywhere, so the best parallelism of each phase can be found without
    the other. Simulate one prefill replica against the TTFT limit and one decode
    replica against the TPOT limit, then replicate each to the traffic. The ratio of
    prefill to decode replicas is part of the answer.

Steps
    1. Enumerate TP and PP for each phase; drop what does not divide, fit or have a
       latency, counting each reason.
    2. Goodput of one replica of each shape, for its phase alone.
    3. Numbers of replicas that match, for every pair of shapes, ranked by promise.
    4. Place the most promising on concrete GPUs and simulate them whole, KV transfers
       over the real links included.
    5. Improve the best by single replicas more or fewer, and by replicas of one more
       shape (another GPU type, say) on GPUs that it leaves free.

Differences from the paper
    - the whole is simulated, not only its parts: a joint SLO is harder than its parts,
      a shared queue is better than several;
    - memory, KV transfer and its contention are modelled, also where the network is
      fast (the released simulator has none of them);
    - a tensor-parallel group stays on one node (or NVLink domain);
    - the best pair is not always the pair of the best: rounding to whole replicas and
      whole nodes decides, so all pairs are ranked.

Assumes   one service with open arrivals
Cost      2 * (TP x PP) one-phase goodput searches and about 12 + 5 a round whole ones
Guarantee heuristic (exact over pairs of shapes only if promises rank them rightly)
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
from planner.search.ratios import RatedShape, best_of_each_type, pair_mixes
from planner.search.refine import Simulated, refine
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class DistServeHigh:
    """Phases chosen independently, then replicated."""

    num_finalists: int = spec(
        "Whole deployments simulated before the climb.", unit="1", ge=1, default=12
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "distserve-high"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals only."""
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-5."""
        ledger = Ledger()
        planner = context.evaluator.planner
        rated: dict[Phase, list[RatedShape]] = {}
        for phase in (Phase.PREFILL, Phase.DECODE):
            # 1. Shapes of the phase.
            usable = usable_shapes(planner, phase, ledger)
            # 2. Their goodput for the phase alone.
            rated[phase] = rate_alone(context, usable, phase, ledger)
        # 3. Pairs and numbers.
        mixes = pair_mixes(context.problem, rated[Phase.PREFILL], rated[Phase.DECODE])
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        # 4. The most promising, whole.
        promised = [mix.shape_counts for mix in mixes]
        # 5. Then the neighbours of the best.
        extras = [s for each in rated.values() for s in best_of_each_type(each)]
        refine(simulated, promised, num_finalists=self.num_finalists, extras=extras)
        return simulated.outcome()
