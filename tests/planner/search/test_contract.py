"""The contract of search methods: counts, ranks and scores."""

import pytest

from planner.goodput import Goodput
from planner.objective import Goal
from planner.search.contract import Candidate, Ledger, why_not_open
from planner.simulator.system import Phase
from planner.workload.workload import Workload
from tests.planner.search.tiny_searches import METHODS, search
from tests.planner.tiny_problems import (
    QUICK,
    context_of,
    planner_of,
    shape,
    tiny_cluster,
    tiny_problem,
)

PLANNER = planner_of(tiny_problem())


def candidate(num_gpus, rate_rps, usd=1.0, light_load_frac=1.0):
    return Candidate(
        method="test",
        deployment=PLANNER.deploy([shape(Phase.AGGREGATED)] * num_gpus),
        usd_per_hour=usd,
        goodput=Goodput(
            rate_rps=rate_rps,
            low_rps=rate_rps,
            high_rps=rate_rps,
            confidence_frac=0.0,
            num_seeds=1,
            capacity_rps=100.0,
            light_load_frac=light_load_frac,
        ),
    )


@pytest.mark.parametrize(
    ("goal", "best", "second", "third"),
    [
        (Goal.MAX_GOODPUT, (3, 9.0), (2, 8.0), (4, 8.0)),
        (Goal.MAX_GOODPUT_PER_GPU, (1, 4.0), (2, 8.0), (3, 9.0)),
        (Goal.MIN_GPUS, (2, 20.0), (3, 30.0), (1, 19.0)),
        (Goal.MIN_GPUS, (2, 30.0), (2, 20.0), (4, 90.0)),
        (Goal.MIN_COST, (3, 20.0, 1.0), (2, 20.0, 2.0), (2, 20.0, None)),
        (Goal.MIN_COST, (3, 20.0, None), (1, 19.0, 1.0), (1, 0.0, 1.0)),
    ],
)
def test_candidates_rank_by_the_goal(goal, best, second, third):
    problem = tiny_problem(goal=goal, rate_rps=20.0)
    ranks = [candidate(*each).rank(problem) for each in (best, second, third)]
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[1] < ranks[2]


@pytest.mark.parametrize("goal", Goal)
def test_of_those_that_serve_nothing_the_nearest_miss_ranks_first(goal):
    problem = tiny_problem(goal=goal)
    near = candidate(3, 0.0, light_load_frac=0.8).rank(problem)
    far = candidate(1, 0.0, light_load_frac=0.3).rank(problem)
    any_rate = candidate(4, 0.01).rank(problem)
    assert any_rate < near < far


def test_scores_are_higher_for_better_candidates():
    scores = {
        Goal.MAX_GOODPUT: 30.0,
        Goal.MAX_GOODPUT_PER_GPU: 10.0,
        Goal.MIN_GPUS: -3.0,
        Goal.MIN_COST: -7.5,
    }
    for goal, score in scores.items():
        problem = tiny_problem(goal=goal, rate_rps=20.0)
        assert candidate(3, 30.0, 7.5).score(problem) == score
        assert candidate(3, 0.0, 7.5).score(problem) is None
    missed = tiny_problem(goal=Goal.MIN_GPUS, rate_rps=40.0)
    assert candidate(3, 30.0, 7.5).score(missed) is None


def test_a_ledger_adds_up():
    ledger = Ledger()
    ledger.evaluated += 2
    ledger.reject("too large", 3)
    ledger.reject("too small", 0)
    other = Ledger(evaluated=1)
    other.reject("too large")
    ledger.add(other)
    assert (ledger.enumerated, dict(ledger.rejected)) == (7, {"too large": 4})


def test_closed_loops_have_no_rate_to_vary():
    problem = tiny_problem()
    assert why_not_open(problem) is None
    closed = Workload.closed_loop(concurrency=2, lengths="10x10")
    object.__setattr__(problem.services[0], "workload", closed)
    assert "closed loop" in why_not_open(problem)


@pytest.mark.parametrize("name", METHODS)
def test_equal_seeds_find_the_same_in_the_same_order(name):
    first, again = (search(name, context_of(tiny_problem(), seed=3)) for _ in range(2))
    assert first.candidates == again.candidates
    assert first.ledger == again.ledger


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "space", [{"max_gpus": 3}, {"max_replicas": 1}, {"tp": (2,)}, {"max_pp": 1}]
)
def test_every_method_keeps_to_the_search_space(name, space):
    # `search` checks every candidate; check_deployment knows the limits.
    problem = tiny_problem(cluster=tiny_cluster(2), **space)
    if name == "exhaustive":
        problem = tiny_problem(cluster=tiny_cluster(1), **space)
    for found in search(name, context_of(problem)).candidates:
        for replica in found.deployment.replicas:
            assert replica.parallelism.pp <= space.get("max_pp", 2)
            assert replica.parallelism.tp in space.get("tp", (1, 2, 4))


@pytest.mark.parametrize("name", METHODS[:-1])
def test_nothing_is_counted_twice(name):
    problem = tiny_problem(goal=Goal.MAX_GOODPUT, is_batching_searched=False)
    context = context_of(problem, effort=QUICK)
    outcome = search(name, context)
    # Every goodput search is a shape rated alone or a whole deployment, once each
    # (an aggregated replica alone is both).
    whole = {candidate.deployment for candidate in outcome.candidates}
    num_alone = outcome.ledger.evaluated - len(whole)
    # Six shapes a phase at most; the programme rates three phases, alone and in pools.
    most = {"provisioning": 6 * 3 * 2, "per-type": 6 * 3, "local-search": 6 * 3}.get(
        name, 6 * 2
    )
    assert 0 < num_alone <= most
    assert context.evaluator.num_evaluations <= outcome.ledger.evaluated
