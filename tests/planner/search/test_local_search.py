"""Local search: its moves by hand, sums by difference, never worse than its start."""

import pytest

from planner.check import check_deployment
from planner.objective import Goal
from planner.search.contract import Candidate
from planner.search.local_moves import Sums, key_of, moves
from planner.search.local_search import LocalSearch, counts_of
from planner.search.ratios import RatedShape
from planner.search.registry import methods_of
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.stop import MaxEvaluations
from tests.planner.search.tiny_searches import search
from tests.planner.tiny_problems import context_of, mixed_cluster, shape, tiny_problem
from tests.planner.unlike_problems import (
    LIBRARY,
    two_types,
    unlike_problem,
    unlike_shape,
)

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


def test_a_start_that_serves_nothing_is_left_for_a_promise():
    # A decode step of one GPU takes 10.5 ms, of two 5.25.
    strict = Slo(ttft_ms=60.0, tpot_ms=7.0)
    problem = tiny_problem(goal=Goal.MAX_GOODPUT, slo=strict, max_pp=1)
    context = noted(problem, [(shape(P), 1), (shape(D), 1)])
    assert context.best.goodput.rate_rps == 0.0
    outcome = LocalSearch().search(context)
    best = outcome.candidates[0]
    assert best.goodput.rate_rps > 0
    # It goes on from there: no single shape that it could have begun with is better.
    begun = [c for c in outcome.candidates if len(c.deployment.pools()) == 1]
    assert all(best.rank(problem) <= each.rank(problem) for each in begun)


def test_replicas_of_unlike_stages_are_moved_too():
    """One pipeline of three GPUs of two types, on eight and eight: more of it, and the
    GPUs that it leaves, serve too."""
    cluster = two_types(4, 4, big_bytes=28_000.0, small_bytes=28_000.0)
    problem = unlike_problem(cluster, tp=(1,), is_batching_searched=False)
    context = context_of(problem, library=LIBRARY)
    stages = (("big", 1, 3), ("big", 1, 2), ("small", 1, 1))
    deployment = context.evaluator.planner.deploy([unlike_shape(A, *stages)])
    goodput = context.evaluator.goodput(deployment)
    context.note(Candidate(method="other", deployment=deployment, goodput=goodput))
    best = LocalSearch(num_simulated=16).search(context).candidates[0]
    assert best.goodput.rate_rps > 2.0 * goodput.rate_rps > 0.0
    check_deployment(problem, best.deployment)


def test_a_replica_of_unlike_stages_can_be_taken_apart():
    both = unlike_shape(A, ("big", 1, 3), ("big", 1, 2), ("small", 1, 1))
    big, small = shape(A, gpu_type="big"), shape(A, gpu_type="small", tp=2)
    found = list(moves({key_of(both): 1}, rated(both, big, small)))
    assert {key_of(both): -1, key_of(big): 2} in found
    assert not any(
        change.get(key_of(both), 0) < 0 and key_of(small) in change for change in found
    )  # one small GPU is not two
    gone = Sums.of({key_of(both): 2}, rated(both)).changed(
        {key_of(both): -1}, rated(both)
    )
    assert dict(gone.gpus) == {"big": 2, "small": 1}


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
