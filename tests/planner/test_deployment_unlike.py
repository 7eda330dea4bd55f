"""Replicas of unlike stages: memory, cost, energy, checks and files, by hand."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from planner.cells import deal
from planner.check import check_deployment
from planner.cost import usd_per_hour
from planner.deployment import Deployment, Replica
from planner.energy import IDLE_FRAC, replica_power_w
from planner.evaluate import Evaluator
from planner.placement import FreeGpus
from planner.simulator.simulate import simulate
from planner.simulator.system import BatchLimits, Phase
from tests.planner.tiny_problems import shape
from tests.planner.unlike_problems import (
    SIX,
    two_types,
    unlike_planner,
    unlike_problem,
    unlike_shape,
)

PROBLEM = unlike_problem()
PLANNER = unlike_planner(PROBLEM)
MIXED = unlike_shape(Phase.AGGREGATED, ("big", 2, 4), ("small", 1, 2))
ALONE = PLANNER.deploy([MIXED])


def test_stages_lie_on_gpus_of_their_types():
    (replica,) = ALONE.replicas
    assert replica.stage_gpus == ((0, 1), (2,))
    assert replica.shape == MIXED
    assert ALONE.num_gpus == 3
    check_deployment(PROBLEM, ALONE)


def test_stages_are_told_one_by_one_and_equal_ones_together():
    assert ALONE.describe() == (
        "1 x aggregated (TP2 big 4 layers + TP1 small 2 layers) prefill_first"
    )
    pairs = unlike_shape(Phase.DECODE, ("big", 1, 2), ("big", 1, 2), ("small", 1, 2))
    assert str(pairs) == "decode (2 x TP1 big 2 layers + TP1 small 2 layers)"


def test_only_used_gpus_are_paid_for():
    # Two at 4 $/h and one at 1 $/h.
    assert usd_per_hour(PROBLEM.cluster, ALONE) == pytest.approx(9.0)


def test_kv_room_is_that_of_the_smallest_stage():
    """The small GPU: 2 layers of 1152 bytes and a head of 80 weights of 2 bytes.

    Activations: 64 tokens of 2 * (8 + 8 + 48) bytes (widest: gate and up, 32, with the
    16 that go on), and 256 rows of 10 logits of 4 bytes. A token keeps 16 bytes a
    layer.
    """
    cluster = two_types(big_bytes=40_000.0, small_bytes=30_000.0)
    (replica,) = unlike_planner(unlike_problem(cluster)).deploy([MIXED]).replicas
    used = 2 * 1152 + 160 + 64 * 2 * (8 + 8 + 48) + 256 * 10 * 4
    blocks = int((0.9 * 30_000 - used) // (16 * 2 * 16))
    assert replica.kv_capacity_tokens == 16 * blocks == 176
    # With a smaller big one that is the fullest: half of 4 layers on each GPU of two.
    cluster = two_types(big_bytes=9_600.0, small_bytes=30_000.0)
    (replica,) = unlike_planner(unlike_problem(cluster)).deploy([MIXED]).replicas
    used = 4 * 1152 / 2 + 160 / 2 + 64 * 2 * (8 + 8 + 24)
    blocks = int((0.9 * 9_600 - used) // (8 * 4 * 16))
    assert replica.kv_capacity_tokens == 16 * blocks == 32


def test_a_stage_serves_at_its_own_speed():
    """Four layers on two GPUs of speed 2, and two layers on one of speed 1."""
    (served,) = PLANNER.system(ALONE).replicas
    first, second = served.stages
    hop_free = 2.0 + 0.1  # ms of a layer with one request
    assert first.decode_step_ms(1, 0) == pytest.approx(4 * hop_free / 4)
    # The second gathers nothing: it is one GPU.
    assert second.decode_step_ms(1, 0) == pytest.approx(2 * hop_free)


def test_equal_stages_are_the_uniform_replica_in_every_respect():
    spelled = unlike_shape(Phase.AGGREGATED, ("big", 1, 3), ("big", 1, 3))
    uniform = shape(Phase.AGGREGATED, pp=2, gpu_type="big")
    requests = PROBLEM.service.workload.draw(50, seed=0, rate_rps=20.0)
    results, powers = [], []
    for each in (spelled, uniform):
        deployment = PLANNER.deploy([each])
        check_deployment(PROBLEM, deployment)
        (replica,) = deployment.replicas
        result = simulate(PLANNER.system(deployment), requests)
        (load,) = result.replicas
        powers.append(replica_power_w(replica, load, PROBLEM.cluster.topology))
        results.append(
            (
                replica.stage_gpus,
                replica.kv_capacity_tokens,
                PLANNER.system(deployment),
                usd_per_hour(PROBLEM.cluster, deployment),
                result.finish_ms.tolist(),
                result.first_token_ms.tolist(),
                load,
            )
        )
    assert results[0] == results[1]
    assert powers[0] == pytest.approx(powers[1])


def test_every_stage_draws_power_for_what_it_does():
    requests = PROBLEM.service.workload.draw(50, seed=0, rate_rps=20.0)
    result = simulate(PLANNER.system(ALONE), requests)
    (load,), (replica,) = result.replicas, ALONE.replicas
    busy = [s.prefill_busy_frac + s.decode_busy_frac for s in load.stages]
    # The second stage has half the layers on a quarter of the speed.
    assert busy[1] > 1.5 * busy[0]
    assert load.prefill_busy_frac + load.decode_busy_frac == pytest.approx(
        sum(busy) / 2
    )
    power_w = replica_power_w(replica, load, PROBLEM.cluster.topology)
    limit_w = 2 * 200.0 + 100.0
    assert IDLE_FRAC * limit_w < power_w < limit_w
    # All as busy as the second would draw more.
    same = replace(load, stages=(load.stages[1], load.stages[1]))
    assert power_w < replica_power_w(replica, same, PROBLEM.cluster.topology)


def test_a_mixed_deployment_is_evaluated_like_any():
    requests = PROBLEM.service.workload.draw(80, seed=0, rate_rps=10.0)
    found = Evaluator(planner=PLANNER).evaluate(ALONE, requests)
    assert found.attainment.joint_frac == 1.0
    assert found.usd_per_hour == pytest.approx(9.0)


def test_files_carry_stages_and_stay_as_they_were_without():
    written = to_mapping(ALONE)
    (replica,) = written["replicas"]
    assert replica["stage_gpu_types"] == ["big", "small"]
    assert replica["parallelism"]["stage_tp"] == [2, 1]
    assert replica["parallelism"]["stage_layers"] == [4, 2]
    assert from_mapping(Deployment, written) == ALONE
    (uniform,) = to_mapping(
        PLANNER.deploy([shape(Phase.AGGREGATED, pp=2, gpu_type="big")])
    )["replicas"]
    assert "stage_gpu_types" not in uniform
    assert "stage_tp" not in uniform["parallelism"]
    assert from_mapping(Replica, uniform).shape.has_unlike_stages is False


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"stage_gpu_types": ["big"]}, "stage_gpu_types"),
        ({"stage_gpu_types": ["small", "small"]}, "stage_gpu_types"),
        ({"stage_gpu_types": ["big", 3]}, "stage_gpu_types[1]"),
    ],
)
def test_stages_that_do_not_go_together_are_refused(change, key):
    written = to_mapping(ALONE.replicas[0]) | change
    with pytest.raises(InputError) as error:
        from_mapping(Replica, written)
    assert error.value.key == key
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stage_gpu_types": ("big", "big")},
            r"replicas\[0\]\.stage_gpu_types\[1\] = 'big': expected the type of its",
        ),
        ({"stage_gpus": ((0,), (2,))}, r"replicas\[0\]\.stage_gpus\[0\].*2 GPUs"),
        ({"kv_capacity_tokens": 10**9}, r"replicas\[0\]\.kv_capacity_tokens.*at most"),
    ],
)
def test_a_mixed_replica_is_checked(change, message):
    broken = replace(ALONE.replicas[0], **change)
    with pytest.raises(InputError, match=message):
        check_deployment(PROBLEM, replace(ALONE, replicas=(broken,)))


def test_as_many_fit_as_the_scarcer_type_allows():
    free = FreeGpus.of(two_types(2, 1))  # 4 big GPUs, 2 small ones
    assert free.most_replicas(MIXED) == 2
    taken = free.take_replica(MIXED)
    assert taken == ((0, 1), (4,))
    assert free.take_replica(MIXED) == ((2, 3), (5,))
    left = [host.num_free for host in free.hosts]
    assert free.take_replica(MIXED) is None
    assert [host.num_free for host in free.hosts] == left


def test_cells_weigh_every_stage():
    cluster = two_types(40, 20, gpus_per_node=2)
    shapes = [MIXED] * 40 + [shape(Phase.AGGREGATED, gpu_type="big")] * 40
    cells = deal(cluster, shapes)
    assert len(set(cells)) > 1
    for kind in (cells[:40], cells[40:]):
        counts = [kind.count(cell) for cell in set(cells)]
        assert max(counts) - min(counts) <= 1


def test_a_limit_on_the_batch_is_kept_by_mixed_replicas():
    few = BatchLimits(max_num_seqs=2)
    limited = PLANNER.deploy([replace(MIXED, limits=few)])
    assert limited.replicas[0].limits == few
    assert SIX.num_layers == sum(MIXED.parallelism.stage_layers)
