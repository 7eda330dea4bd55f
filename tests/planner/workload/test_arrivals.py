"""Arrival processes: the same gaps at every rate, and the right spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.workload.arrivals import (
    ArrivalProcess,
    ClosedLoop,
    FixedGapArrivals,
    GammaArrivals,
    PoissonArrivals,
    TraceArrivals,
)

TINY_GAPS = TraceArrivals(gaps_ms=np.array([1.0, 2.0, 6.0]))
PROCESSES = [PoissonArrivals(), GammaArrivals(cv=3), FixedGapArrivals(), TINY_GAPS]
NAMES = ["poisson", "gamma", "fixed", "trace"]


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
@given(rate=st.floats(0.01, 1000), num=st.integers(1, 60), seed=st.integers(0, 1000))
def test_all_rates_see_the_same_gaps(
    process: ArrivalProcess, rate: float, num: int, seed: int
) -> None:
    unit = process.arrival_ms(num, rate_rps=1.0, rng=np.random.default_rng(seed))
    times = process.arrival_ms(num, rate_rps=rate, rng=np.random.default_rng(seed))
    assert len(times) == num
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()
    np.testing.assert_allclose(times * rate, unit, rtol=1e-12)


def test_fixed_gaps_are_one_over_the_rate() -> None:
    times = FixedGapArrivals().arrival_ms(4, rate_rps=4, rng=np.random.default_rng(0))
    assert times.tolist() == [0, 250, 500, 750]


@pytest.mark.parametrize(
    ("process", "cv"),
    [
        (PoissonArrivals(), 1.0),
        (GammaArrivals(cv=0.5), 0.5),
        (GammaArrivals(cv=2), 2.0),
    ],
)
def test_gaps_have_the_asked_mean_and_spread(
    process: ArrivalProcess, cv: float
) -> None:
    times = process.arrival_ms(100_000, rate_rps=10, rng=np.random.default_rng(0))
    gaps_ms = np.diff(times)
    # Standard error of the mean: 100 ms · cv / sqrt(100000) < 0.7 ms.
    assert gaps_ms.mean() == pytest.approx(100, abs=2.5)
    assert gaps_ms.std() / gaps_ms.mean() == pytest.approx(cv, rel=0.03)


def test_recorded_gaps_are_a_ring_scaled_to_the_rate() -> None:
    times = TINY_GAPS.arrival_ms(7, rate_rps=1, rng=np.random.default_rng(0))
    # Mean gap 3 ms becomes 1000 ms: 1, 2, 6 become 333.3, 666.7, 2000, from any start.
    gaps = np.diff(times) * 3 / 1000
    assert sorted(gaps[:3]) == pytest.approx([1, 2, 6])
    assert gaps[3:] == pytest.approx(gaps[:3])


@pytest.mark.parametrize("cv", [0, -1, float("nan"), float("inf")])
def test_an_impossible_spread_is_refused(cv: float) -> None:
    with pytest.raises(InputError, match=r"cv = .*: expected a number > 0"):
        GammaArrivals(cv=cv)


def test_gaps_that_are_all_zero_are_refused() -> None:
    with pytest.raises(InputError, match="do not all arrive at once"):
        TraceArrivals(gaps_ms=np.zeros(3))


def test_a_closed_loop_needs_someone_in_it() -> None:
    with pytest.raises(InputError, match="concurrency = 0: expected a number >= 1"):
        ClosedLoop(concurrency=0)
