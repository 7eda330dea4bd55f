"""Place search: never below its starts, and the best place where it can be told."""

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.placement import place
from planner.places.search import PlaceSearch
from planner.search.placements import Seats, placements
from planner.serving import place_in_order
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.places.place_parts import hosts_of
from tests.planner.tiny_problems import planner_of, shape, tiny_problem

PREFILL, DECODE = shape(Phase.PREFILL), shape(Phase.DECODE)
PATIENT = Slo(ttft_ms=60.0, tpot_ms=60_000.0)


def planner_on(cluster, slo=PATIENT):
    return planner_of(tiny_problem(cluster=cluster, slo=slo))


def test_prefill_and_decode_come_to_lie_on_one_host():
    search = PlaceSearch(planner_on(hosts_of(1, 2)))
    found = search.best([PREFILL, DECODE], [[((0,),), ((1,),)]])
    assert found.place == (((2,),), ((1,),))
    assert found.slices is None


def test_links_with_room_are_left_as_the_rules_have_them():
    search = PlaceSearch(planner_on(hosts_of(1, 2, nic_bytes_per_s=1e12)))
    start = [((0,),), ((1,),)]
    found = search.places([PREFILL, DECODE], [start])
    assert [each.place for each in found] == [tuple(start)]
    assert search.best_apart([PREFILL, DECODE], [start]) is None


def test_slices_where_links_are_short():
    search = PlaceSearch(planner_on(hosts_of(2, 2)))
    shapes = [PREFILL, PREFILL, DECODE, DECODE]
    found = search.best_apart(shapes, [[((0,),), ((1,),), ((2,),), ((3,),)]])
    # On each host one of each, whatever the hosts are called.
    hosts = [stages[0][0] // 2 for stages in found.place]
    assert sorted(hosts[:2]) == sorted(hosts[2:]) == [0, 1]
    assert found.slices in {(0, 1, hosts[2] != hosts[0], hosts[3] != hosts[0])}


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=3),
    kinds=st.lists(
        st.tuples(
            st.sampled_from([Phase.PREFILL, Phase.DECODE]), st.sampled_from([1, 2])
        ),
        max_size=3,
    ),
    nic=st.sampled_from([1e4, 1e5, 1e6]),
    slo=st.sampled_from([PATIENT, Slo(ttft_ms=60.0, tpot_ms=16.0)]),
)
def test_no_place_is_below_its_start_nor_above_all_places(sizes, kinds, nic, slo):
    planner = planner_on(hosts_of(*sizes, nic_bytes_per_s=nic), slo)
    shapes = [PREFILL, DECODE, *(shape(phase, tp=tp) for phase, tp in kinds)]
    shapes = sorted(shapes, key=place_in_order)
    start = place(planner.problem.cluster, shapes)
    if start is None:
        return
    search = PlaceSearch(planner)
    flow = search.flows.flow(shapes, start)
    found = search.places(shapes, [start])
    whole = next(each for each in found if each.slices is None)
    assert whole.flow >= flow
    for each in found:
        gpus = [gpu for stages in each.place for stage in stages for gpu in stage]
        assert len(gpus) == len(set(gpus))
        assert [[len(g) for g in s] for s in each.place] == [
            [len(g) for g in s] for s in start
        ]
        assert search.flows.flow(shapes, each.place, each.slices) == each.flow
    assert found == PlaceSearch(planner).places(shapes, [start])
    # All places, as far as there are few.
    every = islice(placements(Seats.of(planner.problem.cluster), shapes), 300)
    flows = [search.flows.flow(shapes, each) for each in every]
    if len(flows) < 300:
        assert whole.flow <= max(flows)
