"""Slices: by host, and by shares of both phases."""

from planner.places.slices import by_host, matched, numbered, paired
from planner.simulator.system import Phase
from tests.planner.tiny_problems import tiny_cluster

P, D = Phase.PREFILL, Phase.DECODE


def test_a_replica_over_two_hosts_joins_them():
    topology = tiny_cluster(3, 2).topology
    apart = [((0,),), ((1,),), ((2,),), ((4,),)]
    assert by_host(topology, apart) == [0, 0, 1, 2]
    assert by_host(topology, [*apart, ((3,), (5,))]) == [0, 0, 1, 1, 1]


def test_parts_with_one_phase_are_not_paired():
    assert paired([P, P, D], [0, 1, 1]) == [1, 2]
    assert paired([P, D], [0, 1]) == []
    assert numbered([4, 2, 4]) == [0, 1, 0]


def test_shares_match_and_hosts_are_kept_where_they_do():
    # Two equal prefills, and a decode on the host of each.
    assert list(matched([P, P, D, D], [1.0] * 4, [0, 1, 1, 0])) == [[0, 1, 1, 0]]
    # The larger prefill gets the larger decode, wherever that is.
    (slices,) = matched([P, P, D, D], [2.0, 1.0, 1.0, 2.0], [0, 1, 0, 1])
    assert slices == [0, 1, 1, 0]


def test_two_slices_and_as_many_as_there_can_be():
    three = list(matched([P] * 3 + [D] * 3, [1.0] * 6, list(range(6))))
    assert [max(slices) + 1 for slices in three] == [2, 3]
    assert list(matched([P, D, D], [1.0] * 3, [0, 1, 2])) == []
    # All three decodes lack less than the first of three slices: two are shown.
    rates = [8.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert list(matched([P] * 3 + [D] * 3, rates, [0] * 6)) == [[0, 1, 1, 0, 0, 1]]
