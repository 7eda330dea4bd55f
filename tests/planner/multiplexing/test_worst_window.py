"""The worst part of a simulation, where there is enough in it to tell."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planner.multiplexing.worst_window import NUM_WINDOWS, worst_window


def result_of(arrival_s: np.ndarray, good: np.ndarray) -> Any:
    return SimpleNamespace(arrival_ms=arrival_s * 1000.0, meets=lambda limits: good)


def test_the_window_with_the_least_part_within_the_limits_is_told() -> None:
    # 40 requests in each of 24 windows of 10 s; in the third every second one misses.
    arrival_s = np.repeat(np.arange(NUM_WINDOWS) * 10.0, 40)
    arrival_s += np.tile(np.arange(40) / 4.0, NUM_WINDOWS)
    good = ~((arrival_s >= 20.0) & (arrival_s < 30.0) & (np.arange(960) % 2 == 0))
    found = worst_window(result_of(arrival_s, good), {}, span_s=240.0)
    assert found is not None
    assert (found.start_s, found.end_s) == (20.0, 30.0)
    assert (found.num_requests, found.attained_frac) == (40, pytest.approx(0.5))
    assert str(found) == "50.0% at 20-30 s"


def test_windows_with_few_requests_say_nothing() -> None:
    arrival_s = np.concatenate((np.linspace(0.0, 9.0, 30), [100.0, 101.0]))
    good = arrival_s < 50.0
    found = worst_window(result_of(arrival_s, good), {}, span_s=240.0)
    assert found is not None
    assert found.attained_frac == 1.0
    few = worst_window(result_of(arrival_s[:5], good[:5]), {}, span_s=240.0)
    assert few is None
