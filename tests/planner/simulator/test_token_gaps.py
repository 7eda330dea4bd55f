"""Percentiles of the gaps between tokens."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.simulator.build import SimulationOptions
from planner.simulator.simulate import simulate
from planner.simulator.state import GAP_LEAST_MS, NUM_GAP_BINS
from planner.simulator.system import Phase
from planner.simulator.token_gaps import GapHistogram
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

WITH_ITL = SimulationOptions(is_itl_counted=True)


def histogram(gaps_ms: list[float]) -> GapHistogram:
    """What the kernel would count, by looking up the bounds."""
    counts = np.zeros(NUM_GAP_BINS, dtype=np.int64)
    bounds = GapHistogram(counts=counts).edges_ms()
    np.add.at(counts, np.searchsorted(bounds, gaps_ms, side="right") - 1, 1)
    return GapHistogram(counts=counts)


def test_a_prompt_in_between_is_one_long_gap():
    """Steps of 1 ms; r1's prompt of 8 ms holds r0 up once.

    r0 has tokens at 2, 3 (r1 came at 2.5), 12, 13 and 14; r1 at 11, 12. Gaps: 1, 9, 1,
    1 and 1. All but one of five are 1 ms: the 80th percentile, and the 81st is 9.
    """
    both = tiny_replica(
        Phase.AGGREGATED, tiny_table(per_prompt_token_ms=1.0, decode_ms=1.0)
    )
    requests = tiny_requests((0.0, 2, 5), (2.5, 8, 2))
    gaps = simulate(tiny_system(both), requests, options=WITH_ITL).token_gaps
    assert gaps is not None
    assert gaps.num_gaps == 5
    assert gaps.percentile_ms(0) == pytest.approx(1.0, rel=0.005)
    assert gaps.percentile_ms(80) == pytest.approx(1.0, rel=0.005)
    assert gaps.percentile_ms(81) == pytest.approx(9.0, rel=0.005)
    assert gaps.percentile_ms(100) == pytest.approx(9.0, rel=0.005)


def test_gaps_are_counted_only_when_asked_for():
    both = tiny_replica(Phase.AGGREGATED, tiny_table())
    assert simulate(tiny_system(both), tiny_requests((0.0, 1, 2))).token_gaps is None


def test_no_gaps_have_no_percentile():
    both = tiny_replica(Phase.AGGREGATED, tiny_table())
    requests = tiny_requests((0.0, 1, 1))
    gaps = simulate(tiny_system(both), requests, options=WITH_ITL).token_gaps
    assert gaps is not None
    assert gaps.num_gaps == 0
    assert math.isnan(gaps.percentile_ms(50))


def test_a_percentile_is_between_0_and_100():
    with pytest.raises(InputError, match="percent = 101"):
        histogram([1.0]).percentile_ms(101)


@given(
    st.lists(st.floats(GAP_LEAST_MS, 1e6), min_size=1, max_size=50),
    st.floats(0.0, 100.0),
)
@settings(max_examples=200, deadline=None)
def test_percentiles_are_those_of_the_gaps_to_half_a_percent(gaps_ms, percent):
    """The smallest gap that has as large a share of the gaps at or below it."""
    exact = np.percentile(gaps_ms, percent, method="inverted_cdf")
    found = histogram(gaps_ms).percentile_ms(percent)
    assert found == pytest.approx(exact, rel=0.0051)
