"""Queueing: the formulas of DistServe's section 3.1 and the textbook."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.queueing import (
    inter_op_ttft_ms,
    intra_op_ttft_ms,
    md1_time_ms,
    mg1_wait_quantile_ms,
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


def test_the_wait_quantile_is_exact_for_exponential_services():
    # M/M/1: P(wait > x) = rho * exp(-(1 - rho) * x / s), and the rest of a service in
    # progress is s on average: as if services of 2 s were the longest.
    load, service_ms = 0.8, 50.0
    wait = mg1_wait_quantile_ms(load, longest_ms=2 * service_ms, quantile=0.9)
    assert load * math.exp(-(1 - load) * wait / service_ms) == pytest.approx(0.1)


def test_at_low_load_nine_of_ten_do_not_wait():
    assert mg1_wait_quantile_ms(0.09, longest_ms=50.0, quantile=0.9) == 0.0
    assert mg1_wait_quantile_ms(0.5, longest_ms=50.0, quantile=1.0) == math.inf


@given(loads, st.floats(0.5, 0.99))
def test_waits_grow_with_load_and_with_the_share_of_requests(load, quantile):
    wait = mg1_wait_quantile_ms(load, longest_ms=20.0, quantile=quantile)
    more = mg1_wait_quantile_ms(
        min(0.99, load * 1.1), longest_ms=20.0, quantile=quantile
    )
    assert 0.0 <= wait <= more + 1e-9


def test_a_wait_at_full_load_is_refused():
    with pytest.raises(InputError, match="load"):
        mg1_wait_quantile_ms(1.0, longest_ms=1.0, quantile=0.9)
