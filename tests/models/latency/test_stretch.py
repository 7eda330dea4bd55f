"""Stretch factors: the least with which steps fit the GPU."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.latency.stretch import stretch_factors, stretched

steps = st.lists(
    st.tuples(st.floats(0.1, 100.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    min_size=1,
    max_size=8,
)


@given(steps)
@settings(max_examples=400, deadline=None)
def test_factors_are_the_least_with_which_the_steps_fit(found) -> None:
    base = [b for b, _, _ in found]
    memory = [b * part for b, part, _ in found]
    arithmetic = [b * part for b, _, part in found]
    f, g = stretch_factors(base, memory, arithmetic, len(found))
    times = stretched(stretched(base, memory, f), arithmetic, g)
    asked_memory = sum(m / t for m, t in zip(memory, times, strict=True))
    asked_arithmetic = sum(a / t for a, t in zip(arithmetic, times, strict=True))
    assert f >= 1.0
    assert g >= 1.0
    assert asked_memory <= 1.0 + 1e-6
    assert asked_arithmetic <= 1.0 + 1e-6
    # Where something is stretched, it is full: less would not do.
    assert f == 1.0 or asked_memory == pytest.approx(1.0, abs=1e-6)
    assert g == 1.0 or asked_arithmetic == pytest.approx(1.0, abs=1e-6)


def test_one_step_is_not_stretched() -> None:
    assert stretch_factors([2.0], [2.0], [1.0], 1) == (1.0, 1.0)


def test_two_steps_of_memory_take_turns() -> None:
    f, g = stretch_factors([1.0, 1.0], [1.0, 1.0], [0.1, 0.1], 2)
    assert (f, g) == (pytest.approx(2.0), 1.0)
