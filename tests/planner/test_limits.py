"""Limits beside the number of GPUs: availability, budget, power; by hand."""

import pytest

from clusters.fields import InputError
from planner.check import check_deployment
from planner.limits import amounts_of, why_over
from planner.objective import Goal
from planner.search.ratios import RatedShape, Room
from planner.simulator.system import Phase
from planner.solve import solve
from tests.planner.tiny_problems import (
    QUICK,
    TINY_LIBRARY,
    mixed_cluster,
    planner_of,
    shape,
    tiny_problem,
)

# Two GPUs of type tiny for 5 $/h, two of type other for 1 $/h; 100 W each.
MIXED = mixed_cluster()
BOTH = (shape(Phase.AGGREGATED), shape(Phase.AGGREGATED, gpu_type="other"))


def made(**space):
    return planner_of(tiny_problem(cluster=MIXED, **space))


@pytest.mark.parametrize(
    ("space", "why"),
    [
        ({}, None),
        ({"available_gpus": {"other": 0}}, "needs more other than are available"),
        ({"available_gpus": {"other": 1}}, None),
        ({"max_usd_per_hour": 2.9}, "costs more than max_usd_per_hour"),
        ({"max_usd_per_hour": 3.0}, None),
        ({"max_power_w": 199.0}, "takes more than max_power_w"),
        ({"max_power_w": 200.0}, None),
    ],
)
def test_a_deployment_within_and_beyond_each_limit(space, why):
    deployment = made().deploy(BOTH)
    problem = made(**space).problem
    assert why_over(problem, deployment) == why
    if why is None:
        check_deployment(problem, deployment)
    else:
        with pytest.raises(InputError, match="within its limits"):
            check_deployment(problem, deployment)
    taken = amounts_of(problem, deployment, 7.0)
    assert (taken.num_gpus, taken.usd_per_hour, taken.power_w) == (2, 3.0, 200.0)


def test_placement_takes_any_gpus_of_a_type_but_no_more_than_there_are_to_have():
    planner = made(available_gpus={"tiny": 1})
    assert planner.deploy([shape(Phase.AGGREGATED)]) is not None
    assert planner.deploy([shape(Phase.AGGREGATED)] * 2) is None
    assert planner.deploy([shape(Phase.AGGREGATED, tp=2)]) is None
    assert planner.deploy([shape(Phase.AGGREGATED, gpu_type="other")] * 2) is not None


def test_room_counts_money_and_power():
    rated = RatedShape(
        shape=shape(Phase.PREFILL), rate_rps=1.0, usd_per_hour=2.5, power_w=100.0
    )
    cheap = RatedShape(
        shape=shape(Phase.DECODE, gpu_type="other"),
        rate_rps=1.0,
        usd_per_hour=0.5,
        power_w=100.0,
    )
    assert Room.of(made().problem).most(rated) == 2
    assert Room.of(made(max_usd_per_hour=3.0).problem).most(rated) == 1
    # After one of the dear ones 0.5 $/h are left, or 100 of 200 W.
    for space in ({"max_usd_per_hour": 3.0}, {"max_power_w": 200.0}):
        room = Room.of(made(**space).problem)
        assert room.most(cheap, beside=rated, count=1) == 1


@pytest.mark.parametrize(
    "method", ["provisioning", "hexgen2", "per-type", "exhaustive"]
)
@pytest.mark.parametrize(
    "space", [{"max_usd_per_hour": 3.0}, {"available_gpus": {"tiny": 0}}]
)
def test_every_method_keeps_the_limits(method, space):
    problem = tiny_problem(cluster=MIXED, goal=Goal.MAX_GOODPUT, max_pp=1, **space)
    result = solve(problem, TINY_LIBRARY, method=method, effort=QUICK)
    assert result.status.is_success
    assert why_over(problem, result.best.deployment) is None
    assert result.best.goodput.rate_rps <= result.bound
