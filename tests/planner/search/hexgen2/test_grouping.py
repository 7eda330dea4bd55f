"""Judging groupings: promises, slack, limits and cheap refusals."""

import pytest

from planner.objective import Goal
from planner.search.hexgen2.grouping import Judge
from planner.search.hexgen2.kv_flow import KvFlows
from tests.planner.search.hexgen2.hexgen2_parts import (
    DECODE,
    PREFILL,
    groups,
    parts_of,
)
from tests.planner.tiny_problems import mixed_cluster, tiny_problem

MOST = Goal.MAX_GOODPUT


def test_the_promise_is_the_flow_and_the_rest_is_slack():
    judge = parts_of(tiny_problem(goal=MOST)).judge
    judged = judge.judge(groups(((0,), PREFILL), ((1, 2), DECODE), ((3,), None)))
    prefill, decode, idle = range(3)
    rates = [s.rated.rate_rps for s in judged.strategies if s is not None]
    assert judged.mix.promised_rps == pytest.approx(min(rates), rel=1e-3)
    assert judged.slack_rps(prefill) == pytest.approx(0.0, abs=1e-9)
    assert judged.slack_rps(decode) == pytest.approx(rates[1] - rates[0])
    assert judged.slack_rps(idle) == 0.0
    assert judged.unused(idle) == (3,)
    assert judged.mix.num_gpus == 3


def test_both_phases_are_needed():
    judge = parts_of(tiny_problem()).judge
    assert judge.judge(groups(((0,), PREFILL), ((1, 2), PREFILL))) is None
    assert judge.judge(groups(((0,), PREFILL), ((1, 2), None))) is None


@pytest.mark.parametrize(
    ("space", "is_allowed"),
    [({}, True), ({"max_gpus": 2}, False), ({"max_replicas": 1}, False)],
)
def test_limits_of_the_search_space_are_kept(space, is_allowed):
    judge = parts_of(tiny_problem(**space)).judge
    judged = judge.judge(groups(((0,), PREFILL), ((1,), DECODE), ((2,), DECODE)))
    assert (judged is not None) is is_allowed


def test_what_cannot_be_better_is_refused_without_a_flow(monkeypatch):
    parts = parts_of(tiny_problem(goal=MOST))
    start = parts.judge.judge(groups(((0, 1), PREFILL), ((2, 3), DECODE)))
    worse = groups(((0,), PREFILL), ((1,), DECODE))
    better = groups(((0,), PREFILL), ((1,), PREFILL), ((2,), DECODE), ((3,), DECODE))
    monkeypatch.setattr(KvFlows, "flow", None)  # a flow would raise
    assert parts.judge.judge(worse, better_than=start) is None
    monkeypatch.undo()
    found = parts.judge.judge(better, better_than=start)
    again = parts_of(tiny_problem(goal=MOST)).judge.judge(better)
    assert (found is None) == (again.rank >= start.rank)


def test_a_factor_changes_the_rates_of_prefill_alone():
    problem = tiny_problem(goal=MOST)
    parts = parts_of(problem)
    half = Judge(problem, parts.strategies, KvFlows(problem), 0.5)
    grouping = groups(((0,), PREFILL), ((1, 2, 3), DECODE))
    whole, halved = parts.judge.judge(grouping), half.judge(grouping)
    rates = [
        [s.rated.rate_rps for s in judged.strategies] for judged in (whole, halved)
    ]
    assert rates[1] == [rates[0][0] / 2, rates[0][1]]
    assert halved.mix.promised_rps < whole.mix.promised_rps


@pytest.mark.parametrize("goal", Goal)
def test_every_goal_ranks_groupings(goal):
    problem = tiny_problem(goal=goal, cluster=mixed_cluster(), rate_rps=5.0)
    judge = parts_of(problem).judge
    small = judge.judge(groups(((0,), PREFILL), ((1,), DECODE)))
    large = judge.judge(groups(((0, 1), PREFILL), ((2, 3), DECODE)))
    # Both serve 5 requests/s; twice the GPUs serve more in all, and cost more.
    assert small.mix.promised_rps >= 5.0
    if goal is Goal.MAX_GOODPUT:
        assert large.rank < small.rank
    if goal in (Goal.MIN_GPUS, Goal.MIN_COST):
        assert small.rank < large.rank
