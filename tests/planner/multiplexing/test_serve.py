"""Serving a placement: what is promised and served, and everything is counted."""

import pytest

from planner.multiplexing.serve import serve
from planner.multiplexing.shared_plan import promising_less
from planner.multiplexing.solve import SharingMethod, place_services
from planner.multiplexing.unit_run import Scheduling
from planner.slo import Slo
from tests.planner.multiplexing.tiny_shared import SMALL_SPACE, book_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY

SLO = Slo(ttft_ms=200.0, tpot_ms=20.0)


def placed_of(problem):
    found = place_services(
        problem, TINY_LIBRARY, method=SharingMethod.EXACT, space=SMALL_SPACE
    )
    assert found.placed is not None
    return found.placed


def test_a_light_load_is_served_within_its_limits() -> None:
    problem = tiny_shared(4.0, 2.0, slo=SLO)
    found = serve(problem, book_of(problem), placed_of(problem), span_s=60.0)
    assert found.is_met
    assert found.within_slo_rps == pytest.approx(6.0, rel=0.02)
    assert [each.num_requests for each in found.services] == [240, 120]
    again = serve(problem, book_of(problem), placed_of(problem), span_s=60.0)
    assert again == found


def test_services_draw_apart_and_seeds_differ() -> None:
    problem = tiny_shared(4.0, 4.0, slo=SLO)
    placed, book = placed_of(problem), book_of(problem)
    a, b = serve(problem, book, placed, span_s=30.0).services
    assert a.ttft_p99_ms != b.ttft_p99_ms
    other = serve(problem, book, placed, span_s=30.0, seed=1)
    assert other.services[0].ttft_p99_ms != a.ttft_p99_ms


def test_what_is_not_promised_is_turned_away() -> None:
    problem = tiny_shared(4.0, 2.0, slo=SLO)
    less = promising_less(placed_of(problem), {"a"})
    found = serve(problem, book_of(problem), less, span_s=60.0)
    assert found.services[0].admitted_rps == pytest.approx(3.6, rel=0.02)
    assert found.services[1].admitted_rps == pytest.approx(2.0, rel=0.02)


def test_overload_misses_the_slo_whatever_the_quotas_do() -> None:
    problem = tiny_shared(4.0, 2.0, slo=SLO)
    placed, book = placed_of(problem), book_of(problem)
    for scheduling in Scheduling:
        found = serve(
            problem, book, placed, span_s=30.0, rate_scale=200.0, scheduling=scheduling
        )
        assert not found.is_met
        assert found.within_slo_rps < 0.9 * 1200.0
