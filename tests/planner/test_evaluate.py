"""Evaluator: one place that simulates, and remembers."""

from dataclasses import replace

import numpy as np
import pytest

from planner.simulator.prefix_settings import PrefixCache
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import Requests
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
    for rate, is_met in ((found.rate_rps, True), (1.1 * found.rate_rps, False)):
        requests = PROBLEM.service.workload.draw(
            evaluator.effort.num_requests(rate), seed=0, rate_rps=rate
        )
        assert evaluator.evaluate(deployment, requests).attainment.is_met is is_met


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


def test_hits_of_prefix_caches_are_told_by_prompt_and_by_replica():
    """Two prompts of 100 tokens, each sent twice.

    The second time all its blocks are cached, but one token is always computed: 99.
    """
    problem = tiny_problem()
    cache = PrefixCache(capacity_tokens=10_000)
    service = replace(problem.service, prefix_cache=cache)
    evaluator = context_of(replace(problem, services=(service,))).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    requests = Requests(
        arrival_ms=np.array([0.0, 0.0, 1000.0, 2000.0]),
        input_tokens=np.full(4, 100),
        output_tokens=np.full(4, 2),
        prefix_blocks=PrefixBlocks.of(
            [range(5), range(10, 15), range(5), range(10, 15)], block_tokens=20
        ),
    )
    found = evaluator.evaluate(deployment, requests)
    assert found.prefix_use is not None
    assert found.prefix_use.hit_tokens_frac == pytest.approx(2 * 99 / 400)
    assert found.prefix_use.hit_requests_frac == 0.5
    assert found.replicas[0].prefix_hit_frac == pytest.approx(2 * 99 / 400)
    # Without caches there is nothing to tell.
    evaluator = context_of(problem).evaluator
    found = evaluator.evaluate(deployment, requests)
    assert found.prefix_use is None
    assert found.replicas[0].prefix_hit_frac is None
