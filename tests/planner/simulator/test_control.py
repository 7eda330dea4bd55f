"""Forecasts and dice: what policies may know."""

import numpy as np
import pytest

from clusters.fields import InputError
from planner.simulator.control import (
    Forecast,
    RouterSettings,
    dice,
    expected_outputs,
)

OUTPUTS = np.array([1, 200, 201, 1000, 40], dtype=np.int64)


def test_a_right_classifier_names_the_lower_end_of_the_bucket():
    """Buckets of 200: 1-200, 201-400, ..., 801-1000."""
    settings = RouterSettings(bucket_accuracy_frac=1.0)
    expected = expected_outputs(OUTPUTS, settings, Forecast.BUCKETS)
    assert expected.tolist() == [0, 0, 200, 800, 0]


def test_a_classifier_is_right_as_often_as_it_says():
    """20,000 draws: the share has a standard deviation of 0.003."""
    outputs = np.random.default_rng(0).integers(1, 1001, size=20_000)
    settings = RouterSettings(bucket_accuracy_frac=0.749)
    expected = expected_outputs(outputs, settings, Forecast.BUCKETS)
    right = expected == (outputs - 1) // 200 * 200
    assert right.mean() == pytest.approx(0.749, abs=0.012)
    wrong = expected[~right]
    assert set(wrong.tolist()) == {0, 200, 400, 600, 800}


def test_the_mean_is_the_same_for_every_request():
    expected = expected_outputs(OUTPUTS, RouterSettings(), Forecast.MEAN)
    assert expected.tolist() == [288] * 5  # 1442 / 5 = 288.4


def test_only_the_oracle_reads_the_true_lengths():
    true = expected_outputs(OUTPUTS, RouterSettings(), Forecast.TRUE)
    none = expected_outputs(OUTPUTS, RouterSettings(), Forecast.NONE)
    assert true.tolist() == OUTPUTS.tolist()
    assert none.tolist() == [0] * 5


def test_dice_follow_the_seed():
    one, two = (dice(100, RouterSettings(seed=seed)) for seed in (1, 2))
    assert (one == dice(100, RouterSettings(seed=1))).all()
    assert (one != two).any()
    assert (one >= 0).all()


def test_an_accuracy_is_a_share():
    with pytest.raises(InputError, match="bucket_accuracy_frac"):
        RouterSettings(bucket_accuracy_frac=74.9)
