"""Batching of a shape: what is tried, what wins, and that the search uses it."""

import pytest

from planner.capacity import replica_capacity_rps
from planner.goodput import SCREENING
from planner.objective import Goal
from planner.search.batching import (
    batching_bound_rps,
    best_batching,
    policies_of,
)
from planner.search.chunk_budget import limits_of_policy
from planner.simulator.system import Batching, BatchLimits, Phase
from planner.slo import Slo
from planner.solve import solve
from tests.planner.tiny_problems import (
    context_of,
    planner_of,
    shape,
    tiny_problem,
)

SLO = Slo(ttft_ms=300, tpot_ms=16, attainment_frac=0.9)


def alone(problem, phase, **kwargs):
    return planner_of(problem).deploy([shape(phase, **kwargs)])


@pytest.mark.parametrize(
    ("phase", "pp", "space", "policies"),
    [
        (Phase.AGGREGATED, 1, {}, (Batching.CHUNKED,)),
        (Phase.DECODE, 1, {}, ()),
        # Prompts of one stage are not cut, but a step may hold fewer of them.
        (Phase.PREFILL, 1, {}, (Batching.PREFILL_FIRST,)),
        (Phase.PREFILL, 2, {}, (Batching.CHUNKED,)),
        (Phase.AGGREGATED, 1, {"is_batching_searched": False}, ()),
        (Phase.AGGREGATED, 1, {"policies": (Batching.PREFILL_FIRST,)}, ()),
        (
            Phase.AGGREGATED,
            1,
            {"policies": (Batching.ORCA, Batching.CHUNKED)},
            (Batching.ORCA, Batching.CHUNKED),
        ),
    ],
)
def test_policies_tried(phase, pp, space, policies):
    problem = tiny_problem(**space)
    assert policies_of(problem, alone(problem, phase, pp=pp)) == policies


def test_the_best_batching_is_no_worse_than_the_engine():
    problem = tiny_problem()
    context = context_of(problem)
    evaluator, planner = context.evaluator, context.evaluator.planner
    own = alone(problem, Phase.AGGREGATED)
    best = best_batching(context, own, SLO)

    def rate_rps(deployment):
        return evaluator.system_goodput(planner.system(deployment), SLO).rate_rps

    assert rate_rps(best) >= rate_rps(own)
    # Asked again, nothing is simulated.
    before = evaluator.num_evaluations
    assert best_batching(context, own, SLO) == best
    assert evaluator.num_evaluations == before


def test_no_batching_exceeds_its_bound():
    problem = tiny_problem()
    planner = planner_of(problem)
    own = alone(problem, Phase.AGGREGATED)
    sample = problem.service.workload.draw(SCREENING.max_requests, seed=0, rate_rps=1.0)
    bound = batching_bound_rps(planner, own, SLO, sample)
    for policy, budget in ((Batching.CHUNKED, 256), (Batching.CHUNKED, 8192)):
        limits = limits_of_policy(BatchLimits(), policy, budget)
        system = planner.system(own.with_limits(limits))
        assert replica_capacity_rps(system.replicas[0], sample, SLO) <= bound


def test_plans_tell_apart_and_verify_deployments_of_other_budgets():
    problem = tiny_problem(goal=Goal.MAX_GOODPUT)
    result = solve(
        problem, planner_of(problem).library, method="aggregated", effort=SCREENING
    )
    assert result.best is not None
    names = [a.deployment for a in result.best.alternatives]
    names.append(result.best.deployment.describe())
    assert len(set(names)) == len(names)
    assert all("prefill_first" in name or "chunked" in name for name in names)
