"""Queueing: the formulas of DistServe's section 3.1 and the textbook."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.queueing import (
    inter_op_ttft_ms,
    intra_op_ttft_ms,
    md1_time_ms,
    mm1_time_ms,
)

loads = st.floats(0.0, 0.95)
services_ms = st.floats(0.1, 1000.0)


def test_mm1_doubles_the_service_time_at_half_load():
    assert mm1_time_ms(0.05, 10.0) == pytest.approx(20.0)


def test_md1_waits_half_as_long_as_mm1():
    assert md1_time_ms(0.05, 10.0) == pytest.approx(15.0)


@given(loads, services_ms)
def test_two_stages_follow_the_published_formula(load, service_ms):
    rate = load / service_ms
    expected = service_ms + rate * service_ms**2 / (4 * (2 - rate * service_ms))
    assert inter_op_ttft_ms(rate, service_ms) == pytest.approx(expected)


@given(loads, services_ms, st.floats(1.05, 1.95))
def test_two_way_tensors_follow_the_published_formula(load, service_ms, speedup):
    rate = load / service_ms
    waited = rate * service_ms**2 / (2 * speedup * (speedup - rate * service_ms))
    expected = service_ms / speedup + waited
    assert intra_op_ttft_ms(rate, service_ms, speedup) == pytest.approx(expected)


def test_tensors_win_at_low_load_and_stages_near_saturation():
    # D = 100 ms, K = 1.6: tensors saturate at 16 requests/s, stages at 20.
    assert intra_op_ttft_ms(0.001, 100.0, 1.6) < inter_op_ttft_ms(0.001, 100.0)
    assert intra_op_ttft_ms(0.0155, 100.0, 1.6) > inter_op_ttft_ms(0.0155, 100.0)


@pytest.mark.parametrize("rate_per_ms", [0.1, 0.2, -0.1])
def test_an_unstable_queue_has_no_mean(rate_per_ms):
    with pytest.raises(InputError, match="a stable queue"):
        md1_time_ms(rate_per_ms, 10.0)
