"""KV shards between replicas of unlike stages: bytes of each pair, by hand."""

import pytest

from planner.kv_paths import KvPaths
from planner.kv_shards import kv_shards, kv_transfer
from planner.simulator.system import Phase
from tests.planner.tiny_problems import shape
from tests.planner.unlike_problems import (
    two_types,
    unlike_planner,
    unlike_problem,
    unlike_shape,
)

PROBLEM = unlike_problem(two_types(1, 2))  # GPUs 0-1 big, 2-3 and 4-5 small
PLANNER = unlike_planner(PROBLEM)


def pair(source, source_gpus, target, target_gpus):
    deployment = PLANNER.deploy_at([source, target], [source_gpus, target_gpus])
    return deployment.replicas


def test_each_stage_sends_the_layers_that_the_other_side_wants():
    """4 + 2 layers to 3 + 3: of six layers 3 go from the first to the first stage, 1
    to the second, and 2 from the second to the second."""
    source, target = pair(
        unlike_shape(Phase.PREFILL, ("big", 1, 4), ("small", 1, 2)),
        ((0,), (2,)),
        shape(Phase.DECODE, pp=2, gpu_type="small"),
        ((4,), (5,)),
    )
    shards = kv_shards(PROBLEM, source, target)
    assert [(a, b) for a, b, _ in shards] == [(0, 4), (0, 5), (2, 5)]
    assert [share for _, _, share in shards] == pytest.approx([3 / 6, 1 / 6, 2 / 6])


def test_wider_stages_cut_their_layers_into_a_part_a_gpu():
    source, target = pair(
        unlike_shape(Phase.PREFILL, ("big", 2, 4), ("small", 1, 2)),
        ((0, 1), (2,)),
        shape(Phase.DECODE, gpu_type="small"),
        ((4,),),
    )
    shards = kv_shards(PROBLEM, source, target)
    assert [(a, b) for a, b, _ in shards] == [(0, 4), (1, 4), (2, 4)]
    assert [share for _, _, share in shards] == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_the_rate_is_that_of_the_link_with_most_to_carry():
    """Every node has one NIC of 2 GB/s; the big one sends 4 of 6 layers."""
    source, target = pair(
        unlike_shape(Phase.PREFILL, ("big", 1, 4), ("small", 1, 2)),
        ((0,), (2,)),
        shape(Phase.DECODE, pp=2, gpu_type="small"),
        ((4,), (5,)),
    )
    transfer = kv_transfer(PROBLEM, source, target)
    # All of it enters through one NIC: 2 GB/s, which binds before 2 / (4/6).
    assert transfer.bytes_per_s == pytest.approx(2e9)
    loads = dict(zip(transfer.edges, transfer.shares, strict=True))
    topology = PROBLEM.cluster.topology
    assert loads[topology.path(0, 4).edges[0]] == pytest.approx(4 / 6)
    assert loads[topology.path(2, 5).edges[0]] == pytest.approx(2 / 6)
    assert max(loads.values()) == pytest.approx(1.0)


def test_equal_parts_take_the_same_way_as_before():
    source, target = pair(
        unlike_shape(Phase.PREFILL, ("big", 1, 3), ("small", 1, 3)),
        ((0,), (2,)),
        shape(Phase.DECODE, pp=2, gpu_type="small"),
        ((4,), (5,)),
    )
    plain = KvPaths.of(PROBLEM.cluster).transfer((0, 2), (4, 5))
    assert kv_transfer(PROBLEM, source, target) == plain
    shards = KvPaths.of(PROBLEM.cluster).spread(kv_shards(PROBLEM, source, target))
    assert shards.bytes_per_s == pytest.approx(plain.bytes_per_s)
    assert shards.edges == plain.edges
    assert shards.shares == pytest.approx(plain.shares)


def test_routes_of_a_deployment_carry_the_shares():
    shapes = [
        unlike_shape(Phase.PREFILL, ("big", 1, 5), ("small", 1, 1)),
        unlike_shape(Phase.DECODE, ("big", 1, 2), ("small", 1, 4)),
    ]
    deployment = PLANNER.deploy(shapes)
    (route,) = deployment.routes
    transfer = kv_transfer(PROBLEM, *deployment.replicas)
    assert route.edges == transfer.edges
    (simulated,) = PLANNER.system(deployment).routes
    efficiency = PROBLEM.engine.kv_link_efficiency_frac
    expected = 1e3 / (transfer.bytes_per_s * efficiency)
    assert simulated.ms_per_byte == pytest.approx(expected)
