"""Verification: how many finalists are simulated long, and whose."""

from dataclasses import replace

from planner.finalists import NUM_FINALISTS, preferred_first, verify, verify_kind
from planner.goodput import Goodput
from planner.objective import Goal, Objective
from planner.search.contract import Candidate, Ledger, SearchOutcome
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.tiny_problems import QUICK, context_of, shape, tiny_problem


def test_finalists_go_on_until_one_is_confirmed_to_reach_the_target():
    problem = tiny_problem(goal=Goal.MIN_GPUS, rate_rps=20.0)
    evaluator = context_of(problem).evaluator
    flattered = Goodput(
        rate_rps=20.0,
        low_rps=20.0,
        high_rps=20.0,
        confidence_frac=0.0,
        num_seeds=1,
        capacity_rps=100.0,
    )
    slow = evaluator.planner.deploy([shape(Phase.PREFILL, pp=2), shape(Phase.DECODE)])
    quick = evaluator.planner.deploy([shape(Phase.AGGREGATED, tp=4)])
    ranked = [
        Candidate(method="test", deployment=deployment, goodput=flattered)
        for deployment in [slow] * NUM_FINALISTS + [quick] * 2
    ]
    strict = replace(problem.service, slo=Slo(ttft_ms=12.0))
    evaluator.planner = replace(
        evaluator.planner, problem=replace(problem, services=(strict,))
    )
    verified = verify_kind(evaluator, ranked, QUICK)
    assert [c.deployment for c in verified] == [slow] * NUM_FINALISTS + [quick]


def test_the_best_of_every_method_is_among_the_verified():
    # By short runs one method's four deployments all look better than the other's.
    problem = tiny_problem(goal=Goal.MAX_GOODPUT)
    evaluator = context_of(problem).evaluator
    flattered = Goodput(
        rate_rps=1000.0,
        low_rps=1000.0,
        high_rps=1000.0,
        confidence_frac=0.0,
        num_seeds=1,
        capacity_rps=2000.0,
    )

    def outcome(name, widths, rate_rps):
        goodput = replace(flattered, rate_rps=rate_rps)
        candidates = tuple(
            Candidate(
                method=name,
                deployment=evaluator.planner.deploy(
                    [shape(Phase.AGGREGATED, tp=tp, pp=pp)] * number
                ),
                goodput=goodput,
            )
            for tp, pp, number in widths
        )
        return SearchOutcome(method=name, candidates=candidates, ledger=Ledger())

    loud = outcome("loud", [(1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 1, 2)], 1000.0)
    humble = outcome("humble", [(2, 1, 2)], 1.0)
    alone = verify(evaluator, (humble,), QUICK)
    together = verify(evaluator, (loud, humble), QUICK)
    assert together[0].rank(problem) <= alone[0].rank(problem)
    assert "humble" in {candidate.method for candidate in together}


def test_a_second_goal_takes_the_cheapest_of_those_that_give_up_little():
    problem = tiny_problem(goal=Goal.MAX_GOODPUT)
    planner = context_of(problem).evaluator.planner

    def candidate(num_gpus, rate_rps):
        return Candidate(
            method="test",
            deployment=planner.deploy([shape(Phase.AGGREGATED)] * num_gpus),
            goodput=Goodput(
                rate_rps=rate_rps,
                low_rps=rate_rps,
                high_rps=rate_rps,
                confidence_frac=0.0,
                num_seeds=1,
                capacity_rps=100.0,
            ),
        )

    four, three, two = candidate(4, 10.0), candidate(3, 9.5), candidate(2, 8.9)
    plain = preferred_first(problem, [two, three, four])
    assert plain == (four, three, two)
    thrifty = Objective(goal=Goal.MAX_GOODPUT, then=Goal.MIN_GPUS, give_up_frac=0.1)
    frugal = replace(problem, objective=thrifty)
    # Two GPUs would give up 11 %.
    assert preferred_first(frugal, [two, three, four]) == (three, four, two)


def test_a_large_deployment_far_behind_the_other_kind_is_not_simulated_again(
    monkeypatch,
):
    problem = tiny_problem(goal=Goal.MAX_GOODPUT)
    evaluator = context_of(problem).evaluator
    monkeypatch.setattr("planner.finalists.is_of_cells", lambda _: True)

    split = evaluator.planner.deploy([shape(Phase.PREFILL), shape(Phase.DECODE)])
    joint = evaluator.planner.deploy([shape(Phase.AGGREGATED)])
    reached = evaluator.goodput(split, effort=QUICK)

    def verified(joint_frac):
        rates = ((split, reached.rate_rps), (joint, joint_frac * reached.rate_rps))
        candidates = tuple(
            Candidate(
                method="test",
                deployment=deployment,
                goodput=replace(reached, rate_rps=rate_rps),
            )
            for deployment, rate_rps in rates
        )
        outcome = SearchOutcome(method="test", candidates=candidates, ledger=Ledger())
        found = verify(evaluator, (outcome,), QUICK)
        return {c.deployment: c.goodput.rate_rps for c in found}

    assert verified(0.5) == {
        split: reached.rate_rps,
        joint: 0.5 * reached.rate_rps,
    }
    looked = evaluator.goodput(joint, effort=QUICK).rate_rps
    assert verified(0.95) == {split: reached.rate_rps, joint: looked}
