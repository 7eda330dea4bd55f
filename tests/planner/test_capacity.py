"""Capacity: bounds by hand, and that no simulation exceeds them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.latency.step_table import StepTable
from planner.capacity import (
    UNLIMITED_RPS,
    decode_cost_ms,
    hull_at,
    prefill_cost_ms,
    replica_capacity_rps,
    system_capacity_rps,
)
from planner.simulator.simulate import simulate
from planner.simulator.system import BatchLimits, Phase, ServingReplica, ServingSystem
from planner.slo import Slo
from planner.workload.requests import Requests
from tests.planner.simulator.systems import tiny_table


def requests_of(inputs, outputs):
    return Requests(
        arrival_ms=np.zeros(len(inputs)),
        input_tokens=np.array(inputs),
        output_tokens=np.array(outputs),
    )


def replica_of(phase, table, *, kv_tokens=10**6, block=1, **limits):
    return ServingReplica(
        phase=phase,
        stages=(table,),
        limits=BatchLimits(**limits),
        kv_capacity_tokens=kv_tokens,
        kv_block_tokens=block,
    )


def test_prefill_costs_least_in_the_largest_batch():
    # 10 + 0.1 * x is cheapest a token at 500 tokens: 60 / 500 = 0.12 ms.
    stage = tiny_table(prefill_ms=10.0, per_prompt_token_ms=0.1)
    cost = prefill_cost_ms(stage, requests_of([100, 300], [1, 1]), 500)
    assert cost == pytest.approx(0.12 * 200)


def test_a_prompt_longer_than_the_batch_runs_alone():
    stage = tiny_table(prefill_ms=10.0, per_prompt_token_ms=0.1)
    cost = prefill_cost_ms(stage, requests_of([1000], [1]), 500)
    assert cost == pytest.approx(110.0)


def test_decode_costs_least_in_the_largest_batch():
    # Three steps each; 8 ms for up to four: 2 ms a token. Attended 11 + 12 + 13 tokens.
    stage = tiny_table(decode_ms=8.0, per_kv_token_ms=0.5)
    cost = decode_cost_ms(stage, requests_of([10], [4]), 4)
    assert cost == pytest.approx(3 * 2.0 + 36 * 0.5)


def test_one_token_answers_need_no_decoding():
    replica = replica_of(Phase.DECODE, tiny_table(decode_ms=8.0))
    slo = Slo(tpot_ms=1)
    assert replica_capacity_rps(replica, requests_of([10], [1]), slo) == UNLIMITED_RPS


def test_a_request_that_never_fits_costs_nothing():
    # One of two is refused, the other takes one step of 10 ms: 5 ms a request.
    replica = replica_of(
        Phase.DECODE, tiny_table(decode_ms=10.0), kv_tokens=64, max_num_seqs=1
    )
    requests = requests_of([10, 100], [2, 2])
    assert replica_capacity_rps(replica, requests) == pytest.approx(200.0)


def test_phases_bound_a_split_system_and_replicas_add_up():
    prefill = replica_of(Phase.AGGREGATED, tiny_table(prefill_ms=10.0), max_num_seqs=1)
    system = ServingSystem(replicas=(prefill, prefill), kv_bytes_per_token=0.0)
    requests = requests_of([8192], [1])
    assert system_capacity_rps(system, requests) == pytest.approx(200.0)


def test_a_tpot_limit_forbids_large_batches():
    # t(B) = 10 B: within 20 ms no more than two share a step, at 10 ms each.
    points = np.arange(1, 5)
    assert hull_at(10.0 * points, 40.0 / points, 20.0) == pytest.approx(20.0)


def test_hull_is_convex_decreasing_and_infinite_on_the_left():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([8.0, 7.0, 2.0, 5.0])
    assert math.isinf(hull_at(x, y, 0.5))
    assert hull_at(x, y, 1.0) == 8.0
    assert hull_at(x, y, 2.0) == pytest.approx(5.0)  # below the point (2, 7)
    assert hull_at(x, y, 9.0) == 2.0


def test_the_requests_that_may_miss_are_taken_to_be_the_longest():
    stage = StepTable(
        prefill_tokens=(0.0,),
        prefill_ms=(0.0,),
        decode_batch=(0.0, 100.0),
        decode_ms=(10.0, 60.0),
        decode_per_kv_token_ms=(0.0, 0.0),
    )
    # Nine requests of one step and one of 91. Within 10.5 ms a step holds one request,
    # otherwise 256 share 10 + 128 ms. One request of ten may miss: the longest.
    requests = requests_of([1] * 10, [2] * 9 + [92])
    cost = decode_cost_ms(stage, requests, 256, Slo(tpot_ms=10.5))
    assert cost == pytest.approx(10 * (0.09 * 10.5 + 0.91 * 138 / 256))
    strict = decode_cost_ms(stage, requests, 256, Slo(tpot_ms=10.5, attainment_frac=1))
    assert strict == pytest.approx(10 * 10.5)
    assert math.isinf(decode_cost_ms(stage, requests, 256, Slo(tpot_ms=10)))


@settings(max_examples=25, deadline=None)
@given(
    fixed=st.floats(0.5, 20.0),
    slope=st.floats(0.0, 0.2),
    decode=st.floats(0.5, 20.0),
    seqs=st.integers(1, 16),
    kv_tokens=st.integers(200, 3000),
    seed=st.integers(0, 1000),
)
def test_no_burst_is_served_faster_than_the_bound(
    fixed, slope, decode, seqs, kv_tokens, seed
):
    table = tiny_table(
        prefill_ms=fixed,
        per_prompt_token_ms=slope,
        decode_ms=decode,
        per_kv_token_ms=0.01,
    )
    rng = np.random.default_rng(seed)
    requests = requests_of(rng.integers(1, 90, 60), rng.integers(1, 30, 60))
    replica = replica_of(
        Phase.AGGREGATED,
        table,
        kv_tokens=kv_tokens,
        max_num_seqs=seqs,
        max_batch_tokens=200,
    )
    system = ServingSystem(replicas=(replica,), kv_bytes_per_token=0.0)
    served = simulate(system, requests).served_rps()
    assert served <= system_capacity_rps(system, requests) * (1 + 1e-9)
