"""Layer bound: what a GPU adds to replicas of unlike stages, by hand and by search."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.node import Interconnect
from planner.bound import gpu_rates
from planner.capacity import replica_capacity_rps
from planner.layer_bound import layer_rates, stage_kinds
from planner.simulator.system import Phase
from tests.planner.unlike_problems import (
    two_types,
    unlike_planner,
    unlike_problem,
    unlike_shape,
)

SAMPLE = unlike_problem().service.workload.draw(200, seed=0, rate_rps=1.0)


def test_a_gpu_adds_a_sixth_of_the_capacity_of_a_layer():
    """A prompt of 100 tokens in a batch of any size: 0.02 ms a token and layer.

    Over a speed of two; in the largest batch, 8192 tokens, 2 ms are shared by all.
    """
    rates = layer_rates(
        unlike_planner(unlike_problem(two_types(gpus_per_node=1))), SAMPLE
    )
    tokens = float(SAMPLE.input_tokens.mean())
    layer_ms = tokens * (0.02 + 2.0 / 8192) / 2.0
    assert rates["big", Phase.PREFILL] == pytest.approx(1e3 / layer_ms / 6, rel=1e-3)
    small = rates["small", Phase.PREFILL]
    assert small == pytest.approx(rates["big", Phase.PREFILL] / 2)


def test_the_bound_covers_unlike_replicas_only_where_they_are_looked_at():
    planner = unlike_planner(unlike_problem(small_room()))
    without = gpu_rates(planner)
    with_unlike = gpu_rates(planner, has_unlike=True)
    for one, other in zip(without, with_unlike, strict=True):
        assert one.gpu_type == other.gpu_type
        assert one.prefill_rps <= other.prefill_rps
        assert one.decode_rps <= other.decode_rps
        assert one.aggregated_rps <= other.aggregated_rps
    assert without[0].prefill_rps == 0.0
    assert with_unlike[0].prefill_rps > 0.0


def small_room():
    return two_types(gpus_per_node=1, big_bytes=30_000.0, small_bytes=30_000.0)


PLANNER = unlike_planner(unlike_problem(two_types(2, 2)))
RATES = layer_rates(PLANNER, SAMPLE)
LAYERS = [(4, 2), (1, 5), (2, 2, 2), (1, 3, 2), (3, 1, 1, 1), (1, 1, 3, 1)]


@settings(max_examples=20, deadline=None)
@given(
    st.permutations([("big", 1), ("big", 2), ("small", 1), ("small", 2)]),
    st.sampled_from(LAYERS),
    st.sampled_from(Phase),
)
def test_no_replica_has_more_capacity_than_its_gpus_add(kinds, layers, phase):
    """Whatever its stages; the bound is on capacity, which no rate exceeds."""
    stages = [(*kind, num) for kind, num in zip(kinds, layers, strict=False)]
    alone = PLANNER.deploy([unlike_shape(phase, *stages)])
    assert alone is not None
    added = sum(tp * RATES[name, phase] for name, tp, _ in stages)
    (served,) = PLANNER.system(alone).replicas
    assert replica_capacity_rps(served, SAMPLE) <= added * (1 + 1e-9)
    smaller = replace(served, kv_capacity_tokens=512)
    assert replica_capacity_rps(smaller, SAMPLE) <= added * (1 + 1e-9)


def test_gpus_that_can_hold_no_request_add_nothing():
    long = replace(SAMPLE, input_tokens=SAMPLE.input_tokens + 10**7)
    assert set(layer_rates(PLANNER, long).values()) == {0.0}


def test_groups_lie_inside_an_island_where_one_has_room():
    (node, _) = two_types(gpus_per_node=4).nodes
    pairs = {
        "interconnect": Interconnect.NVLINK_PAIRS,
        "nvlink_pairs": ((0, 3), (1, 2)),
    }
    joined = replace(node, type=replace(node.type, **pairs))
    cluster = replace(two_types(), nodes=(joined,))
    kinds = stage_kinds(unlike_planner(unlike_problem(cluster)))
    (ring,) = {kind.ring for kind in kinds if kind.tp == 2}
    assert ring == cluster.topology.ring((0, 3))
    assert ring.bytes_per_s > cluster.topology.ring((0, 1)).bytes_per_s
