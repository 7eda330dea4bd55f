"""Phases apart: simulated as a deployment of one service, on links that are shared."""

from dataclasses import replace

import numpy as np
import pytest

from planner.multiplexing.apart_run import (
    crowding_of,
    deployment_of,
    planner_of,
    serve_apart,
)
from planner.multiplexing.placed import PlacedUnits
from planner.multiplexing.serve import serve
from planner.multiplexing.solve import SharingMethod, place_services
from planner.multiplexing.space import UnitSpace
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.workload.workload import Workload
from tests.planner.multiplexing.tiny_shared import book_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY, tiny_cluster

PROBLEM = tiny_shared(
    8.0,
    4.0,
    slo=Slo(ttft_ms=200.0, tpot_ms=30.0),
    cluster=tiny_cluster(4, 1),
    search=UnitSpace(max_llms=1),
)
BOOK = book_of(PROBLEM)


@pytest.fixture(scope="module")
def placed() -> PlacedUnits:
    method = SharingMethod.DISAGGREGATED
    return place_services(PROBLEM, TINY_LIBRARY, method=method).placed


def test_requests_are_served_as_by_the_simulator_of_one_service(
    placed: PlacedUnits,
) -> None:
    requests = Workload.poisson(rate_rps=8.0, lengths="100x11").draw(500, seed=3)
    found = serve_apart(BOOK, placed, {"a": requests}).services["a"]
    planner = planner_of(BOOK, "a")
    deployment = deployment_of(BOOK, placed, "a")
    assert [replica.phase for replica in deployment.replicas] == [
        Phase.PREFILL,
        Phase.DECODE,
    ]
    alone = simulate(planner.system(deployment), requests)
    np.testing.assert_array_equal(found.finish_ms, alone.finish_ms)
    # KV caches travel between nodes: 2 GB/s a NIC, and a fixed time.
    assert (found.decode_ready_ms > found.first_token_ms).all()


def test_links_are_slower_by_the_services_that_cross_them(placed: PlacedUnits) -> None:
    deployments = {name: deployment_of(BOOK, placed, name) for name in ("a", "b")}
    crowding = crowding_of(deployments)
    own = {
        name: {edge for route in each.routes for edge in route.edges}
        for name, each in deployments.items()
    }
    for name, edges in own.items():
        assert set(crowding[name]) == edges
        for edge in edges:
            others = sum(edge in every for every in own.values())
            assert crowding[name][edge] == others


def test_everything_is_counted_and_busy_parts_are_of_their_units(
    placed: PlacedUnits,
) -> None:
    found = serve(PROBLEM, BOOK, placed, span_s=60.0)
    assert [each.num_requests for each in found.services] == [480, 240]
    assert found.is_met
    for each, load in zip(placed.units, found.units, strict=True):
        if each.unit.phase is Phase.PREFILL:
            # 20 ms a prompt.
            expected = each.unit.members[0].served_rps * 0.02
            assert load.prefill_busy_frac == pytest.approx(expected, rel=0.1)
            assert load.decode_busy_frac == (0.0,)
        else:
            assert load.prefill_busy_frac == 0.0
            assert load.decode_busy_frac[0] > 0


def test_loads_and_quotas_are_those_of_the_unit_in_any_order(
    placed: PlacedUnits,
) -> None:
    turned = PlacedUnits(units=placed.units[::-1])
    there = serve(PROBLEM, BOOK, placed, span_s=20.0)
    back = serve(PROBLEM, BOOK, turned, span_s=20.0)
    assert back.units == there.units[::-1]
    assert back.services == there.services
    (first, *others) = turned.units
    member = replace(first.unit.members[0], kv_quota_tokens=160)
    small = replace(first, unit=replace(first.unit, members=(member,)))
    deployment = deployment_of(
        BOOK, PlacedUnits(units=(small, *others)), member.service
    )
    held = {r.gpu_indices: r.kv_capacity_tokens for r in deployment.replicas}
    assert held[first.gpu_indices] == 160
    assert sum(tokens == 160 for tokens in held.values()) == 1


def test_an_idle_unit_is_not_busy(placed: PlacedUnits) -> None:
    less = replace(PROBLEM, services=PROBLEM.services)
    found = serve(less, BOOK, placed, span_s=1.0, rate_scale=0.05)
    assert min(load.prefill_busy_frac for load in found.units) == 0.0
