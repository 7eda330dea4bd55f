"""Verdicts: one honest sentence for every outcome of the comparison."""

import pytest

from planner.goodput import Goodput
from planner.objective import Goal
from planner.search.contract import Candidate
from planner.simulator.system import Batching, BatchLimits, Phase
from planner.verdict import verdict
from tests.planner.tiny_problems import planner_of, shape, tiny_problem

PLANNER = planner_of(tiny_problem())
SPLIT = PLANNER.deploy([shape(Phase.PREFILL), shape(Phase.DECODE)])
JOINT = PLANNER.deploy([shape(Phase.AGGREGATED)])
LARGE = PLANNER.deploy([shape(Phase.AGGREGATED, tp=2)])


def candidate(deployment, rate_rps, usd=None):
    return Candidate(
        method="test",
        deployment=deployment,
        usd_per_hour=usd,
        goodput=Goodput(
            rate_rps=rate_rps,
            low_rps=rate_rps,
            high_rps=rate_rps,
            confidence_frac=0.0,
            num_seeds=1,
            capacity_rps=100.0,
        ),
    )


def said(goal, *candidates, target=20.0):
    problem = tiny_problem(goal=goal, rate_rps=target)
    ranked = sorted(candidates, key=lambda c: c.rank(problem))
    return verdict(problem, tuple(ranked))


@pytest.mark.parametrize(
    ("goal", "finalists", "sentence"),
    [
        (
            Goal.MAX_GOODPUT_PER_GPU,
            (candidate(SPLIT, 6.0), candidate(JOINT, 2.0)),
            "Disaggregate: 3.000 against 2.000 requests/s per GPU of the best "
            "aggregated deployment (prefill_first) (+50%).",
        ),
        (
            Goal.MAX_GOODPUT,
            (candidate(SPLIT, 4.0), candidate(JOINT, 5.0)),
            "Do not disaggregate: 5.000 against 4.000 requests/s of the best "
            "disaggregated deployment (+25%).",
        ),
        (
            Goal.MAX_GOODPUT,
            (candidate(SPLIT, 4.0), candidate(JOINT, 0.0)),
            "Disaggregate: no aggregated deployment meets the SLO.",
        ),
        (
            Goal.MAX_GOODPUT,
            (candidate(SPLIT, 0.0), candidate(JOINT, 5.0)),
            "Do not disaggregate: no disaggregated deployment meets the SLO.",
        ),
        (
            Goal.MAX_GOODPUT,
            (candidate(SPLIT, 0.0), candidate(JOINT, 0.0)),
            "Neither disaggregated nor aggregated replicas meet the SLO.",
        ),
        (
            Goal.MAX_GOODPUT,
            (candidate(SPLIT, 4.0),),
            "Not compared: no aggregated deployment was simulated.",
        ),
        (
            Goal.MAX_GOODPUT,
            (candidate(JOINT, 4.0),),
            "Not compared: no disaggregated deployment was simulated.",
        ),
        (
            Goal.MIN_GPUS,
            (candidate(SPLIT, 25.0), candidate(JOINT, 20.0)),
            "Do not disaggregate: 1 against 2 GPUs of the best disaggregated "
            "deployment.",
        ),
        (
            Goal.MIN_GPUS,
            (candidate(SPLIT, 25.0), candidate(LARGE, 20.0)),
            "Disaggregate: 2 against 2 GPUs of the best aggregated deployment "
            "(prefill_first), with +25% goodput.",
        ),
        (
            Goal.MIN_GPUS,
            (candidate(SPLIT, 25.0), candidate(JOINT, 10.0)),
            "Disaggregate: no aggregated deployment serves 20 requests/s "
            "(best 10.000).",
        ),
        (
            Goal.MIN_GPUS,
            (candidate(SPLIT, 15.0), candidate(JOINT, 10.0)),
            "Disaggregate: 15.000 against 10.000 requests/s of the best aggregated "
            "deployment (prefill_first), though neither serves 20 requests/s.",
        ),
        (
            Goal.MIN_COST,
            (candidate(SPLIT, 25.0, 4.0), candidate(JOINT, 20.0, 2.5)),
            "Do not disaggregate: 2.50 against 4.00 $/h of the best disaggregated "
            "deployment.",
        ),
    ],
)
def test_the_sentence_says_who_wins_and_by_how_much(goal, finalists, sentence):
    assert said(goal, *finalists) == sentence


def test_the_policy_and_budget_of_the_aggregated_side_are_named():
    limits = BatchLimits(policy=Batching.CHUNKED, max_batch_tokens=512)
    chunked = candidate(JOINT.with_limits(limits), 2.0)
    text = said(Goal.MAX_GOODPUT_PER_GPU, candidate(SPLIT, 6.0), chunked)
    assert text.endswith("of the best aggregated deployment (chunked 512) (+50%).")
