"""Stopping criteria, and that every search honours them."""

import pytest

from clusters.fields import InputError
from planner.search.contract import STOPPED
from planner.search.registry import methods_of
from planner.stop import (
    AnyOf,
    MaxEvaluations,
    MaxRuntime,
    Never,
    NoImprovement,
    TargetValue,
)
from tests.planner.tiny_problems import context_of, tiny_problem

METHODS = ("aggregated", "distserve-high", "distserve-low", "exhaustive")


def test_never_runs_to_the_end():
    assert not Never().is_met(10**9, 1.0)


def test_runtime_counts_from_the_first_question(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("planner.stop.time.monotonic", lambda: now[0])
    stop = MaxRuntime(max_s=5.0)
    assert not stop.is_met(0, None)
    now[0] = 104.9
    assert not stop.is_met(0, None)
    now[0] = 105.0
    assert stop.is_met(0, None)


def test_evaluations_are_counted():
    stop = MaxEvaluations(num=3)
    assert [stop.is_met(n, None) for n in (2, 3)] == [False, True]


def test_no_improvement_starts_again_with_every_better_value():
    stop = NoImprovement(num=2)
    asked = [(0, None), (1, 5.0), (2, 5.0), (3, 6.0), (4, 6.0), (5, 6.0)]
    assert [stop.is_met(*each) for each in asked] == [False] * 5 + [True]


def test_target_value_is_reached():
    stop = TargetValue(value=2.0)
    assert [stop.is_met(0, best) for best in (None, 1.9, 2.0)] == [False, False, True]


def test_any_of_asks_every_criterion():
    waits = NoImprovement(num=2)
    stop = AnyOf((MaxEvaluations(num=1), waits))
    assert not stop.is_met(0, 1.0)
    assert stop.is_met(1, 1.0)
    assert waits.is_met(2, 1.0)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: MaxRuntime(max_s=float("nan")),
        lambda: MaxRuntime(max_s=0),
        lambda: MaxEvaluations(num=0),
        lambda: NoImprovement(num=0),
        lambda: TargetValue(value=float("inf")),
    ],
)
def test_impossible_criteria_are_refused(bad):
    with pytest.raises(InputError):
        bad()


@pytest.mark.parametrize("name", METHODS)
def test_a_search_ends_at_its_last_evaluation(name):
    context = context_of(tiny_problem(), stop=MaxEvaluations(num=3))
    (method,) = methods_of(name)
    outcome = method.search(context)
    assert outcome.is_stopped
    assert outcome.ledger.rejected[STOPPED] > 0
    assert not outcome.is_exact
    assert context.evaluator.num_evaluations == 3


@pytest.mark.parametrize("name", METHODS)
def test_a_search_ends_when_its_goal_is_reached(name):
    whole = context_of(tiny_problem())
    (method,) = methods_of(name)
    method.search(whole)
    stopped = context_of(tiny_problem(), stop=TargetValue(value=1e-3))
    method.search(stopped)
    assert stopped.best_score >= 1e-3
    assert stopped.evaluator.num_evaluations < whole.evaluator.num_evaluations


def test_no_improvement_ends_a_search_that_has_found_its_best():
    (method,) = methods_of("exhaustive")
    whole, stopped = (
        context_of(tiny_problem(), stop=stop)
        for stop in (Never(), NoImprovement(num=5))
    )
    method.search(whole)
    outcome = method.search(stopped)
    assert outcome.is_stopped
    assert 5 < stopped.evaluator.num_evaluations < whole.evaluator.num_evaluations


def test_a_search_that_ends_by_itself_was_not_stopped():
    whole = context_of(tiny_problem())
    (method,) = methods_of("aggregated")
    method.search(whole)
    used = whole.evaluator.num_evaluations
    just = context_of(tiny_problem(), stop=MaxEvaluations(num=used + 1))
    assert not method.search(just).is_stopped
