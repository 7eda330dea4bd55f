"""The lognormal length: its published parameters, clipping and mean."""

import math

import numpy as np
import pytest

from clusters.fields import InputError
from planner.workload.lognormal import Lognormal


def test_median_and_p90_are_met() -> None:
    length = Lognormal.from_median_p90(100, 400)
    # Phi(1.2815515655) = 0.9; exp(log_std * 1.28155) = 400/100.
    normals = np.array([0.0, 1.2815515655446004])
    assert length.tokens(normals).tolist() == [100, 400]


def test_median_and_mean_are_met() -> None:
    # mean/median = exp(log_std²/2), so log_std = sqrt(2 ln 2) for a mean of twice it.
    length = Lognormal.from_median_mean(1000, 2000)
    assert length.log_std == pytest.approx(math.sqrt(2 * math.log(2)))


def test_mean_and_cv_are_met() -> None:
    # cv = 1: log_std² = ln 2 and median = mean/sqrt(2).
    length = Lognormal.from_mean_cv(1000, 1.0)
    assert length.log_std == pytest.approx(math.sqrt(math.log(2)))
    assert length.median_tokens == pytest.approx(1000 / math.sqrt(2))


def test_draws_beyond_the_clip_become_its_ends() -> None:
    length = Lognormal(median_tokens=100, log_std=1, min_tokens=50, max_tokens=200)
    assert length.tokens(np.array([-5.0, 0.0, 5.0])).tolist() == [50, 100, 200]


def test_mean_without_effective_clip_is_the_closed_form() -> None:
    # exp(0.5²/2) = exp(0.125)
    length = Lognormal(median_tokens=1000, log_std=0.5)
    assert length.mean_tokens == pytest.approx(1000 * math.exp(0.125), rel=1e-4)


def test_clipped_mean_is_that_of_many_draws() -> None:
    length = Lognormal(median_tokens=500, log_std=1.2, min_tokens=100, max_tokens=2000)
    draws = length.tokens(np.random.default_rng(0).standard_normal(200_000))
    assert length.mean_tokens == pytest.approx(draws.mean(), rel=0.01)


def test_zero_spread_is_a_constant() -> None:
    length = Lognormal(median_tokens=7, log_std=0)
    assert length.mean_tokens == 7
    assert length.tokens(np.array([-3.0, 3.0])).tolist() == [7, 7]


def test_every_pair_of_a_file_gives_the_same_distribution() -> None:
    # median 100, log_std 1: mean = 100·e^0.5, cv = sqrt(e − 1), p90 = 100·e^1.28155
    forms = [
        {"median_tokens": 100, "log_std": 1},
        {"median_tokens": 100, "mean_tokens": 100 * math.exp(0.5)},
        {"median_tokens": 100, "p90_tokens": 100 * math.exp(1.2815515655446004)},
        {"mean_tokens": 100 * math.exp(0.5), "cv": math.sqrt(math.e - 1)},
    ]
    for form in forms:
        read = Lognormal.from_file_form({**form, "max_tokens": 5000})
        assert read.median_tokens == pytest.approx(100)
        assert read.log_std == pytest.approx(1)
        assert read.max_tokens == 5000


@pytest.mark.parametrize(
    "form",
    [
        {"median_tokens": 100},
        {"median_tokens": 100, "cv": 1},
        {"median_tokens": 100, "mean_tokens": 120, "cv": 1},
        {"mean_tokens": 100, "p90_tokens": 300},
    ],
)
def test_other_combinations_are_refused(form: dict[str, float]) -> None:
    with pytest.raises(InputError, match="two of: median_tokens with p90_tokens"):
        Lognormal.from_file_form(form)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"median_tokens": -1, "log_std": 1},
            "median_tokens = -1: expected a number > 0",
        ),
        ({"median_tokens": 1e10, "log_std": 1}, "a number > 0 and <= 1e+08"),
        ({"median_tokens": 9, "log_std": float("nan")}, "log_std = nan"),
        (
            {"median_tokens": 9, "log_std": 1, "min_tokens": 5, "max_tokens": 4},
            "max_tokens = 4: expected a number >= 5",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(
    fields: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        Lognormal(**fields)
    assert message in str(caught.value)


def test_a_mean_below_the_median_is_refused() -> None:
    with pytest.raises(InputError, match="mean_tokens = 50: expected a number >= 100"):
        Lognormal.from_median_mean(100, 50)
    with pytest.raises(InputError, match="p90_tokens = 50: expected a number >= 100"):
        Lognormal.from_median_p90(100, 50)
