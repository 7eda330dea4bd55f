"""The parts of the method on a tiny problem, ready to use."""

from dataclasses import dataclass

from planner.search.contract import Ledger, SearchContext
from planner.search.hexgen2.graph import gpu_graph
from planner.search.hexgen2.grouping import Group, Grouping, Judge, grouping_of
from planner.search.hexgen2.kv_flow import KvFlows
from planner.search.hexgen2.moves import Neighbours
from planner.search.hexgen2.strategy import Strategies
from planner.simulator.system import Phase
from tests.planner.tiny_problems import context_of

PREFILL, DECODE = Phase.PREFILL, Phase.DECODE


@dataclass(frozen=True)
class Parts:
    context: SearchContext
    strategies: Strategies
    judge: Judge
    moves: Neighbours


def parts_of(problem, **changes) -> Parts:
    context = context_of(problem, **changes)
    strategies = Strategies(context, Ledger())
    types = [gpu.type.name for gpu in problem.cluster.topology.gpus]
    return Parts(
        context=context,
        strategies=strategies,
        judge=Judge(problem, strategies, KvFlows(problem)),
        moves=Neighbours(gpu_graph(problem.cluster), types),
    )


def groups(*given: tuple[tuple[int, ...], Phase | None]) -> Grouping:
    return grouping_of([Group(gpus=gpus, phase=phase) for gpus, phase in given])
