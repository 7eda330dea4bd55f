"""Cells: even shares, goodputs that add up, and links shared with other cells."""

from collections import Counter

import numpy as np
import pytest

from clusters.fields import InputError
from planner import cells
from planner.cell_runs import simulate_cells
from planner.cells import MOST_REPLICAS, cell_kinds, deal, slices_by_part
from planner.check import check_deployment
from planner.evaluate import Evaluator
from planner.simulator.outside_schedule import OutsideEvent, OutsideKind
from planner.simulator.system import Phase
from tests.planner.tiny_problems import (
    QUICK,
    planner_of,
    shape,
    tiny_cluster,
    tiny_problem,
)


@pytest.fixture
def small_cells(monkeypatch):
    """Cells of at most four replicas."""
    monkeypatch.setattr(cells, "MOST_REPLICAS", 4)


def test_few_replicas_are_one_cell():
    shapes = [shape(Phase.AGGREGATED)] * MOST_REPLICAS
    assert set(deal(tiny_cluster(), shapes)) == {0}


def test_cells_have_equal_shares_where_numbers_allow(small_cells):
    # 8 and 4 replicas in cells of four at most: 3 or more cells, and 4 share evenly.
    shapes = [shape(Phase.PREFILL)] * 8 + [shape(Phase.DECODE)] * 4
    dealt = deal(tiny_cluster(), shapes)
    assert Counter(dealt[:8]) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert Counter(dealt[8:]) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert dealt[:8] == sorted(dealt[:8])  # those beside each other stay together


def test_what_is_left_over_goes_where_least_is(small_cells):
    # Two of TP2 for three cells: the third gets the odd one of TP1.
    shapes = [shape(Phase.AGGREGATED, tp=2)] * 2 + [shape(Phase.AGGREGATED)] * 8
    dealt = deal(tiny_cluster(), shapes)
    gpus = Counter()
    for cell, each in zip(dealt, shapes, strict=True):
        gpus[cell] += each.parallelism.num_gpus
    assert sum(gpus.values()) == 12
    assert max(gpus.values()) - min(gpus.values()) <= 1


def test_every_cell_has_both_phases(small_cells):
    shapes = [shape(Phase.PREFILL)] * 2 + [shape(Phase.DECODE)] * 20
    dealt = deal(tiny_cluster(), shapes)
    assert set(dealt[:2]) == set(dealt[2:]) == {0, 1}


def large(num_nodes=4):
    """A prefill and three decode replicas on each node."""
    planner = planner_of(tiny_problem(cluster=tiny_cluster(num_nodes)))
    shapes = [shape(Phase.PREFILL)] * num_nodes + [shape(Phase.DECODE)] * 3 * num_nodes
    return planner, planner.deploy(shapes)


def test_kv_caches_stay_in_their_cell(small_cells):
    planner, deployment = large()
    check_deployment(planner.problem, deployment)
    cell_of = {replica.name: replica.slice for replica in deployment.replicas}
    assert len(set(cell_of.values())) == 4
    assert all(cell_of[r.source] == cell_of[r.target] for r in deployment.routes)


def test_goodput_is_that_of_a_cell_times_their_number(small_cells):
    planner, deployment = large()
    (kind,) = cell_kinds(planner, deployment)
    evaluator = Evaluator(planner=planner, effort=QUICK)
    slo = planner.problem.service.slo
    one = evaluator.system_goodput(kind.system, slo)
    whole = evaluator.goodput(deployment)
    assert one.rate_rps > 0
    assert whole.rate_rps == pytest.approx(4 * one.rate_rps)
    assert whole.capacity_rps == pytest.approx(4 * one.capacity_rps)


def test_cells_promise_no_more_than_one_router_over_all(small_cells, monkeypatch):
    planner, deployment = large()
    apart = Evaluator(planner=planner, effort=QUICK).goodput(deployment)
    monkeypatch.setattr(cells, "MOST_REPLICAS", 64)
    joint = Evaluator(planner=planner, effort=QUICK).goodput(deployment)
    assert apart.rate_rps <= joint.rate_rps * 1.02  # the tolerance of the search


def test_links_shared_with_other_cells_are_slower(monkeypatch):
    monkeypatch.setattr(cells, "MOST_REPLICAS", 2)
    # Prefill on the first two nodes, decode on the others: with two cells, each
    # replica pair crosses NICs that the other cell uses as well.
    planner = planner_of(tiny_problem(cluster=tiny_cluster(2)))
    shapes = [shape(Phase.PREFILL)] * 2 + [shape(Phase.DECODE)] * 2
    placed = [((0,),), ((1,),), ((4,),), ((5,),)]
    both = planner.deploy_at(shapes, placed, [0, 1, 0, 1])
    alone = planner.deploy_at(shapes[::2], placed[::2])
    # Each cell of two replicas is as slow on the NIC as if it had half of it.
    (kind,) = cell_kinds(planner, both)
    slowest = max(s.ms_per_byte for s in planner.system(alone).routes[0].edges)
    crowded = max(s.ms_per_byte for s in kind.system.routes[0].edges)
    assert crowded == pytest.approx(2 * slowest)


