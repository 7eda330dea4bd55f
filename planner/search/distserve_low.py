"""DistServe, low node-affinity: units whose KV caches never leave a node.

Reference
    Zhong et al., "DistServe: Disaggregating Prefill and Decoding for Goodput-optimized
    Large Language Model Serving", OSDI 2024, arXiv 2401.09670.
    Algorithm 2 (section 4.2).

Idea
    Where the network between nodes is slow, a KV cache must travel inside a node.
    Layers are cut in c segments over c nodes; each node holds the same segment of the
    prefill and of the decode instances of a unit, so every layer's KV cache moves
    between GPUs of one node. A unit is simulated whole, then replicated.

Steps
    1. For every number of nodes c, enumerate the shapes whose stages divide into c
       segments, and the numbers of prefill and decode instances that fill a node.
    2. Rank units by what their parts promise (goodput of a phase alone).
    3. Place the most promising units: segment s of all instances on the s-th node.
    4. Simulate one unit, replicate it to the traffic (or the cluster), and simulate the
       whole; requests stay in their unit.

Differences from the paper
    - several instances of a phase in a unit (the ratio), where the paper has one each;
    - several small units may share a node;
    - only the most promising units are simulated whole.

Assumes   one service with open arrivals; nodes of at least two GPUs
Cost      one-phase goodput searches as in `distserve_high`, about 12 units and as many
          wholes
Guarantee heuristic
"""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.problem import Problem
from planner.search.contract import (
    STOPPED,
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.phases import rate_alone
from planner.search.refine import Simulated
from planner.search.shapes import usable_shapes
from planner.search.units import Unit, place_units, ranked_units, repetitions
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class DistServeLow:
    """Units of prefill and decode segments that share nodes."""

    num_finalists: int = spec("Units simulated whole.", unit="1", ge=1, default=12)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "distserve-low"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals, and a node that can hold both phases."""
        largest = max(len(node.slots) for node in problem.cluster.nodes)
        if largest < 2:
            return "no node has two GPUs for a prefill and a decode segment"
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-4."""
        ledger = Ledger()
        planner = context.evaluator.planner
        rated = {
            phase: rate_alone(
                context, usable_shapes(planner, phase, ledger), phase, ledger
            )
            for phase in (Phase.PREFILL, Phase.DECODE)
        }
        # 1. and 2. Units, best promise first.
        units = ranked_units(context.problem, rated[Phase.PREFILL], rated[Phase.DECODE])
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        num_done = 0
        for unit in units:
            if context.should_stop():
                ledger.reject(STOPPED)
            elif num_done >= self.num_finalists:
                ledger.reject("promises less than those simulated")
            # 3. and 4. One unit, then as many as needed.
            elif _simulate_unit(simulated, unit):
                num_done += 1
            else:
                ledger.reject("does not fit the nodes")
        simulated.try_other_places()
        return simulated.outcome()


def _simulate_unit(simulated: Simulated, unit: Unit) -> bool:
    """One unit and its repetitions; False when not even one fits the nodes."""
    context = simulated.context
    problem, planner = context.problem, context.evaluator.planner
    one = place_units(planner, unit, 1)
    if one is None:
        return False
    first = simulated.try_deployment(one)
    rate = 0.0 if first is None else first.goodput.rate_rps
    for count in repetitions(problem, unit, rate):
        whole = place_units(planner, unit, count)
        if whole is None or context.should_stop():
            continue
        bigger = simulated.try_deployment(whole)
        is_enough = bigger is not None and bigger.score(problem) is not None
        if is_enough or (bigger is not None and not problem.objective.needs_rate):
            break
    return True
