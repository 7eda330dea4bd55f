"""Length distributions: ranges, joint draws, and draws that begin alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.workload.lengths import (
    EmpiricalLengths,
    FixedLengths,
    LengthDistribution,
    LognormalLengths,
)
from planner.workload.lognormal import Lognormal

TINY_POOL = EmpiricalLengths(
    input_tokens=np.array([10, 20, 30]), output_tokens=np.array([1, 2, 3])
)
WIDE = LognormalLengths(
    input=Lognormal(median_tokens=500, log_std=1, max_tokens=4000),
    output=Lognormal(median_tokens=100, log_std=1, min_tokens=2),
    correlation=0.5,
)


@pytest.mark.parametrize(
    "lengths",
    [FixedLengths(input_tokens=512, output_tokens=64), WIDE, TINY_POOL],
    ids=["fixed", "lognormal", "empirical"],
)
@given(num=st.integers(1, 50), more=st.integers(1, 50), seed=st.integers(0, 99))
def test_a_longer_draw_begins_with_the_shorter_one(
    lengths: LengthDistribution, num: int, more: int, seed: int
) -> None:
    short = lengths.draw(num, np.random.default_rng(seed))
    long = lengths.draw(num + more, np.random.default_rng(seed))
    for few, many in zip(short, long, strict=True):
        assert few.dtype == np.int64
        assert few.min() >= 1
        assert many[:num].tolist() == few.tolist()


def test_correlation_is_that_of_the_logarithms() -> None:
    lengths = LognormalLengths(
        input=Lognormal(median_tokens=1e5, log_std=1),
        output=Lognormal(median_tokens=1e5, log_std=1),
        correlation=0.8,
    )
    drawn = np.log(lengths.draw(20_000, np.random.default_rng(0)))
    # Standard error of r is (1 − 0.64)/sqrt(20000) = 0.0025.
    assert np.corrcoef(drawn)[0, 1] == pytest.approx(0.8, abs=0.01)


def test_a_pool_is_dealt_before_it_is_dealt_again() -> None:
    inputs, outputs = TINY_POOL.draw(6, np.random.default_rng(1))
    assert sorted(inputs[:3].tolist()) == [10, 20, 30]
    assert sorted(inputs[3:].tolist()) == [10, 20, 30]
    # What belongs together stays together: the output is a tenth of the input.
    assert (outputs * 10).tolist() == inputs.tolist()


def test_a_pool_drawn_with_replacement_repeats() -> None:
    pool = EmpiricalLengths(
        input_tokens=TINY_POOL.input_tokens,
        output_tokens=TINY_POOL.output_tokens,
        with_replacement=True,
    )
    counts = np.bincount(pool.draw(3000, np.random.default_rng(0))[0])
    # Each of three is expected 1000 times, standard deviation 26; never exactly so.
    assert counts[[10, 20, 30]].tolist() != [1000, 1000, 1000]
    assert counts[[10, 20, 30]] == pytest.approx([1000] * 3, abs=130)


def test_means_are_those_of_the_distribution() -> None:
    assert TINY_POOL.mean_input_tokens == 20
    assert TINY_POOL.mean_output_tokens == 2
    assert FixedLengths(input_tokens=512, output_tokens=64).mean_input_tokens == 512


def test_ten_gigabytes_of_prompt_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        FixedLengths(input_tokens=10_000_000_000, output_tokens=1)
    expected = "input_tokens = 10000000000: expected a number >= 1 and <= 1e+08"
    assert str(caught.value) == expected


def test_a_pool_with_a_length_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="output_tokens = 0: expected numbers from 1"):
        EmpiricalLengths(input_tokens=np.array([4]), output_tokens=np.array([0]))
