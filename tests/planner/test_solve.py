"""`solve`: the status says what is known, and equal inputs give equal plans."""

from dataclasses import replace

import numpy as np
import pytest

from clusters.serde import dump_json
from planner.errors import UnknownMethodError, UnsupportedProblemError
from planner.files import plan_to_mapping
from planner.objective import Goal
from planner.plan import Plan
from planner.result import Status
from planner.slo import Slo
from planner.solve import solve
from planner.stop import MaxEvaluations
from planner.workload.requests import Requests
from planner.workload.workload import Workload
from tests.planner.tiny_problems import (
    QUICK,
    TINY_LIBRARY,
    tiny_cluster,
    tiny_problem,
)


def solved(problem, **options):
    return solve(problem, TINY_LIBRARY, **{"effort": QUICK, **options})


def test_equal_inputs_give_equal_plans():
    first, again = (solved(tiny_problem()).best for _ in range(2))
    assert dump_json(plan_to_mapping(first)) == dump_json(plan_to_mapping(again))
    assert solved(tiny_problem(), seed=1).best != first


def test_a_heuristic_claims_no_optimum():
    result = solved(tiny_problem())
    assert result.status is Status.FEASIBLE
    assert result.best.status == "FEASIBLE"
    assert 0 <= result.gap_frac < 1


def test_an_exhaustive_search_is_optimal():
    problem = tiny_problem(cluster=tiny_cluster(1, 2), is_batching_searched=False)
    result = solved(problem, method="exhaustive")
    assert (result.status, result.reasons) == (Status.OPTIMAL, ())


def test_an_exhaustive_search_says_what_it_has_not_tried():
    # Of batch limits it has one a shape.
    result = solved(tiny_problem(cluster=tiny_cluster(1, 2)), method="exhaustive")
    assert result.status is Status.FEASIBLE
    assert result.reasons == (
        "not tried: batch limits but those best for one replica alone",
    )


def test_both_kinds_are_compared():
    best = solved(tiny_problem()).best
    kinds = {each.is_disaggregated for each in best.alternatives}
    assert kinds | {best.deployment.is_disaggregated} == {True, False}
    assert "against" in best.verdict


def test_a_model_that_fits_nowhere_is_infeasible_with_reasons():
    problem = tiny_problem()
    memory = replace(problem.engine.memory, runtime_reserve_bytes=8 * 2.0**30)
    engine = replace(problem.engine, memory=memory)
    result = solved(replace(problem, engine=engine))
    assert (result.status, result.best) == (Status.INFEASIBLE, None)
    assert result.reasons[0] == "no replica runs the model"
    assert any("does not fit the memory of tiny" in why for why in result.reasons)


@pytest.mark.parametrize("method", ["auto", "exhaustive", "distserve-low"])
def test_an_impossible_slo_still_gives_the_best_effort(method):
    # A prefill of 100 tokens takes 5 ms on four GPUs, and a step 2.625 ms.
    problem = tiny_problem(slo=Slo(ttft_ms=1.0, tpot_ms=100.0))
    result = solved(problem, method=method)
    assert result.status is Status.NOT_FOUND
    assert result.best.goodput.rate_rps == 0.0
    assert "at any rate" in result.reasons[0]
    assert result.gap_frac is None


def test_the_best_effort_says_how_nearly_it_meets_the_slo():
    # Nine prompts of 100 tokens are in time at a low rate, one of 10,000 never is.
    recorded = Requests(
        arrival_ms=np.arange(10) * 1000.0,
        input_tokens=np.array([100] * 9 + [10_000]),
        output_tokens=np.full(10, 1),
    )
    problem = tiny_problem(slo=Slo(e2e_ms=25.0, attainment_frac=1.0))
    service = replace(problem.service, workload=Workload.from_requests(recorded))
    result = solved(replace(problem, services=(service,)), method="aggregated")
    assert result.status is Status.NOT_FOUND
    assert result.best.goodput.light_load_frac == pytest.approx(0.9)


@pytest.mark.parametrize("goal", [Goal.MIN_GPUS, Goal.MIN_COST, Goal.MIN_POWER])
def test_a_target_beyond_the_capacity_is_infeasible(goal):
    result = solved(tiny_problem(goal=goal, rate_rps=1e5))
    assert result.status is Status.INFEASIBLE
    assert "all GPUs together" in result.reasons[0]
    assert result.bound is None
    assert result.best.goodput.rate_rps > 0


def test_a_target_that_nothing_reaches_is_not_found():
    # Within the capacity bound of all four GPUs, but not within this TTFT.
    slo = Slo(ttft_ms=21.0, tpot_ms=16.0, attainment_frac=1.0)
    result = solved(tiny_problem(goal=Goal.MIN_GPUS, slo=slo, rate_rps=150.0))
    assert result.status is Status.NOT_FOUND
    assert "of 150 requests/s" in result.reasons[0]


def test_a_search_stopped_at_once_claims_nothing():
    result = solved(tiny_problem(), stop=MaxEvaluations(num=1), method="distserve-high")
    assert (result.status, result.best) == (Status.NOT_FOUND, None)
    assert "stopped before" in result.reasons[0]


def test_one_gpu_cannot_be_split():
    problem = tiny_problem(cluster=tiny_cluster(1, 1))
    result = solved(problem, method="distserve-high")
    assert result.status is Status.INFEASIBLE
    assert result.reasons[0] == "no deployment fits the GPUs"
    assert solved(problem).status is Status.FEASIBLE


def test_answers_of_one_token_can_be_planned():
    problem = tiny_problem(lengths="100x1")
    for method in ("auto", "exhaustive"):
        assert solved(problem, method=method).status.is_success


def test_a_closed_loop_cannot_be_planned():
    problem = tiny_problem()
    workload = Workload.closed_loop(concurrency=4, lengths="100x11")
    service = replace(problem.service, workload=workload)
    with pytest.raises(UnsupportedProblemError, match="closed loop"):
        solved(replace(problem, services=(service,)))


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UnknownMethodError, match="exhaustive"):
        solved(tiny_problem(), method="exhaustiv")


@pytest.mark.parametrize("goal", Goal)
def test_every_goal_is_planned_on_mixed_prices(goal):
    result = solved(tiny_problem(goal=goal, cluster=tiny_cluster(2, 2)))
    assert result.status is Status.FEASIBLE
    best: Plan = result.best
    if goal is Goal.MIN_GPUS:
        assert best.deployment.num_gpus >= result.bound
    if goal is Goal.MIN_COST:
        assert best.usd_per_hour >= result.bound
