"""Strategies of groups on tiny clusters, where rates are in round numbers."""

import pytest

from planner.search.contract import Ledger
from planner.search.hexgen2.strategy import Strategies
from planner.search.phases import rate_alone
from planner.simulator.system import Phase
from planner.stop import MaxEvaluations
from tests.planner.tiny_problems import (
    context_of,
    mixed_cluster,
    shape,
    tiny_cluster,
    tiny_problem,
)


def strategies_of(problem, **changes):
    context = context_of(problem, **changes)
    return Strategies(context, Ledger()), context


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_a_group_takes_the_shape_of_the_highest_rate(phase):
    strategies, context = strategies_of(tiny_problem())
    found = strategies.best((0, 1), phase)
    # All shapes of up to two GPUs, each alone in a pool of as many as fit (4 or 2).
    rates = {}
    for tp, pp in ((1, 1), (2, 1), (1, 2)):
        alone = context.evaluator.planner.deploy([shape(phase, tp, pp)])
        size = 4 // (tp * pp)
        ledger = Ledger()
        (rated,) = rate_alone(context, (alone,), phase, ledger, pool_sizes=(size,))
        rates[tp, pp] = rated.rate_rps
    assert found.rated.rate_rps == max(rates.values()) > 0
    assert found.gpus == (0, 1)


def test_what_does_not_divide_the_model_leaves_gpus_idle():
    # The tiny model's heads divide by 1, 2 and 4; with one stage three GPUs are two.
    strategies, _ = strategies_of(tiny_problem(max_pp=1))
    found = strategies.best((0, 1, 2), Phase.PREFILL)
    assert found.rated.num_gpus == len(found.gpus) == 2


def test_groups_that_lie_alike_are_rated_once():
    strategies, context = strategies_of(tiny_problem(cluster=tiny_cluster(2, 2)))
    first = strategies.best((0, 1), Phase.DECODE)
    done = context.evaluator.num_evaluations
    second = strategies.best((2, 3), Phase.DECODE)
    assert context.evaluator.num_evaluations == done
    assert first.rated == second.rated
    assert second.gpus == (2, 3)


def test_the_smallest_replica_of_a_type():
    strategies, _ = strategies_of(tiny_problem(cluster=mixed_cluster(), tp=(2,)))
    assert strategies.least_gpus("tiny") == 2
    assert strategies.least_gpus("unknown") is None


def test_a_group_too_small_for_every_shape_has_none():
    strategies, _ = strategies_of(tiny_problem(tp=(2,)))
    assert strategies.best((0,), Phase.PREFILL) is None


@pytest.mark.parametrize("num", [1, 2])
def test_a_stopped_search_rates_nothing_more(num):
    strategies, context = strategies_of(tiny_problem(), stop=MaxEvaluations(num=num))
    while strategies.best((0,), Phase.PREFILL) and not context.should_stop():
        strategies.best((0, 1, 2, 3), Phase.DECODE)
        strategies.best((0, 1), Phase.DECODE)
    assert context.evaluator.num_evaluations <= num
