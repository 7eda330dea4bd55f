"""Places and pairings of replicas: all are there, and equal ones are seen to be so."""

from dataclasses import replace

import numpy as np
import pytest

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.node import Node, NodeType
from planner.search.placements import Seats, placements, signature, slicings
from planner.serving import place_in_order
from planner.simulator.system import Phase
from tests.planner.tiny_problems import (
    planner_of,
    shape,
    tiny_cluster,
    tiny_problem,
)

P, D = Phase.PREFILL, Phase.DECODE


def two_switches() -> Cluster:
    """Two nodes with two GPUs on each of two PCIe switches, and a NIC on the first."""
    whole = NodeType.load("g6e.48xlarge")
    changes = {"num_gpus": 4, "num_nics": 1, "num_sockets": 1}
    nodes = [
        Node(name=name, type=replace(whole, name="part", **changes))
        for name in ("one", "two")
    ]
    return Cluster(name="switches", nodes=tuple(nodes), fabric=Fabric())


def test_gpus_with_the_same_links_form_runs():
    assert Seats.of(tiny_cluster(2, 2)).runs == ((0, 1), (2, 3))
    pairs = tuple((first, first + 1) for first in range(0, 8, 2))
    assert Seats.of(two_switches()).runs == pairs


def test_places_of_one_replica_of_each_phase_by_hand():
    seats = Seats.of(tiny_cluster(2, 2))
    found = list(placements(seats, [shape(P), shape(D)]))
    # Either on either node: GPU 0 or 2, and 1 or 3 beside it.
    assert found == [
        [((0,),), ((1,),)],
        [((0,),), ((2,),)],
        [((2,),), ((0,),)],
        [((2,),), ((3,),)],
    ]


def test_groups_may_take_gpus_of_several_switches_but_stay_on_a_node():
    found = {
        placed[0][0]
        for placed in placements(
            Seats.of(two_switches()), [shape(P, tp=2, gpu_type="l40s")]
        )
    }
    assert found == {(0, 1), (0, 2), (2, 3), (4, 5), (4, 6), (6, 7)}


@pytest.mark.parametrize(
    ("phases", "num"), [((P, D), 0), ((P, P, D), 0), ((P, P, D, D), 4), ((P,) * 3, 0)]
)
def test_slices_have_both_phases(phases, num):
    assert len(list(slicings(phases))) == num


def test_three_and_two_replicas_are_paired_in_every_way():
    # Three in two slices, none empty: 2^3 - 2; two in two: 2.
    assert len(list(slicings((P, P, P, D, D)))) == 6 * 2


@pytest.mark.parametrize("cluster", [tiny_cluster(2, 3), two_switches()])
def test_no_place_is_missing(cluster):
    # GPUs drawn at random are to the simulator one of the places, with its slices.
    rng = np.random.default_rng(0)
    planner = planner_of(tiny_problem(cluster=cluster))
    (gpu,) = cluster.gpu_types()
    shapes = [shape(phase, gpu_type=gpu.name) for phase in (P, D, D)]
    shapes.append(shape(P, tp=2, gpu_type=gpu.name))
    shapes.sort(key=place_in_order)
    pairings = [None, *slicings([each.phase for each in shapes])]

    def seen(placed, slices):
        deployment = planner.deploy_at(shapes, placed, slices)
        return signature(planner.system(deployment))

    known = {
        seen(placed, slices)
        for placed in placements(Seats.of(cluster), shapes)
        for slices in pairings
    }
    num_drawn = 0
    while num_drawn < 40:
        placed, used = [], set()
        for each in shapes:
            nodes = [
                [g.index for g in cluster.topology.gpus if g.node == node]
                for node in range(len(cluster.nodes))
            ]
            fitting = [
                free
                for free in ([g for g in node if g not in used] for node in nodes)
                if len(free) >= each.parallelism.tp
            ]
            if not fitting:
                break
            free = fitting[int(rng.integers(len(fitting)))]
            gpus = rng.choice(free, size=each.parallelism.tp, replace=False)
            placed.append((tuple(sorted(int(gpu) for gpu in gpus)),))
            used |= set(placed[-1][0])
        if len(placed) == len(shapes):
            num_drawn += 1
            slices = pairings[int(rng.integers(len(pairings)))]
            assert seen(placed, slices) in known
