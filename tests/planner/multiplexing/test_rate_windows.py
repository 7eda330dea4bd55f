"""Rates over time: counts of traces without chance, few periods that hide no peak."""

from dataclasses import replace

import numpy as np
import pytest

from planner.multiplexing.problem import SharedGoal, SharedObjective, SharedProblem
from planner.multiplexing.rate_windows import (
    NUM_WINDOWS,
    RateProfile,
    busy_over_time,
    window_rates,
)
from planner.multiplexing.serve import serve
from planner.multiplexing.shared_plan import SharedPlan, plan_services
from planner.multiplexing.solve import place_services
from planner.slo import Slo
from planner.workload.popularity import MAX_PERIODS, busy_periods, staggered_days
from planner.workload.rate_schedule import PiecewiseRateArrivals, RateSegment
from planner.workload.requests import Requests
from planner.workload.workload import Workload
from tests.planner.multiplexing.tiny_shared import SMALL_SPACE, book_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY

HOUR_MS = 3_600_000.0


def recorded(*rates_rps: float, seed: int = 0, span_ms: float = HOUR_MS) -> Workload:
    """A time in equal parts, each with Poisson arrivals at a rate."""
    rng = np.random.default_rng(seed)
    part_ms = span_ms / len(rates_rps)
    times = [
        np.sort(rng.uniform(i * part_ms, (i + 1) * part_ms, round(r * part_ms / 1000)))
        for i, r in enumerate(rates_rps)
    ]
    arrival_ms = np.concatenate(times)
    num = len(arrival_ms)
    return Workload.from_requests(
        Requests(
            arrival_ms=arrival_ms,
            input_tokens=np.full(num, 100),
            output_tokens=np.full(num, 11),
        )
    )


def test_a_trace_of_independent_users_is_as_busy_all_the_time() -> None:
    (row,) = window_rates([recorded(5.0)])
    # 150 requests a window: counts vary by 8 %, of which chance is all.
    assert row == pytest.approx(np.ones(NUM_WINDOWS), abs=0.06)


def test_peaks_of_a_trace_are_counted_when_they_are() -> None:
    early, late = recorded(18.0, 2.0, 2.0, 2.0), recorded(1.0, 1.0, 1.0, 9.0, seed=1)
    first, second = window_rates([early, late])
    quarter = NUM_WINDOWS // 4
    # 18 of a mean of 6, and 9 of a mean of 3.
    assert first[:quarter].mean() == pytest.approx(3.0, rel=0.03)
    assert second[-quarter:].mean() == pytest.approx(3.0, rel=0.03)
    assert first[-quarter:].mean() == pytest.approx(1 / 3, rel=0.1)


def test_few_periods_stay_and_none_is_busier_than_they_are() -> None:
    workloads = [recorded(18.0, 2.0, 8.0, 2.0), recorded(1.0, 3.0, 1.0, 9.0, seed=1)]
    rates = window_rates(workloads)
    busy = np.array(busy_over_time(workloads))
    assert busy.shape[0] == 2
    assert 2 <= busy.shape[1] <= MAX_PERIODS
    for window in rates.T:
        assert (busy >= window[:, None] - 1e-6).all(axis=0).any()
    # Opposite peaks are not taken for peaks at once.
    assert not (busy > 2.0).all(axis=0).any()


