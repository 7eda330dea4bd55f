"""Traffic of several services: days in less time, traces on one clock."""

from dataclasses import replace

import numpy as np
import pytest

from planner.multiplexing.clock import DAY_SPAN_S, SPAN_S
from planner.multiplexing.traffic import draw_all, span_of
from planner.workload.popularity import staggered_days
from planner.workload.requests import Requests
from planner.workload.workload import Workload
from tests.planner.multiplexing.tiny_shared import tiny_shared


def with_workloads(*workloads: Workload):
    problem = tiny_shared(*[1.0] * len(workloads))
    services = tuple(
        replace(service, workload=workload)
        for service, workload in zip(problem.services, workloads, strict=True)
    )
    return replace(problem, services=services)


def recorded(*arrival_s: float) -> Workload:
    num = len(arrival_s)
    requests = Requests(
        arrival_ms=np.array(arrival_s) * 1000.0,
        input_tokens=np.full(num, 100),
        output_tokens=np.full(num, 11),
    )
    return Workload.from_requests(requests)


def test_a_day_keeps_its_rates_and_its_order_in_less_time() -> None:
    days = staggered_days(2, peak_to_mean=1.8, spread_frac=1.0)
    problem = with_workloads(
        *(Workload.of_lengths("100x11", arrivals=day, rate_rps=40.0) for day in days)
    )
    assert span_of(problem) == DAY_SPAN_S
    drawn = draw_all(problem, span_s=DAY_SPAN_S, seed=0)
    # Noon is in the middle for the one, at both ends for the other: twelve of the 24
    # hours have 40 * (1 + 0.8 * mean cosine of 0.638) requests/s.
    for name, is_noon in (("a", True), ("b", False)):
        times_s = drawn[name].arrival_ms / 1000.0
        assert times_s[-1] == pytest.approx(DAY_SPAN_S, rel=0.02)
        in_middle = (times_s > 150.0) & (times_s < 450.0)
        rate = in_middle.sum() / 300.0
        share = 0.8 * 0.638
        wanted = 40.0 * (1.0 + (share if is_noon else -share))
        assert rate == pytest.approx(wanted, rel=0.05)


def test_rates_that_do_not_change_need_no_day() -> None:
    assert span_of(tiny_shared(1.0, 2.0)) == SPAN_S


def test_traces_are_replayed_whole_and_on_the_clock_of_their_file() -> None:
    problem = with_workloads(recorded(0.0, 400.0, 800.0), recorded(200.0, 600.0))
    # Rates are those of each trace alone: 3 requests in 800 s, 2 in 400 s.
    assert span_of(problem) == pytest.approx(800.0)
    drawn = draw_all(problem, span_s=800.0, seed=5)
    assert drawn["a"].arrival_ms.tolist()[:3] == [0.0, 400e3, 800e3]
    assert drawn["b"].arrival_ms.tolist()[:2] == [200e3, 600e3]
    assert max(drawn["b"].arrival_ms) <= 800e3
