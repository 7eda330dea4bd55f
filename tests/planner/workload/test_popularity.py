"""Popularity: power laws over LLMs, and days with peaks together or apart."""

import numpy as np
import pytest

from clusters.fields import InputError
from planner.workload.popularity import (
    CHATLMSYS_DAY,
    MAX_PERIODS,
    busy_periods,
    combined_peak_frac,
    power_law_rates,
    staggered_days,
    staggered_workloads,
)
from planner.workload.rate_schedule import PiecewiseRateArrivals, RateSegment
from planner.workload.workload import Workload


def multipliers(day):
    return np.array([segment.multiplier for segment in day.segments])


def test_rates_fall_with_the_rank_by_the_power() -> None:
    # 50 * 2**-2.1 and 50 * 3**-2.1, as in MuxServe's published workloads.
    rates = power_law_rates(3, alpha=2.1, busiest_rps=50.0)
    assert rates == pytest.approx((50.0, 11.662912394, 4.977546999))


def test_alpha_zero_is_even() -> None:
    assert power_law_rates(4, alpha=0.0, busiest_rps=2.0) == (2.0,) * 4


def test_without_spread_all_peak_at_once() -> None:
    first, *others = staggered_days(3, peak_to_mean=1.5, spread_frac=0.0)
    assert all(day == first for day in others)
    assert combined_peak_frac((1.0, 2.0, 3.0), (first, *others)) == pytest.approx(1.0)


def test_two_days_spread_out_are_opposite() -> None:
    one, other = staggered_days(2, peak_to_mean=1.6, spread_frac=1.0)
    assert np.corrcoef(multipliers(one), multipliers(other))[0, 1] == pytest.approx(-1)
    # Their sum never changes: the peak of both is 2 of peaks that add up to 3.2, less
    # the half-hour that a segment's middle is off the peak.
    top = multipliers(one).max()
    assert combined_peak_frac((1.0, 1.0), (one, other)) == pytest.approx(1.0 / top)


def test_the_busy_one_decides_when_the_other_is_small() -> None:
    days = staggered_days(2, peak_to_mean=1.6, spread_frac=1.0)
    assert combined_peak_frac((100.0, 1.0), days) > 0.98


def test_workloads_keep_their_mean_rate_over_a_day() -> None:
    days = staggered_days(2, peak_to_mean=1.8, spread_frac=1.0, day_s=200.0)
    for workload in staggered_workloads((20.0, 5.0), "161x337", days):
        requests = workload.draw(20_000, seed=1)
        assert requests.rate_rps == pytest.approx(workload.rate_rps, rel=0.05)


def test_arrivals_crowd_where_the_day_has_its_peak() -> None:
    day = staggered_days(2, peak_to_mean=1.8, spread_frac=1.0, day_s=240.0)[1]
    (workload,) = staggered_workloads((50.0,), "161x337", (day,))
    arrival_ms = workload.draw(12_000, seed=0).arrival_ms
    # The second of two has its peak at midnight: the first and last quarter are busy.
    in_day = (arrival_ms % 240_000.0) / 240_000.0
    busy = ((in_day < 0.25) | (in_day > 0.75)).mean()
    # Mean of 1 + 0.8 cos over these quarters: 1 + 0.8 * 2 / pi = 1.509; half of it.
    assert busy == pytest.approx(0.755, abs=0.03)


def test_chatlmsys_has_sixteen_services_of_which_four_have_most_of_the_traffic() -> (
    None
):
    counts = sorted((count for _, count in CHATLMSYS_DAY), reverse=True)
    assert len(counts) == 16
    assert sum(counts[:4]) > 0.6 * sum(counts)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: power_law_rates(0, alpha=1.0, busiest_rps=1.0), "num_llms"),
        (lambda: power_law_rates(2, alpha=-1.0, busiest_rps=1.0), "alpha"),
        (lambda: power_law_rates(2, alpha=1.0, busiest_rps=0.0), "busiest_rps"),
        (lambda: staggered_days(2, peak_to_mean=2.5, spread_frac=0), "peak_to_mean"),
        (lambda: staggered_days(2, peak_to_mean=1.5, spread_frac=2), "spread_frac"),
    ],
)
def test_mistakes_are_named(make, key: str) -> None:
    with pytest.raises(InputError, match=key):
        make()


def workload(*segments: tuple[float, float]) -> Workload:
    day = PiecewiseRateArrivals(
        segments=tuple(RateSegment(duration_s=s, multiplier=m) for s, m in segments)
    )
    return Workload.of_lengths("100x11", arrivals=day, rate_rps=1.0)


EVEN = Workload.poisson(rate_rps=3.0, lengths="100x11")


def test_without_days_there_is_one_period() -> None:
    assert busy_periods([EVEN, EVEN]) == ((1.0,), (1.0,))


def test_periods_in_which_nobody_is_busiest_are_left_out() -> None:
    one = workload((10, 4), (10, 1), (10, 1))
    other = workload((10, 1), (10, 1), (10, 4))
    # 6 parts in 30 s: peaks of twice the mean; the middle is below both ends.
    assert busy_periods([one, other, EVEN]) == ((2.0, 0.5), (0.5, 2.0), (1.0, 1.0))
    assert busy_periods([one, one]) == ((2.0,), (2.0,))


def test_periods_are_cut_where_any_rate_changes() -> None:
    half, third = workload((15, 1), (15, 3)), workload((10, 3), (20, 1.5))
    # Cut at 10, 15 and 30 s; from 10 to 15 s nobody is busier than before.
    assert busy_periods([half, third]) == (
        (pytest.approx(0.5), pytest.approx(1.5)),
        (pytest.approx(1.5), pytest.approx(0.75)),
    )


def test_days_of_different_lengths_count_with_their_peaks() -> None:
    assert busy_periods([workload((10, 3), (10, 1)), workload((5, 1), (5, 1))]) == (
        (1.5,),
        (1.0,),
    )


def test_of_many_periods_none_is_busier_than_what_is_told() -> None:
    days = staggered_days(16, peak_to_mean=1.8, spread_frac=1.0)
    told = busy_periods(staggered_workloads([1.0] * 16, "100x11", days))
    assert {len(each) for each in told} == {MAX_PERIODS}
    for day, each in zip(days, told, strict=True):
        assert max(each) == pytest.approx(day.peak_to_mean)
    for hour in range(24):
        now = np.array([day.rate_at(hour * 3600.0) for day in days])
        assert any(
            (now <= np.array(column) + 1e-9).all() for column in zip(*told, strict=True)
        )


def test_of_rates_that_are_nearly_the_same_one_is_kept() -> None:
    # Of a mean of 1: on both sides of a rounding edge, 2e-10 apart, and one below.
    day = workload((10, 1.0000000004), (10, 1.0000000006), (10, 0.999999999))
    assert busy_periods([day]) == ((pytest.approx(1.0, abs=1e-9),),)
