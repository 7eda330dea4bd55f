"""LLMs on shared one-phase units: as the simulator of one service where alone."""

from dataclasses import replace

import numpy as np
import pytest

from planner.multiplexing.apart_run import deployment_of, planner_of
from planner.multiplexing.placed import PlacedUnits
from planner.multiplexing.serve import serve
from planner.multiplexing.shared_phases import (
    serve_shared_phases,
    sharing_phases,
    unit_routes,
)
from planner.multiplexing.solve import SharingMethod, place_services
from planner.multiplexing.space import UnitSpace
from planner.multiplexing.unit_run import simulate_unit
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.workload.workload import Workload
from tests.planner.multiplexing.tiny_shared import book_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY, tiny_cluster

SLO = Slo(ttft_ms=200.0, tpot_ms=30.0)
PROBLEM = tiny_shared(8.0, 4.0, slo=SLO, cluster=tiny_cluster(2, 1))
BOOK = book_of(PROBLEM)
BYTES_PER_TOKEN = 4096.0


def placed_of(problem) -> PlacedUnits:
    method = SharingMethod.DISAGGREGATED
    return place_services(problem, TINY_LIBRARY, method=method).placed


def run(unit, requests):
    budget = PROBLEM.engine.limits.max_batch_tokens
    return simulate_unit(unit, BOOK, requests, max_batch_tokens=budget)


@pytest.fixture(scope="module")
def shared() -> PlacedUnits:
    return placed_of(PROBLEM)


def test_an_llm_alone_is_served_as_by_the_simulator_of_one_service() -> None:
    problem = tiny_shared(
        8.0,
        4.0,
        slo=SLO,
        cluster=tiny_cluster(4, 1),
        search=UnitSpace(max_llms=1),
    )
    placed = placed_of(problem)
    requests = Workload.poisson(rate_rps=8.0, lengths="100x11").draw(400, seed=3)
    system = planner_of(BOOK, "a").system(deployment_of(BOOK, placed, "a"))
    other = simulate(system, requests)
    found, _ = serve_shared_phases(
        placed,
        {"a": requests},
        unit_routes(problem, placed, ["a"], {}),
        {"a": system.kv_bytes_per_token},
        run,
    )
    for name in ("prefill_start_ms", "first_token_ms", "decode_ready_ms", "finish_ms"):
        ours, theirs = getattr(found["a"], name), getattr(other, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, err_msg=name)


def test_requests_go_from_phase_to_phase_and_none_is_lost(shared) -> None:
    assert sharing_phases(shared, ("a", "b")) == ("a", "b")
    traffic = {
        name: Workload.poisson(rate_rps=rate, lengths="100x11").draw(300, seed=seed)
        for name, rate, seed in (("a", 8.0, 1), ("b", 4.0, 2))
    }
    ones = np.arange(300) % 7 == 0
    tokens = np.where(ones, 1, traffic["b"].output_tokens)
    traffic["b"] = replace(traffic["b"], output_tokens=tokens)
    routes = unit_routes(PROBLEM, shared, ["a", "b"], {})
    sizes = dict.fromkeys("ab", BYTES_PER_TOKEN)
    found, by_unit = serve_shared_phases(shared, traffic, routes, sizes, run)
    assert set(by_unit) == set(range(len(shared.units)))
    for name, each in found.items():
        assert each.num_arrived == each.num_done == 300
        assert (each.prefill_start_ms >= each.arrival_ms).all()
        assert (each.first_token_ms > each.prefill_start_ms).all()
        goes_on = each.output_tokens > 1
        assert (each.transfer_start_ms >= each.first_token_ms)[goes_on].all()
        assert (each.decode_ready_ms > each.transfer_start_ms)[goes_on].all()
        assert (each.finish_ms > each.decode_ready_ms)[goes_on].all()
        assert (each.finish_ms == each.first_token_ms)[~goes_on].all()
        assert np.isnan(each.transfer_start_ms[~goes_on]).all(), name


def test_caches_of_two_services_take_turns_on_their_links(shared) -> None:
    requests = Workload.fixed_gap(rate_rps=4.0, lengths="100x11").draw(20, seed=0)
    routes = unit_routes(PROBLEM, shared, ["a", "b"], {})
    ((_, route),) = routes.items()
    # A cache holds the slowest link for 40 ms.
    slowest = max(ms for _, ms in route.edges)
    sizes = dict.fromkeys("ab", 0.4 / slowest)
    found, _ = serve_shared_phases(
        shared, {"a": requests, "b": requests}, routes, sizes, run
    )
    starts = np.sort(
        np.concatenate([each.transfer_start_ms for each in found.values()])
    )
    assert np.diff(starts).min() >= 40.0 - 1e-6
    slower = unit_routes(PROBLEM, shared, ["a"], dict.fromkeys(range(99), 2.0))
    ((_, crowded),) = slower.items()
    assert max(ms for _, ms in crowded.edges) == pytest.approx(2.0 * slowest)


def test_serving_counts_every_unit_and_every_llm_on_it(shared) -> None:
    found = serve(PROBLEM, BOOK, shared, span_s=60.0)
    assert found.is_met
    assert [each.num_requests for each in found.services] == [480, 240]
    for each, load in zip(shared.units, found.units, strict=True):
        assert len(load.decode_busy_frac) == len(each.unit.members) == 2
        is_prefill = each.unit.phase is Phase.PREFILL
        assert (load.prefill_busy_frac > 0) == is_prefill
        assert (min(load.decode_busy_frac) > 0) != is_prefill
    again = serve(PROBLEM, BOOK, shared, span_s=60.0)
    assert again == found
