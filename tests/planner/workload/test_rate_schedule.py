"""Piecewise rates: where requests fall, and that the mean rate is the asked one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.workload.rate_schedule import (
    DailyArrivals,
    PiecewiseRateArrivals,
    RateSegment,
)


def segments(*pairs: tuple[float, float]) -> PiecewiseRateArrivals:
    return PiecewiseRateArrivals(
        segments=tuple(RateSegment(duration_s=s, multiplier=m) for s, m in pairs)
    )


def test_requests_fall_into_segments_by_their_share() -> None:
    # 10 s at 3 parts and 10 s at 1 part: 3/4 of the requests in the first 10 of 20 s.
    process = segments((10, 3), (10, 1))
    times = process.arrival_ms(40_000, rate_rps=100, rng=np.random.default_rng(0))
    in_first = (times % 20_000 < 10_000).mean()
    # Standard deviation of a share: sqrt(3/16/40000) = 0.002.
    assert in_first == pytest.approx(0.75, abs=0.01)


def test_the_mean_rate_is_the_asked_one() -> None:
    process = segments((10, 5), (30, 1))
    times = process.arrival_ms(40_000, rate_rps=100, rng=np.random.default_rng(1))
    assert 40_000 / times[-1] * 1000 == pytest.approx(100, rel=0.02)


@given(
    pairs=st.lists(
        st.tuples(st.floats(0.1, 100), st.floats(0.01, 100)), min_size=1, max_size=5
    ),
    rate=st.floats(0.1, 100),
)
def test_times_rise_from_zero(pairs: list[tuple[float, float]], rate: float) -> None:
    times = segments(*pairs).arrival_ms(
        200, rate_rps=rate, rng=np.random.default_rng(0)
    )
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()


def test_one_segment_is_a_poisson_process() -> None:
    times = segments((60, 7)).arrival_ms(
        20_000, rate_rps=5, rng=np.random.default_rng(2)
    )
    gaps_ms = np.diff(times)
    assert gaps_ms.mean() == pytest.approx(200, rel=0.03)
    assert gaps_ms.std() / gaps_ms.mean() == pytest.approx(1, rel=0.05)


def test_a_day_has_its_peak_at_noon_and_the_asked_ratio() -> None:
    day = PiecewiseRateArrivals.diurnal(peak_to_mean=1.8, num_segments=24)
    multipliers = np.array([segment.multiplier for segment in day.segments])
    # The middle of the two noon hours: 1 + 0.8·cos(pi/24) = 1.793.
    assert multipliers.argmax() in (11, 12)
    assert multipliers.max() == pytest.approx(1.793, abs=0.001)
    assert multipliers.mean() == pytest.approx(1)
    assert sum(segment.duration_s for segment in day.segments) == 24 * 3600


@pytest.mark.parametrize("peak_to_mean", [0.5, 2.0, float("nan")])
def test_a_peak_that_a_cosine_cannot_have_is_refused(peak_to_mean: float) -> None:
    with pytest.raises(InputError, match=r"peak_to_mean = .*>= 1 and < 2"):
        PiecewiseRateArrivals.diurnal(peak_to_mean=peak_to_mean)


def test_a_schedule_without_segments_is_refused() -> None:
    with pytest.raises(InputError, match="at least one segment"):
        segments()


def test_a_day_has_its_peak_at_the_hour() -> None:
    day = DailyArrivals(peak_to_mean=1.8, peak_hour=20).schedule()
    rates = [segment.multiplier for segment in day.segments]
    # The hours around 20:00 are the busiest, those around 8:00 the quietest.
    assert {19, 20} == set(np.argsort(rates)[-2:])
    assert {7, 8} == set(np.argsort(rates)[:2])
    assert day.period_s == 24 * 3600
    assert day.peak_to_mean == pytest.approx(1.8, rel=0.01)


def test_rates_are_known_at_any_time() -> None:
    process = segments((10, 3), (30, 1))
    # 60 parts in 40 s: a mean of 1.5.
    assert [process.rate_at(t) for t in (0, 9.9, 10, 39)] == pytest.approx(
        [2.0, 2.0, 2 / 3, 2 / 3]
    )
    assert process.ends_s == (10.0, 40.0)
    shorter = process.squeezed(4.0)
    assert [s.duration_s for s in shorter.segments] == [1.0, 3.0]
    assert shorter.rate_at(0.5) == pytest.approx(2.0)


def test_a_peak_beyond_what_a_cosine_has_is_refused() -> None:
    with pytest.raises(InputError, match="peak_to_mean"):
        DailyArrivals(peak_to_mean=2.0)
