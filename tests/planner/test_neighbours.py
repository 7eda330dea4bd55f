"""Neighbours move one replica, leave the others in place, and use free GPUs only."""

import pytest

from planner.check import check_deployment
from planner.deployment import Deployment
from planner.neighbours import neighbours, ratio_of
from planner.simulator.system import Phase
from tests.planner.tiny_problems import planner_of, shape, tiny_problem

PLANNER = planner_of(tiny_problem())
"""One node of four GPUs."""


def deployed(*phases: Phase) -> Deployment:
    deployment = PLANNER.deploy([shape(phase) for phase in phases])
    assert deployment is not None
    return deployment


def test_each_pool_gets_one_more_and_one_fewer() -> None:
    base = deployed(Phase.PREFILL, Phase.PREFILL, Phase.DECODE)
    found = neighbours(PLANNER, base)
    # The only decode replica cannot go: its phase would be left empty.
    assert {change: ratio_of(each) for change, each in found.items()} == {
        "+ 1 prefill tiny TP1 PP1": "3P1D",
        "- 1 prefill tiny TP1 PP1": "1P1D",
        "+ 1 decode tiny TP1 PP1": "2P2D",
    }


def test_neighbours_are_deployments_that_hold() -> None:
    base = deployed(Phase.PREFILL, Phase.PREFILL, Phase.DECODE)
    for each in neighbours(PLANNER, base).values():
        check_deployment(PLANNER.problem, each)


def test_other_replicas_stay_where_they_are() -> None:
    base = deployed(Phase.PREFILL, Phase.DECODE)
    more = neighbours(PLANNER, base)["+ 1 decode tiny TP1 PP1"]
    before = {replica.stage_gpus for replica in base.replicas}
    assert before < {replica.stage_gpus for replica in more.replicas}
    assert more.num_gpus == 3


def test_nothing_is_added_where_no_gpu_is_free() -> None:
    base = deployed(
        Phase.AGGREGATED, Phase.AGGREGATED, Phase.AGGREGATED, Phase.AGGREGATED
    )
    fewer = "- 1 aggregated tiny TP1 PP1 prefill_first"
    assert list(neighbours(PLANNER, base)) == [fewer]


def test_slices_come_and_go_whole() -> None:
    phases = (Phase.PREFILL, Phase.DECODE)
    shapes = [shape(phase) for phase in phases for _ in range(2)]
    places = [((0,),), ((2,),), ((1,),), ((3,),)]
    base = PLANNER.deploy_at(shapes, places, [0, 1, 0, 1])
    found = neighbours(PLANNER, base)
    # Four GPUs are in use, so no third slice fits.
    (change,) = found
    assert change == "- 1 slice (2 replicas)"
    assert ratio_of(found[change]) == "1P1D"
    assert found[change].gpu_indices == (0, 1)


@pytest.mark.parametrize(
    ("phases", "ratio"),
    [
        ((Phase.PREFILL, Phase.DECODE, Phase.DECODE), "1P2D"),
        ((Phase.AGGREGATED, Phase.AGGREGATED), "2 aggregated"),
    ],
)
def test_ratio_counts_replicas(phases: tuple[Phase, ...], ratio: str) -> None:
    assert ratio_of(deployed(*phases)) == ratio
