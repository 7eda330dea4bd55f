"""HexGen-2: groups of unlike GPUs, their phases and strategies, by partition and flow.

Reference
    Jiang et al., "HexGen-2: Disaggregated Generative Inference of LLMs in
    Heterogeneous Environment", ICLR 2025, arXiv 2502.07903.

Idea
    Put GPUs with fast links between them in groups that each hold the model. Let the
    groups prefill or decode so that the fast links left are between the two. A maximum
    flow tells what that serves and which groups or links bind; swaps between those and
    groups with capacity to spare make it more, step by step.

Steps
    1. The bandwidth graph of the GPUs.
    2. Starts: memory-balanced spectral partition, refined by Kernighan-Lin, with the
       number of groups swept; phases by the cut of the coarsened graph.
    3. For each group the best strategy of its phase; the maximum flow.
    4. Swaps guided by the minimum cut, until none helps; the next start. In turn, with
       prefill taken to be as good as alone, worse and better.
    5. The groupings that promise most are simulated whole, with KV caches free to go
       anywhere and, where nodes hold both phases, kept in them.
    6. Neighbours of the best are simulated too, in the order of their flows.

Differences from the paper
    - GPUs are grouped and swapped within their type, and types meet in the flow; where
      a type cannot serve by itself, or leaves GPUs over, there are groups of several
      types too (`mixed_groups`), which run the best pipeline of unlike stages
    - rates are simulated, in pools and within the limits on TTFT and TPOT; the paper
      has the reciprocal of one request's latency, with neither SLO nor queue
    - so prefill takes the strategy of the highest rate within its limit, not the one
      of least latency
    - the flow over shared NICs; goals other than throughput, with idle groups
    - the simulator decides among the groupings with the highest flows

Assumes   one service with open arrivals; two GPUs or more, and at most `max_gpus`
Cost      one goodput search a shape and kind of place; up to 400 flows of half a
          millisecond a start; about 9 + 36 whole goodput searches
Guarantee heuristic; never worse than its own starts as the flow judges them
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, cycle

import numpy as np

from clusters.fields import check_fields, spec
from planner.problem import Problem
from planner.search.contract import (
    STOPPED,
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.hexgen2.finalists import Finals
from planner.search.hexgen2.graph import gpu_graph
from planner.search.hexgen2.grouping import Judge, Judged
from planner.search.hexgen2.kv_flow import KvFlows
from planner.search.hexgen2.mixed_groups import mixed_starts, mixes_types
from planner.search.hexgen2.moves import Neighbours
from planner.search.hexgen2.starts import starts
from planner.search.hexgen2.strategy import Strategies
from planner.search.hexgen2.swaps import at_random, guided
from planner.search.refine import Simulated

FACTORS = (1.0, 0.7, 1.4)
"""On the rates of prefill replicas: which phase is harder than alone is not known."""

_STREAM, _MIXED_STREAM = 7202, 7203
"""Keep the draws of this method, and of groups of several types, apart from those of
others with the same seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HexGen2:
    """Partition, flow and guided swaps."""

    num_starts: int = spec("Partitions to start from.", unit="1", ge=1, default=9)
    num_finalists: int = spec("Groupings simulated whole.", unit="1", ge=1, default=9)
    max_tried: int = spec(
        "Neighbours looked at from one start by guided swaps.",
        unit="1",
        ge=0,
        default=400,
    )
    num_neighbours: int = spec(
        "Neighbours of the best simulated whole.", unit="1", ge=0, default=36
    )
    max_gpus: int = spec(
        "Largest cluster it takes on: its graph is dense.",
        unit="GPUs",
        ge=2,
        default=96,
    )
    is_guided: bool = spec("Swaps by the flow; otherwise at random.", default=True)
    needs_unlike: bool = spec(
        "Leave clusters of one GPU type to other methods.", default=False
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "hexgen2"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals, two GPUs or more, and not too many."""
        num_gpus = problem.cluster.num_gpus
        if num_gpus < 2:
            return "one GPU cannot hold a prefill and a decode group"
        if num_gpus > self.max_gpus:
            return f"{num_gpus} GPUs make too large a graph (at most {self.max_gpus})"
        if self.needs_unlike and len(problem.cluster.gpu_types()) < 2:
            return "all GPUs are of one type (ask for it by name)"
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-6."""
        ledger = Ledger()
        problem = context.problem
        types = [gpu.type.name for gpu in problem.cluster.topology.gpus]
        # 1. The graph.
        graph = gpu_graph(problem.cluster)
        moves = Neighbours(graph, types)
        strategies = Strategies(context, ledger)
        flows = KvFlows(problem)
        judges = [Judge(problem, strategies, flows, each) for each in FACTORS]
        # 2-4. Groupings.
        self.explore(context, judges, moves, strategies, ledger)
        # 5. The most promising, whole.
        planner = context.evaluator.planner
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        finals = Finals(simulated, judges)
        finals.simulate_most_promising(self.num_finalists)
        # 6. Neighbours of the best.
        finals.climb(moves, self.num_neighbours)
        simulated.try_other_places()
        judged = {g for judge in judges for g, found in judge.known.items() if found}
        why = STOPPED if context.is_stopped else "promises less than those simulated"
        ledger.reject(why, max(0, len(judged) - len(finals.seen)))
        return simulated.outcome(has_unlike=mixes_types(problem))

    def explore(
        self,
        context: SearchContext,
        judges: Sequence[Judge],
        moves: Neighbours,
        strategies: Strategies,
        ledger: Ledger | None = None,
    ) -> Judged | None:
        """Steps 2-4: the grouping that promises most; judges remember the others.

        The judges take turns with the starts. The first start is judged in any case, so
        that a stopped search has an answer.
        """
        problem, seed = context.problem, context.evaluator.seed
        rng = np.random.default_rng([seed, _STREAM])
        best: Judged | None = None
        # 2. Starts.
        found = starts(problem, moves.graph, strategies, rng, self.num_starts)
        ledger = ledger or Ledger()
        own_rng = np.random.default_rng([seed, _MIXED_STREAM])
        mixed = mixed_starts(problem, moves.graph, strategies, own_rng, ledger)
        for judge, start in zip(cycle(judges), chain(found, mixed), strict=False):
            # 3. Strategies and flow.
            judged = judge.judge(start)
            # 4. Swaps.
            if judged is not None and self.is_guided:
                judged = guided(
                    judge,
                    moves,
                    judged,
                    context.should_stop,
                    max_tried=self.max_tried,
                )
            elif judged is not None:
                judged = at_random(judge, moves, judged, context.should_stop, rng)
            if judged is not None and (best is None or judged.rank < best.rank):
                best = judged
            if context.should_stop():
                break
        return best
