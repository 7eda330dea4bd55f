"""Goals: their values, their order, and what may be given up for a second one."""

import math

import pytest

from clusters.fields import InputError
from planner.objective import Amounts, Goal, Objective


def amounts(rate=6.0, gpus=3, usd=7.5, watts=900.0):
    return Amounts(rate_rps=rate, num_gpus=gpus, usd_per_hour=usd, power_w=watts)


@pytest.mark.parametrize(
    ("goal", "value"),
    [
        (Goal.MAX_GOODPUT, 6.0),
        (Goal.MAX_GOODPUT_PER_GPU, 2.0),
        (Goal.MIN_GPUS, 3.0),
        (Goal.MIN_COST, 7.5),
        (Goal.MIN_POWER, 900.0),
    ],
)
def test_every_goal_has_its_value(goal, value):
    assert amounts().value(goal) == value
    assert amounts().cost(goal) == (-value if goal.is_upper else value)


def test_what_is_not_known_ranks_after_any_number():
    objective = Objective(goal=Goal.MIN_POWER)
    unknown, known = amounts(watts=None), amounts(watts=1e9)
    assert unknown.cost(Goal.MIN_POWER) == math.inf
    assert objective.rank(known, 6.0) < objective.rank(unknown, 6.0)


def test_the_second_goal_decides_among_equals_only():
    objective = Objective(goal=Goal.MIN_COST, then=Goal.MIN_POWER)
    cheap, cool = amounts(usd=7.0, watts=999.0), amounts(usd=7.5, watts=1.0)
    warm = amounts(usd=7.5, watts=2.0, gpus=1)
    ranks = [objective.rank(each, 6.0) for each in (cheap, cool, warm)]
    assert ranks == sorted(ranks)
    # Without it, fewer GPUs come before less power.
    plain = Objective(goal=Goal.MIN_COST)
    assert plain.rank(warm, 6.0) < plain.rank(cool, 6.0)


@pytest.mark.parametrize("goal", Goal)
def test_more_goodput_never_ranks_worse(goal):
    objective = Objective(goal=goal)
    ranks = [objective.rank(amounts(rate=r), 6.0) for r in (9.0, 6.0, 5.0, 1.0)]
    assert ranks == sorted(ranks)


def test_as_good_is_within_the_share_that_may_be_given_up():
    objective = Objective(goal=Goal.MAX_GOODPUT, then=Goal.MIN_COST, give_up_frac=0.1)
    best = amounts(rate=10.0)
    assert objective.is_as_good(amounts(rate=9.0), best)
    assert not objective.is_as_good(amounts(rate=8.9), best)
    # Of what is to be small: 90 % of it may not exceed the best.
    dear = Objective(goal=Goal.MIN_COST, then=Goal.MIN_GPUS, give_up_frac=0.1)
    assert dear.is_as_good(amounts(usd=10.0), amounts(usd=9.0))
    assert not dear.is_as_good(amounts(usd=10.1), amounts(usd=9.0))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"goal": Goal.MIN_COST, "then": Goal.MIN_COST}, "then"),
        ({"goal": Goal.MIN_COST, "then": Goal.MAX_GOODPUT_PER_GPU}, "then"),
        ({"goal": Goal.MIN_COST, "give_up_frac": 0.1}, "give_up_frac"),
        (
            {"goal": Goal.MIN_COST, "then": Goal.MIN_GPUS, "give_up_frac": 1.0},
            "give_up_frac",
        ),
    ],
)
def test_objectives_that_say_nothing_are_refused(settings, key):
    with pytest.raises(InputError, match=f"^{key} ="):
        Objective(**settings)