def test_schedules_keep_their_periods_and_go_with_traces() -> None:
    days = staggered_days(2, peak_to_mean=1.8, spread_frac=1.0)
    scheduled = [
        Workload.of_lengths("100x11", arrivals=day, rate_rps=4.0) for day in days
    ]
    assert busy_over_time(scheduled) == busy_periods(scheduled)
    first, *_ = window_rates([*scheduled, recorded(5.0)])
    # Twenty-four hours in as many parts of the span; noon in the middle.
    assert first.max() == pytest.approx(days[0].peak_to_mean)
    assert int(np.argmax(first)) in range(NUM_WINDOWS // 2 - 6, NUM_WINDOWS // 2 + 6)


def test_a_peak_shorter_than_a_window_is_seen_in_each_lap() -> None:
    # Windows of 5 s; 1.1 s of ten times the rate at the end of every 10.1 s.
    peak = PiecewiseRateArrivals(
        segments=(
            RateSegment(duration_s=9.0, multiplier=1.0),
            RateSegment(duration_s=1.1, multiplier=10.0),
        )
    )
    scheduled = Workload.of_lengths("100x11", arrivals=peak, rate_rps=4.0)
    trace = recorded(5.0, span_ms=600_000.0)
    row, _ = window_rates([scheduled, trace])
    width_s = trace.trace.duration_ms / 1000.0 / NUM_WINDOWS
    num_laps = int(NUM_WINDOWS * width_s / 10.1)
    begins = np.arange(num_laps) * 10.1 + 9.0
    busy = {int(t // width_s) for t in (*begins, *(begins + 1.09))}
    assert set(np.flatnonzero(row > 2.0).tolist()) >= busy
    # Windows longer than a lap see all of it.
    fast = replace(
        peak, segments=tuple(replace(s, duration_s=1.0) for s in peak.segments)
    )
    row, _ = window_rates([replace(scheduled, arrivals=fast), trace])
    assert row == pytest.approx(np.full(NUM_WINDOWS, fast.peak_to_mean))


def test_the_profile_decides_which_rates_count() -> None:
    workloads = [recorded(18.0, 2.0, 2.0, 2.0), recorded(5.0, seed=1)]
    assert busy_over_time(workloads, RateProfile.MEAN) == ((1.0,), (1.0,))
    over_time = busy_over_time(workloads)
    peak = busy_over_time(workloads, RateProfile.PEAK)
    assert peak == tuple((max(row),) for row in over_time)


def two_halves(rates: RateProfile) -> SharedProblem:
    """60 requests/s of each LLM in one half of the time, 2 in the other; least cost."""
    problem = tiny_shared(
        1.0,
        1.0,
        gpus=8,
        slo=Slo(ttft_ms=400.0, tpot_ms=12.0),
        search=replace(SMALL_SPACE, rates=rates),
        objective=SharedObjective(goal=SharedGoal.MIN_COST),
    )
    minutes = 600_000.0
    workloads = (
        recorded(60.0, 2.0, span_ms=minutes),
        recorded(2.0, 60.0, seed=1, span_ms=minutes),
    )
    services = tuple(
        replace(service, workload=workload)
        for service, workload in zip(problem.services, workloads, strict=True)
    )
    return replace(problem, services=services)


def test_units_of_the_mean_break_at_the_peak_and_those_of_the_windows_do_not() -> None:
    mean = two_halves(RateProfile.MEAN)
    few = place_services(mean, TINY_LIBRARY).placed
    broken = serve(mean, book_of(mean), few).services
    assert min(each.worst.attained_frac for each in broken) < 0.6
    plan = plan_services(
        two_halves(RateProfile.OVER_TIME), TINY_LIBRARY, method="exact"
    )
    assert isinstance(plan, SharedPlan)
    assert plan.evaluation.is_met
    assert min(each.worst.attained_frac for each in plan.evaluation.services) >= 0.9
    assert plan.placed.num_gpus > few.num_gpus
    # Peaks at different times need fewer GPUs than if they came at once.
    at_once = place_services(two_halves(RateProfile.PEAK), TINY_LIBRARY)
    assert at_once.placed.num_gpus > plan.placed.num_gpus


def test_least_cost_grows_until_the_simulation_confirms_it() -> None:
    problem = two_halves(RateProfile.MEAN)
    first = place_services(problem, TINY_LIBRARY)
    plan = plan_services(problem, TINY_LIBRARY, method="exact")
    assert isinstance(plan, SharedPlan)
    assert not serve(problem, book_of(problem), first.placed).is_met
    assert plan.evaluation.is_met
    assert plan.placed.num_gpus > first.placed.num_gpus
    # The bound is that of the rates that were asked for, without headroom.
    assert plan.bound == pytest.approx(first.bound)
    assert plan.gap_frac > 0.0
