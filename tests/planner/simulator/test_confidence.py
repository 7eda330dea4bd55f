"""Confidence intervals by batch means."""

import math

import numpy as np
import pytest

from clusters.fields import InputError
from planner.simulator.confidence import BatchMeans, estimate

ALL = BatchMeans(warmup_frac=0.0)


def test_two_batches_by_hand():
    """1, 3 | 5, 7: means 2 and 6, their standard deviation 4 / sqrt(2).

    Student's t of one degree at 95 % is tan(0.475 pi) = 12.706: 12.706 * 4 / 2.
    """
    figure = estimate(
        np.array([1.0, 3.0, 5.0, 7.0]),
        batches=BatchMeans(num_batches=2, warmup_frac=0.0),
    )
    assert figure.value == 4.0
    assert figure.half_width == pytest.approx(2.0 * math.tan(0.475 * math.pi))


def test_the_warm_up_and_requests_without_the_figure_do_not_count():
    values = np.array([1e9, math.nan, *[5.0] * 18])
    figure = estimate(values, batches=BatchMeans(num_batches=3))
    assert (figure.value, figure.half_width) == (5.0, 0.0)


def test_too_few_requests_have_a_value_and_no_interval():
    assert estimate(np.array([2.0, 4.0]), batches=ALL).half_width is None
    assert estimate(np.array([2.0, 4.0]), batches=ALL).value == 3.0
    assert math.isnan(estimate(np.array([math.nan])).value)


def test_percentiles_are_checked():
    with pytest.raises(InputError, match="percent = 200"):
        estimate(np.ones(4), percent=200.0)


@pytest.mark.parametrize(
    ("percent", "truth"), [(None, 0.0), (90.0, 1.2815515655446004)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(percent, truth):
    """Dependent values: x' = 0.8 x + noise, of variance 1 and mean 0.

    1000 intervals at 95 %: between 92.5 and 97 % of them hold the truth (three standard
    errors of 0.7 % and some bias of batches that are not quite independent).
    """
    rng = np.random.default_rng(7)
    runs, length = 1000, 4000
    values = np.empty((length, runs))
    values[0] = rng.standard_normal(runs)
    noise = rng.standard_normal((length, runs)) * math.sqrt(1.0 - 0.8**2)
    for step in range(1, length):
        values[step] = 0.8 * values[step - 1] + noise[step]
    hits = 0
    for run in values.T:
        figure = estimate(np.ascontiguousarray(run), percent=percent, batches=ALL)
        assert figure.half_width is not None
        hits += abs(figure.value - truth) <= figure.half_width
    assert 0.925 <= hits / runs <= 0.97


def test_single_requests_would_promise_too_much():
    """The same series: the interval of independent values is less than half as wide.

    The variance of the mean is (1 + 0.8) / (1 - 0.8) = 9 times that of independent
    values, so a third as wide.
    """
    rng = np.random.default_rng(3)
    values = [0.0]
    for noise in rng.standard_normal(20_000):
        values.append(0.8 * values[-1] + 0.6 * noise)
    figure = estimate(np.array(values), batches=ALL)
    naive = 1.96 * np.std(values) / math.sqrt(len(values))
    assert figure.half_width is not None
    assert naive < 0.5 * figure.half_width
