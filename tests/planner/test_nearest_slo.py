"""The nearest SLO that can be met, by hand: 20 ms a prompt, 10.5 ms a token."""

from dataclasses import replace

import pytest

from planner.nearest_slo import loosened, nearest_slo
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from planner.slo import Slo, SloRule
from planner.solve import solve
from tests.planner.tiny_problems import (
    QUICK,
    TINY_LIBRARY,
    context_of,
    shape,
    tiny_cluster,
    tiny_problem,
)

ONE_GPU = tiny_cluster(1, 1)


def served(slo, rate_rps=0.001, attainment=0.9, rule=SloRule.JOINT, lengths="100x11"):
    slo = replace(slo, attainment_frac=attainment, rule=rule)
    problem = tiny_problem(cluster=ONE_GPU, slo=slo, lengths=lengths)
    evaluator = context_of(problem).evaluator
    system = evaluator.planner.system(
        evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    )
    requests = problem.service.workload.draw(100, seed=0, rate_rps=rate_rps)
    return problem.service.slo, simulate(system, requests)


def test_only_the_limit_that_breaks_grows():
    # A prompt of 100 tokens takes 10 + 0.1 * 100 = 20 ms, a token 10 + 0.5 = 10.5 ms.
    looser = loosened(*served(Slo(ttft_ms=5.0, tpot_ms=16.0)))
    assert looser.limits_ms == {"ttft": 20.0, "tpot": 16.0}
    looser = loosened(*served(Slo(ttft_ms=25.0, tpot_ms=2.0)))
    assert looser.limits_ms == {"ttft": 25.0, "tpot": 10.5}


def test_limits_that_break_together_grow_by_one_factor():
    # 20 / 5 = 4 times and 10.5 / 5.25 = 2 times: the joint rule takes 4 for both.
    looser = loosened(*served(Slo(ttft_ms=5.0, tpot_ms=5.25)))
    assert looser.limits_ms == {"ttft": 20.0, "tpot": 21.0}
    each = loosened(*served(Slo(ttft_ms=5.0, tpot_ms=5.25), rule=SloRule.EACH))
    assert each.limits_ms == {"ttft": 20.0, "tpot": 10.5}


def test_a_looser_slo_is_met_and_a_hair_tighter_is_not():
    slo, result = served(Slo(ttft_ms=1.0, tpot_ms=1.0), rate_rps=20.0)
    looser = loosened(slo, result)
    assert looser.judge(result).is_met
    assert not looser.scaled(0.98).judge(result).is_met


def test_what_is_refused_can_not_be_met():
    # Prompts that no replica holds: no limit helps.
    slo, result = served(Slo(ttft_ms=5.0, tpot_ms=16.0))
    assert loosened(slo, replace(result, is_done=result.is_done & False)) is None


def test_a_plan_tells_the_nearest_slo_of_the_best_shape():
    # Four GPUs divide the 20 ms by four; one with 5 ms is the nearest to 1 ms.
    problem = tiny_problem(slo=Slo(ttft_ms=1.0, tpot_ms=16.0))
    result = solve(problem, TINY_LIBRARY, method="aggregated", effort=QUICK)
    assert result.best.nearest_slo.limits_ms == {"ttft": 5.0, "tpot": 16.0}
    assert (
        "the nearest SLO that is met with hardly any load is TTFT <= 5 ms"
        in (result.reasons[1])
    )


def test_at_a_target_rate_the_limits_hold_for_long():
    # Four GPUs of one replica each serve 30/s, but not within 21 ms for every request.
    slo = Slo(ttft_ms=20.5, tpot_ms=16.0, attainment_frac=0.9)
    problem = tiny_problem(slo=slo, rate_rps=30.0, cluster=ONE_GPU)
    context = context_of(problem)
    deployment = context.evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    found = nearest_slo(context.evaluator, [Finalist(deployment)], 30.0)
    assert found.rate_rps == 30.0
    assert found.factor > 1.0
    evaluator = context.evaluator
    system = evaluator.planner.system(deployment)
    assert evaluator.system_goodput(system, found.slo).rate_rps >= 30.0
    # Beyond what one GPU can serve at all there is none.
    assert nearest_slo(evaluator, [Finalist(deployment)], 1000.0) is None


class Finalist:
    def __init__(self, deployment):
        self.deployment = deployment


def test_the_rate_is_told():
    problem = tiny_problem(slo=Slo(ttft_ms=1.0, tpot_ms=16.0), cluster=ONE_GPU)
    evaluator = context_of(problem).evaluator
    found = nearest_slo(evaluator, [], None)
    assert found.describe().startswith("the nearest SLO that is met with hardly any")
    told = replace(found, rate_rps=3.0).describe()
    assert told.startswith("the nearest SLO that is met at 3 requests/s is TTFT <= 20")
    assert found.factor == pytest.approx(20.0)
