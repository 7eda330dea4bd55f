"""Local search: its moves by hand, sums by difference, never worse than its start."""

import pytest

from planner.objective import Goal
from planner.search.contract import Candidate
from planner.search.local_search import (
    LocalSearch,
    Sums,
    counts_of,
    key_of,
    moves,
)
from planner.search.ratios import RatedShape
from planner.search.registry import methods_of
from planner.simulator.system import Phase
from planner.stop import MaxEvaluations
from tests.planner.search.tiny_searches import search
from tests.planner.tiny_problems import context_of, mixed_cluster, shape, tiny_problem

P, D, A = Phase.PREFILL, Phase.DECODE, Phase.AGGREGATED


def rated(*shapes):
    return {
        key_of(each): RatedShape(
            shape=each, rate_rps=number + 1.0, usd_per_hour=2.0, power_w=100.0
        )
        for number, each in enumerate(shapes)
    }


def changes(counts, known):
    keys = {key: str(each.shape) for key, each in known.items()}
    return [
        {keys[k].replace("tiny ", ""): n for k, n in change.items() if n}
        for change in moves(counts, known)
    ]


def test_every_kind_of_move_is_made():
    p1, p2, d1 = shape(P), shape(P, tp=2), shape(D)
    cut = shape(P, pp=2)
    known = rated(p1, p2, d1, cut)
    one, two, other, piped = (str(s).replace("tiny ", "") for s in (p1, p2, d1, cut))
    found = changes({key_of(p1): 2, key_of(d1): 1}, known)
    assert {one: 1} in found  # one more
    assert {one: -1} in found  # one fewer
    assert {one: -2, two: 1} in found  # two become one
    assert {one: -1, other: 1} in found  # a phase is flipped
    wide = changes({key_of(p2): 1, key_of(d1): 1}, known)
    assert {two: -1, one: 2} in wide  # one becomes two
    assert {two: -1, piped: 1} in wide  # TP 2 becomes PP 2
    assert {two: -1, other: 2} in wide  # its GPUs go to the other phase


def test_unlike_types_exchange_their_phases():
    p, d = shape(P), shape(D, gpu_type="other")
    known = rated(p, d, shape(D), shape(P, gpu_type="other"))
    found = changes({key_of(p): 1, key_of(d): 1}, known)
    p_other, d_tiny = str(shape(P, gpu_type="other")), str(shape(D))
    ours, theirs = str(p).replace("tiny ", ""), str(d)
    swap = {ours: -1, theirs: -1, d_tiny.replace("tiny ", ""): 1, p_other: 1}
    assert swap in found


def test_aggregated_replicas_stay_aggregated():
    a, p = shape(A), shape(P)
    found = changes({key_of(a): 1}, rated(a, p, shape(A, tp=2)))
    assert not any(str(p).replace("tiny ", "") in change for change in found)


def test_sums_after_a_change_are_those_of_all_replicas():
    known = rated(shape(P), shape(D), shape(P, tp=2))
    before = {key_of(shape(P)): 3, key_of(shape(D)): 2}
    change = {key_of(shape(P)): -2, key_of(shape(P, tp=2)): 1}
    after = {key_of(shape(P)): 1, key_of(shape(D)): 2, key_of(shape(P, tp=2)): 1}
    by_difference = Sums.of(before, known).changed(change, known).amounts
    assert by_difference == Sums.of(after, known).amounts
    # Prefill 1 * 1 + 1 * 3 and decode 2 * 2, on 1 + 2 + 2 GPUs.
    assert by_difference.rate_rps == 4.0
    assert (by_difference.num_gpus, by_difference.usd_per_hour) == (5, 8.0)


def noted(problem, counts):
    """A context in which some method has found a deployment."""
    context = context_of(problem)
    deployment = context.evaluator.planner.deploy(
        [each for each, n in counts for _ in range(n)]
    )
    goodput = context.evaluator.goodput(deployment)
    context.note(Candidate(method="other", deployment=deployment, goodput=goodput))
    return context


@pytest.mark.parametrize("goal", [Goal.MAX_GOODPUT, Goal.MIN_GPUS])
def test_a_poor_start_is_improved(goal):
    # One prefill GPU of four cannot keep three that decode busy.
    problem = tiny_problem(goal=goal, max_pp=1, rate_rps=10.0)
    context = noted(problem, [(shape(P), 1), (shape(D), 3)])
    start = context.best
    outcome = LocalSearch().search(context)
    best = outcome.candidates[0]
    assert best.rank(problem) < start.rank(problem)
    assert outcome.ledger.enumerated == outcome.ledger.evaluated + sum(
        outcome.ledger.rejected.values()
    )


def test_without_a_start_it_makes_one_and_unlike_types_serve_together():
    problem = tiny_problem(cluster=mixed_cluster(), goal=Goal.MAX_GOODPUT, max_pp=1)
    outcome = search("local-search", context_of(problem))
    types = {r.gpu_type for r in outcome.candidates[0].deployment.replicas}
    assert types == {"tiny", "other"}
    assert counts_of(outcome.candidates[0].deployment)


def test_auto_runs_it_on_unlike_gpus_only():
    (ours,) = (m for m in methods_of("auto") if m.name == "local-search")
    assert "one type" in ours.supports(tiny_problem())
    assert ours.supports(tiny_problem(cluster=mixed_cluster())) is None


def test_a_stopped_search_ends():
    context = context_of(tiny_problem(), stop=MaxEvaluations(num=3))
    outcome = LocalSearch().search(context)
    assert outcome.is_stopped