def test_a_run_of_cells_accounts_for_every_replica(small_cells):
    planner, deployment = large()
    workload = planner.problem.service.workload
    requests = workload.draw(400, seed=0, rate_rps=40.0)
    kinds = cell_kinds(planner, deployment)
    result = simulate_cells(kinds, requests, seed=0, is_itl_counted=True)
    # 11 tokens a request, so 10 gaps of each, however many cells one stands for.
    assert result.token_gaps is not None
    assert result.token_gaps.num_gaps == 10 * result.num_done
    assert simulate_cells(kinds, requests, seed=0).token_gaps is None
    assert len(result.replicas) == len(deployment.replicas)
    assert result.is_complete
    # One cell in four gets about 100 requests and is counted four times.
    assert result.num_arrived % 4 == 0
    assert result.num_arrived == pytest.approx(400, rel=0.3)
    slices = [replica.slice for replica in deployment.replicas]
    for source, target in zip(
        result.prefill_replica, result.decode_replica, strict=True
    ):
        assert slices[source] == slices[target]
    assert (result.arrival_ms[1:] >= result.arrival_ms[:-1]).all()


def test_aggregated_replicas_are_dealt_too(small_cells):
    planner = planner_of(tiny_problem(cluster=tiny_cluster(2)))
    deployment = planner.deploy([shape(Phase.AGGREGATED)] * 8)
    (kind,) = cell_kinds(planner, deployment)
    assert [len(members) for members in kind.cells] == [4, 4]
    assert Evaluator(planner=planner, effort=QUICK).goodput(deployment).rate_rps > 0


def happening(kind, at_ms, replica, takes_ms=0.0):
    return OutsideEvent(at_ms=at_ms, kind=kind, replica=replica, takes_ms=takes_ms)


def test_a_cell_that_loses_a_replica_stands_for_itself(small_cells):
    """Four cells alike, of which one loses its three decode replicas for a second.

    Three of them are one simulation, as without events. The requests of the fourth stay
    in the cell and wait; all of them end.
    """
    planner, deployment = large()
    (kind,) = kinds = cell_kinds(planner, deployment)
    cell = kind.cells[2]
    requests = planner.problem.service.workload.draw(800, seed=0, rate_rps=160.0)
    events = [happening(OutsideKind.FAIL, 1500.0, each) for each in cell[1:]]
    events += [happening(OutsideKind.RECOVER, 2500.0, each) for each in cell[1:]]
    result = simulate_cells(kinds, requests, seed=0, events=events)
    assert simulate_cells(kinds, requests, seed=0).num_recomputed == 0
    assert result.num_recomputed > 0
    assert len(result.replicas) == len(deployment.replicas)
    assert result.num_done == result.num_arrived
    mine = np.isin(result.prefill_replica, cell)
    assert set(result.decode_replica[mine]) == set(cell[1:])
    sent_ms = result.transfer_start_ms[mine]
    assert not ((sent_ms > 1500.0) & (sent_ms < 2500.0)).any()
    others = result.transfer_start_ms[~mine]
    assert ((others > 1500.0) & (others < 2500.0)).any()


def test_a_schedule_of_a_large_deployment_counts_in_its_evaluation(small_cells):
    planner, deployment = large()
    evaluator = Evaluator(planner=planner, effort=QUICK)
    requests = planner.problem.service.workload.draw(400, seed=0, rate_rps=60.0)
    events = (
        happening(OutsideKind.FAIL, 1000.0, 5),
        happening(OutsideKind.RECOVER, 2000.0, 5, 100.0),
        happening(OutsideKind.DRAIN, 500.0, 0),
        happening(OutsideKind.RECOVER, 3000.0, 0),
    )
    found = evaluator.evaluate(deployment, requests, events=events)
    assert found.disturbance is not None
    assert found.disturbance.num_events == 4
    assert found.disturbance.num_unfinished == 0
    flip = happening(OutsideKind.FLIP, 1.0, 0)
    with pytest.raises(InputError, match=r"events\[0\].kind = 'flip'"):
        evaluator.evaluate(deployment, requests, events=(flip,))


def test_parts_that_nothing_joins_are_slices_of_their_own():
    apart = tiny_cluster(2, 2, num_nics=0)
    both = [shape(Phase.PREFILL), shape(Phase.DECODE)]
    places = [((0,),), ((1,),), ((2,),), ((3,),)]
    assert slices_by_part(apart, both * 2, places) == [0, 0, 1, 1]
    assert slices_by_part(tiny_cluster(2, 2), both * 2, places) is None
    # The second part with decode replicas alone could not serve.
    alone = [*both, both[1], both[1]]
    with pytest.raises(InputError, match="both phases in every part"):
        slices_by_part(apart, alone, places)
