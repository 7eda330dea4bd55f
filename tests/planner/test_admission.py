"""Admission as a problem file asks for it, and what evaluations say of it."""

from dataclasses import replace

import numpy as np
import pytest

from clusters.fields import InputError
from planner.admission import Admission
from planner.problem import Problem
from planner.simulator.prefix_settings import AdmissionRule
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.workload.requests import Requests
from planner.workload.workload import Workload
from tests.planner.tiny_problems import context_of, shape, tiny_problem

SLO = Slo(ttft_ms=60.0, tpot_ms=16.0)
WORKLOAD = Workload.poisson(rate_rps=1.0, lengths="100x11")


def admitting(rule: AdmissionRule = AdmissionRule.CURRENT, **changes) -> Problem:
    problem = tiny_problem()
    admission = Admission(rule=rule, **changes)
    return replace(problem, engine=replace(problem.engine, admission=admission))


def burst(num: int) -> Requests:
    return Requests(
        arrival_ms=np.zeros(num),
        input_tokens=np.full(num, 100),
        output_tokens=np.full(num, 11),
    )


def test_limits_that_are_not_given_are_those_of_the_service():
    found = Admission(rule=AdmissionRule.CURRENT).early_rejection(SLO, WORKLOAD)
    assert (found.ttft_ms, found.tbt_ms, found.decode_ms) == (60.0, 16.0, None)
    found = Admission(ttft_ms=500.0).early_rejection(SLO, WORKLOAD)
    # A mean answer of 11 tokens at 16 ms each.
    assert (found.ttft_ms, found.tbt_ms, found.decode_ms) == (500.0, 16.0, 176.0)
    found = Admission(tbt_ms=20.0, decode_ms=30.0).early_rejection(SLO, WORKLOAD)
    assert (found.tbt_ms, found.decode_ms) == (20.0, 30.0)


def test_a_limit_that_nobody_gives_is_asked_for():
    problem = tiny_problem(slo=Slo(ttft_ms=60.0))
    engine = replace(problem.engine, admission=Admission())
    with pytest.raises(InputError, match=r"engine\.admission\.tbt_ms"):
        replace(problem, engine=engine)
    engine = replace(engine, admission=Admission(tbt_ms=16.0))
    assert replace(problem, engine=engine).engine.admission is not None


def test_a_duration_belongs_to_the_prediction():
    with pytest.raises(InputError, match="decode_ms"):
        Admission(rule=AdmissionRule.CURRENT, decode_ms=5.0)


def test_refusals_are_counted_and_held_against_letting_every_one_in():
    """Eight prompts at once, of 20 ms each alone: the fourth is expected at 80 ms.

    Three are let in: a step of 300 tokens takes 40 ms, a decode step of three 11.5 ms,
    within 60 and 16 ms. All eight in one step take 90 ms, and all miss.
    """
    evaluator = context_of(admitting()).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    found = evaluator.evaluate(deployment, burst(8))
    assert found.num_rejected == 5
    assert found.attainment.joint_frac == 3 / 8
    effect = found.admission
    assert effect is not None
    assert effect.num_refused == 5
    assert effect.admitted_joint_frac == 1.0
    assert effect.joint_frac_without == 0.0


def test_requests_too_long_for_the_cache_are_not_counted_as_refused():
    evaluator = context_of(admitting(ttft_ms=1e9, tbt_ms=1e9)).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    small = replace(deployment.replicas[0], kv_capacity_tokens=512)
    deployment = replace(deployment, replicas=(small,))
    requests = replace(burst(2), input_tokens=np.array([100, 600]))
    found = evaluator.evaluate(deployment, requests)
    assert found.num_rejected == 1
    assert found.admission is not None
    assert found.admission.num_refused == 0


def test_without_admission_nothing_is_said_of_it():
    evaluator = context_of(tiny_problem()).evaluator
    deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    assert evaluator.freely(deployment, burst(2)) is None
    assert evaluator.evaluate(deployment, burst(2)).admission is None


def test_prediction_counts_what_will_decode_by_then():
    """A step of B decodes takes 10 + B/2 ms: limit 11.2 ms lets two be together.

    The prediction sees the prompts let in before, that have no first token yet; the
    decodes of the moment are none.
    """
    by_rule = {}
    for rule in AdmissionRule:
        problem = admitting(rule, ttft_ms=1e9, tbt_ms=11.2)
        evaluator = context_of(problem).evaluator
        deployment = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
        by_rule[rule] = evaluator.evaluate(deployment, burst(4)).num_rejected
    assert by_rule == {AdmissionRule.CURRENT: 0, AdmissionRule.PREDICTED: 2}
