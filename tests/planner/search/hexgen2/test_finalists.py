"""Finalists: what is simulated, and that climbing never ends below its start."""

from planner.objective import Goal
from planner.search.contract import Ledger
from planner.search.hexgen2.finalists import Finals
from planner.search.refine import Simulated
from planner.stop import MaxEvaluations
from tests.planner.search.hexgen2.hexgen2_parts import (
    DECODE,
    PREFILL,
    groups,
    parts_of,
)
from tests.planner.tiny_problems import mixed_cluster, tiny_cluster, tiny_problem


def finals_of(problem, *groupings, **changes):
    parts = parts_of(problem, **changes)
    for grouping in groupings:
        assert parts.judge.judge(grouping) is not None
    context = parts.context
    deploy = context.evaluator.planner.deploy
    simulated = Simulated("hexgen2", context, Ledger(), deploy)
    return parts, Finals(simulated, [parts.judge])


SMALL = groups(((0,), PREFILL), ((1,), DECODE))


def test_every_way_to_deal_out_the_types_comes_before_a_second_of_one():
    problem = tiny_problem(cluster=mixed_cluster(), goal=Goal.MAX_GOODPUT)
    dealt = [
        groups(((0,), PREFILL), ((1,), DECODE)),
        groups(((0, 1), PREFILL), ((2, 3), DECODE)),
        groups(((0,), PREFILL), ((2,), DECODE)),
        groups(((0, 1), DECODE), ((2, 3), PREFILL)),
    ]
    _, finals = finals_of(problem, *dealt)
    finals.simulate_most_promising(3)
    found = {
        frozenset((r.gpu_type, r.phase) for r in c.deployment.replicas)
        for c in finals.simulated.candidates.values()
    }
    assert len(found) == 3


def test_equal_replicas_are_simulated_once():
    there = groups(((2,), PREFILL), ((3,), DECODE))
    _, finals = finals_of(tiny_problem(), SMALL, there)
    finals.simulate_most_promising(10)
    assert len(finals.simulated.candidates) == 1


def test_climbing_never_ends_below_its_start():
    problem = tiny_problem(goal=Goal.MAX_GOODPUT)
    start = groups(((0,), PREFILL), ((1,), DECODE), ((2, 3), None))
    parts, finals = finals_of(problem, start)
    finals.simulate_most_promising(1)
    start = finals.best_candidate
    finals.climb(parts.moves, 10)
    # Four GPUs serve more than two.
    assert finals.best_candidate.rank(problem) < start.rank(problem)
    assert len(finals.seen) <= 11
    assert finals.best_candidate == finals.simulated.best


def test_a_search_that_has_to_end_simulates_one():
    other = groups(((0, 1), PREFILL), ((2,), DECODE))
    stop = MaxEvaluations(num=1)
    parts, finals = finals_of(
        tiny_problem(cluster=tiny_cluster(2, 2)), SMALL, other, stop=None
    )
    parts.context.stop = stop
    finals.simulate_most_promising(5)
    finals.climb(parts.moves, 5)
    assert len(finals.simulated.candidates) == 1
