"""Medians are known as well as they claim, and what does not settle is marked."""

from collections.abc import Iterator

import numpy as np
import pytest

from profiler.timing import (
    CpuClock,
    SyntheticClock,
    TimingSettings,
    measure,
    spread_of,
)


def test_median_of_a_steady_step_is_its_time() -> None:
    clock = SyntheticClock(rng=np.random.default_rng(0))
    found = measure(lambda: 5.0, clock)
    assert found.is_stable
    assert found.spread.ms == 5.0
    assert found.spread.ci_frac == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_median_through_noise_and_outliers_is_within_its_interval(seed: int) -> None:
    clock = SyntheticClock(
        rng=np.random.default_rng(seed), noise_frac=0.03, outlier_frac=0.01
    )
    found = measure(lambda: 5.0, clock)
    assert found.is_stable
    assert found.spread.ci_frac <= 0.02
    # 95 % of the intervals hold the truth; twice the width holds it practically always.
    assert abs(found.spread.ms / 5.0 - 1.0) <= 2 * 0.02


def test_noisier_steps_take_more_samples() -> None:
    counts = [
        measure(
            lambda: 5.0,
            SyntheticClock(rng=np.random.default_rng(1), noise_frac=noise),
        ).spread.num_samples
        for noise in (0.0, 0.05)
    ]
    assert counts[0] == TimingSettings().min_samples < counts[1]


def test_step_that_never_settles_is_marked_after_its_tries() -> None:
    # Half of the samples take 1 ms and half 3: no median settles.
    times: Iterator[float] = iter(np.resize([1.0, 3.0, 3.0, 1.0], 100_000))
    clock = SyntheticClock(rng=np.random.default_rng(0))
    settings = TimingSettings(max_samples=40)
    found = measure(lambda: next(times), clock, settings)
    assert not found.is_stable
    assert found.spread.num_samples == 40


def test_slow_step_is_given_up_at_its_time_limit() -> None:
    clock = SyntheticClock(rng=np.random.default_rng(0), noise_frac=0.5)
    settings = TimingSettings(max_s=1.0, num_tries=1, max_samples=10_000)
    measure(lambda: 20.0, clock, settings)
    # 13 warm-up and first samples, and doublings until 1 s = 50 runs is over.
    assert clock.elapsed_s < 3.0


def test_interval_of_the_median_is_by_ranks() -> None:
    # Of 1..100 the ranks are 50 -+ 9.8: the 41st and the 61st value, half of 20 / 50.5.
    spread = spread_of(np.arange(1.0, 101.0))
    assert spread.ms == 50.5
    assert spread.ci_frac == pytest.approx(10.0 / 50.5)


def test_processor_clock_measures_real_time() -> None:
    times = CpuClock().times_ms(lambda: sum(range(20_000)), 5)
    assert (times > 0.01).all()
