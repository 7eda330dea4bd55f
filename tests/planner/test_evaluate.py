"""Evaluator: one place that simulates, and remembers."""

import pytest

from planner.simulator.system import Phase
from planner.slo import Slo
from planner.workload.workload import Workload
from tests.planner.tiny_problems import QUICK, context_of, shape, tiny_problem

PROBLEM = tiny_problem()


def test_equal_systems_are_simulated_once():
    evaluator = context_of(PROBLEM).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    again = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    assert evaluator.goodput(deployment) is evaluator.goodput(again)
    assert evaluator.num_evaluations == 1


def test_the_rate_limit_is_the_capacity_of_the_goodput():
    evaluator = context_of(PROBLEM).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    limit = evaluator.rate_limit_rps(deployment)
    assert evaluator.goodput(deployment).capacity_rps == limit
    assert evaluator.num_evaluations == 1


def test_the_slo_is_met_at_the_goodput():
    evaluator = context_of(PROBLEM).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    found = evaluator.goodput(deployment)
    assert evaluator.is_met_at(deployment, found.rate_rps)
    assert not evaluator.is_met_at(deployment, 1.1 * found.rate_rps)


def test_an_evaluation_of_one_request_is_known_by_hand():
    evaluator = context_of(PROBLEM).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    requests = Workload.poisson(rate_rps=1.0, lengths="100x11").draw(1, seed=0)
    found = evaluator.evaluate(deployment, requests)
    # 100 tokens: 10 + 10 ms. A step of one request: 10.5 ms.
    assert found.metric("ttft").p50_ms == pytest.approx(20.0)
    assert found.metric("tpot").p50_ms == pytest.approx(10.5)
    assert found.metric("e2e").p50_ms == pytest.approx(20.0 + 10 * 10.5)
    assert found.metric("ttft").margin_ms == pytest.approx(60.0 - 20.0)
    assert found.metric("e2e").limit_ms is None
    assert found.usd_per_hour == pytest.approx(2.5)
    assert found.transfer_p90_ms is None
    assert found.replicas[0].num_requests == 1


def test_answers_of_one_token_have_no_tpot():
    problem = tiny_problem(lengths="100x1", slo=Slo(ttft_ms=60))
    evaluator = context_of(problem).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    requests = problem.service.workload.draw(5, seed=0)
    assert evaluator.evaluate(deployment, requests).metric("tpot") is None


def test_a_kv_transfer_shows_in_a_split_deployment():
    evaluator = context_of(PROBLEM).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.PREFILL), shape(Phase.DECODE)])
    requests = PROBLEM.service.workload.draw(5, seed=0)
    found = evaluator.evaluate(deployment, requests)
    # At least the set-up time of 1 ms.
    assert found.transfer_p90_ms >= 1.0


def test_a_run_of_the_screening_effort_has_its_length():
    assert QUICK.num_requests(1.0) == 60
