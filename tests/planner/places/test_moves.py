"""Moves: stages on other hosts, and hosts alike told apart by nothing."""

from clusters.cluster import Cluster
from planner.places.moves import Grounds, neighbours
from planner.simulator.system import Phase
from tests.planner.places.place_parts import hosts_of
from tests.planner.tiny_problems import shape

PREFILL, DECODE = shape(Phase.PREFILL), shape(Phase.DECODE)
WIDE = shape(Phase.DECODE, tp=2)


def test_a_stage_moves_to_free_gpus_or_changes_places():
    grounds = Grounds.of(hosts_of(2, 2))
    place = (((0,),), ((1,),))
    found = list(neighbours(grounds, [PREFILL, DECODE], place))
    assert found == [(((2,),), ((1,),)), (((0,),), ((2,),))]
    full = Grounds.of(hosts_of(1, 1))
    exchanged = (((1,),), ((0,),))
    assert set(neighbours(full, [PREFILL, DECODE], place)) == {exchanged}


def test_a_wide_stage_changes_places_with_several():
    grounds = Grounds.of(hosts_of(2, 2))
    place = (((0,),), ((1,),), ((2, 3),))
    found = list(neighbours(grounds, [PREFILL, PREFILL, WIDE], place))
    assert (((2,),), ((3,),), ((0, 1),)) in found


def test_gpus_change_within_hosts_of_several_islands_only():
    pairs = Cluster.load("nvlink_pairs_a6000")
    name = pairs.gpu_types()[0].name
    shapes = [shape(Phase.PREFILL, gpu_type=name), shape(Phase.DECODE, gpu_type=name)]
    first, second = pairs.topology.islands(0)[:2]
    place = (((first[0],),), ((second[0],),))
    found = list(neighbours(Grounds.of(pairs), shapes, place))
    assert (((first[0],),), ((first[1],),)) in found
    whole = Grounds.of(hosts_of(4))
    assert list(neighbours(whole, [PREFILL, DECODE], (((0,),), ((1,),)))) == []


def test_hosts_and_replicas_alike_may_change_names():
    grounds = Grounds.of(hosts_of(2, 2, 1))
    shapes = [PREFILL, DECODE]
    key = grounds.key(shapes, (((0,),), ((1,),)))
    assert grounds.key(shapes, (((3,),), ((2,),))) == key
    assert grounds.key(shapes, (((0,),), ((2,),))) != key
    # The third host is smaller.
    assert grounds.key(shapes, (((0,),), ((4,),))) != grounds.key(
        shapes, (((0,),), ((2,),))
    )
