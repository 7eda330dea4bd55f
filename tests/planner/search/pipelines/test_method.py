"""The method as a whole: where types serve together only, limits, bounds, seeds."""

from dataclasses import replace

from planner.check import check_plan
from planner.goodput import Effort
from planner.objective import Goal
from planner.result import Status
from planner.search.pipelines.method import Pipelines
from planner.search.registry import methods_of
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.solve import solve
from planner.stop import MaxEvaluations
from planner.workload.workload import Workload
from tests.planner.search.tiny_searches import search
from tests.planner.tiny_problems import context_of
from tests.planner.unlike_problems import LIBRARY, two_types, unlike_problem

QUICK = Effort(
    min_requests=60, max_requests=120, span_s=10.0, num_seeds=2, tolerance_frac=0.02
)
ROOM = 28_000.0
"""Of a GPU that holds two of the six layers with a request beside them, not more."""


def small_types(**changes):
    """Two big GPUs and two small ones, none of which hold the model by themselves."""
    cluster = two_types(big_bytes=ROOM, small_bytes=ROOM)
    return unlike_problem(cluster, tp=(1,), is_batching_searched=False, **changes)


def planned(problem, **changes):
    return solve(problem, LIBRARY, **{"effort": QUICK, **changes})


def test_types_that_hold_the_model_only_together_serve_together():
    """`auto` runs it, and what replicas of one type serve is nothing."""
    problem = small_types()
    result = planned(problem)
    assert result.status is Status.FEASIBLE
    best = result.best
    assert best.method == "pipelines"
    check_plan(best)
    assert any(r.shape.has_unlike_stages for r in best.deployment.replicas)
    assert best.goodput.rate_rps <= result.bound
    assert best.allocation is None
    others = [each for each in best.alternatives if each.method == "aggregated"]
    assert all(each.goodput.rate_rps == 0 for each in others)


def test_the_least_cost_stays_above_its_bound():
    problem = small_types(goal=Goal.MIN_COST, rate_rps=4.0)
    result = planned(problem, method="pipelines")
    assert result.status is Status.FEASIBLE
    assert result.gap_frac >= 0
    check_plan(result.best)


def test_what_holds_of_every_search():
    cluster = two_types(2, 2)
    problem = unlike_problem(cluster, max_pp=2, is_batching_searched=False)
    outcome = search("pipelines", context_of(problem, library=LIBRARY))
    assert outcome.has_unlike
    unlike = [
        {replica.phase for replica in candidate.deployment.replicas}
        for candidate in outcome.candidates
        if any(r.shape.has_unlike_stages for r in candidate.deployment.replicas)
    ]
    assert {Phase.AGGREGATED} in unlike
    assert {Phase.PREFILL, Phase.DECODE} in unlike


def test_it_says_why_it_does_not_apply():
    assert Pipelines().supports(unlike_problem()) is None
    assert Pipelines(max_gpus=3).supports(unlike_problem()) is not None
    one_type = unlike_problem(gpu_types=("big",))
    assert Pipelines().supports(one_type) == "all GPUs are of one type"
    serves_alone = Pipelines(needs_leftovers=True).supports(unlike_problem())
    assert "every GPU type serves by itself" in serves_alone
    service = unlike_problem().service
    closed = Workload.closed_loop(concurrency=4, lengths="chat")
    looped = replace(unlike_problem(), services=(replace(service, workload=closed),))
    assert "closed loop" in Pipelines().supports(looped)


def test_auto_runs_it_where_a_type_cannot_serve_alone():
    (method,) = (m for m in methods_of("auto") if m.name == "pipelines")
    assert method.supports(small_types()) is None
    assert method.supports(unlike_problem()) is not None


def test_an_slo_out_of_reach_still_gives_a_best_effort():
    result = planned(small_types(slo=Slo(ttft_ms=1.0, tpot_ms=1.0)), method="pipelines")
    assert result.status is Status.NOT_FOUND
    assert result.best is not None
    check_plan(result.best)


def test_the_same_seed_gives_the_same_candidates():
    first, second = (
        search("pipelines", context_of(small_types(), library=LIBRARY, seed=3))
        for _ in range(2)
    )
    assert first.candidates == second.candidates
    assert first.candidates


def test_a_stopped_search_counts_the_rest():
    context = context_of(small_types(), stop=MaxEvaluations(num=1), library=LIBRARY)
    outcome = Pipelines().search(context)
    assert outcome.is_stopped
    ledger = outcome.ledger
    assert ledger.enumerated == ledger.evaluated + sum(ledger.rejected.values())


def test_only_gpus_to_be_had_are_promised():
    """What promises most takes two big GPUs; one is to be had, and serves too."""
    cluster = two_types(2, 2, big_bytes=24_000.0, small_bytes=24_000.0)
    problem = unlike_problem(
        cluster,
        tp=(1,),
        max_pp=6,
        is_batching_searched=False,
        available_gpus={"big": 1},
    )
    outcome = Pipelines(num_rated=1).search(context_of(problem, library=LIBRARY))
    assert outcome.candidates[0].goodput.rate_rps > 0
