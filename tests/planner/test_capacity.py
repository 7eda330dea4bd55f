"""Capacity: bounds by hand, and that no simulation exceeds them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.latency.step_table import StepTable
from planner.capacity import (
    UNLIMITED_RPS,
    replica_capacity_rps,
    slowest_ms,
    system_capacity_rps,
)
from planner.simulator.control import RouterSettings
from planner.simulator.prefix_settings import PrefixCache
from planner.simulator.simulate import simulate
from planner.simulator.system import (
    BatchLimits,
    EdgeShare,
    KvRoute,
    Phase,
    Routing,
    ServingReplica,
    ServingSystem,
)
from planner.simulator.transfer_settings import KvTransfer, LinkSharing, TransferMode
from planner.slo import Slo
from planner.step_costs import decode_cost
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import Requests
from tests.planner.simulator.systems import kv_routes_of, tiny_table


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


def test_a_lent_replica_counts_in_both_phases():
    """Prompts of 10 ms on two machines: 100 requests/s each, 200 when one is lent.

    A decode step takes 1 ms for 32 requests. A burst goes faster than the prompt
    machine alone could, and not faster than the bound.
    """
    steps = tiny_table(per_prompt_token_ms=1.0, decode_ms=1.0)
    pair = tuple(
        replica_of(phase, steps, max_num_seqs=32)
        for phase in (Phase.PREFILL, Phase.DECODE)
    )
    requests = requests_of([10] * 500, [2] * 500)
    rates = {}
    for routing in (Routing.SHORTEST_QUEUE, Routing.SPLITWISE):
        system = ServingSystem(
            replicas=pair,
            routes=kv_routes_of(pair, routing),
            kv_bytes_per_token=0.0,
            routing=routing,
            router=RouterSettings(max_pending_tokens=100),
        )
        served = simulate(system, requests).served_rps()
        rates[routing] = served, system_capacity_rps(system, requests)
    assert rates[Routing.SHORTEST_QUEUE][1] == pytest.approx(100.0)
    assert rates[Routing.SPLITWISE][1] == pytest.approx(200.0)
    assert 150.0 < rates[Routing.SPLITWISE][0] <= 200.0


def test_phases_bound_a_split_system_and_replicas_add_up():
    prefill = replica_of(Phase.AGGREGATED, tiny_table(prefill_ms=10.0), max_num_seqs=1)
    system = ServingSystem(replicas=(prefill, prefill), kv_bytes_per_token=0.0)
    requests = requests_of([8192], [1])
    assert system_capacity_rps(system, requests) == pytest.approx(200.0)


def test_stages_share_a_limit_on_tpot():
    # Steps of 10 + 10 B: two stages within 50 ms leave each 25 ms, at 17.5 ms a token
    # (see test_step_costs); together within 39 ms they fit no step of 20 ms.
    stage = StepTable(
        prefill_tokens=(0.0,),
        prefill_ms=(0.0,),
        decode_batch=(0.0, 3.0),
        decode_ms=(10.0, 40.0),
        decode_per_kv_token_ms=(0.0, 0.0),
    )
    slo = Slo(tpot_ms=50.0, attainment_frac=1)
    cost = decode_cost(stage, requests_of([1], [2]), 3, slo)
    assert slowest_ms([cost, cost], 50.0) == pytest.approx(17.5)
    assert slowest_ms([cost], 50.0) == pytest.approx(40 / 3)
    assert math.isinf(slowest_ms([cost, cost], 39.0))


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


def test_what_a_cache_without_limit_holds_costs_no_prefill():
    # 1 ms a token: 20 for the first prompt, and 20 - 16 for the second.
    plain = replica_of(Phase.PREFILL, tiny_table(per_prompt_token_ms=1.0))
    blocks = PrefixBlocks.of(((1, 2), (1, 2, 3)), block_tokens=8)
    requests = replace(requests_of([20, 20], [1, 1]), prefix_blocks=blocks)
    assert replica_capacity_rps(plain, requests) == pytest.approx(1000 / 20)
    cached = replace(plain, prefix_cache=PrefixCache(capacity_tokens=8))
    assert replica_capacity_rps(cached, requests) == pytest.approx(1000 / 12)


@settings(max_examples=25, deadline=None)
@given(
    mode=st.sampled_from(TransferMode),
    sharing=st.sampled_from(LinkSharing),
    ms_per_byte=st.sampled_from([0.0, 0.01, 1.0]),
    seqs=st.integers(1, 16),
    seed=st.integers(0, 1000),
)
def test_no_split_burst_is_either_however_kv_caches_are_sent(
    mode, sharing, ms_per_byte, seqs, seed
):
    table = tiny_table(prefill_ms=4.0, per_prompt_token_ms=0.1, decode_ms=3.0)
    rng = np.random.default_rng(seed)
    requests = requests_of(rng.integers(1, 90, 60), rng.integers(1, 30, 60))
    edges = (EdgeShare(edge="nic", ms_per_byte=ms_per_byte),)
    system = ServingSystem(
        replicas=tuple(
            replica_of(phase, table, kv_tokens=3000, max_num_seqs=seqs)
            for phase in (Phase.PREFILL, Phase.DECODE)
        ),
        routes=(
            KvRoute(
                source=0, target=1, latency_ms=0.0, ms_per_byte=ms_per_byte, edges=edges
            ),
        ),
        kv_bytes_per_token=1.0,
        kv_transfer=KvTransfer(mode=mode, layer_wise_ms=0.0, sharing=sharing),
        num_layers=8,
    )
    served = simulate(system, requests).served_rps()
    assert served <= system_capacity_rps(system, requests) * (1 + 1e-9)


def test_a_replica_that_can_hold_no_request_serves_none():
    tiny = replica_of(Phase.DECODE, tiny_table(decode_ms=10.0), kv_tokens=8)
    roomy = replace(tiny, kv_capacity_tokens=64, limits=BatchLimits(max_num_seqs=1))
    requests = requests_of([10], [2])
    slo = Slo(tpot_ms=50)
    assert replica_capacity_rps(tiny, requests) == 0.0
    assert replica_capacity_rps(tiny, requests, slo) == 0.0
    both = ServingSystem(replicas=(tiny, roomy), routes=(), kv_bytes_per_token=1.0)
    assert system_capacity_rps(both, requests, slo) == pytest.approx(100.0)
    # Alone it refuses whatever comes.
    alone = replace(both, replicas=(tiny,))
    assert system_capacity_rps(alone, requests) == UNLIMITED_RPS
    assert system_capacity_rps(alone, requests, slo) == 0.0
