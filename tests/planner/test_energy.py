"""Energy: shares of the board limit by hand."""

from dataclasses import replace

import pytest

from planner.energy import DECODE_FRAC, IDLE_FRAC, replica_power_w
from planner.simulator.outcome import ReplicaStats
from planner.simulator.system import Phase
from tests.clusters.tiny_clusters import make_tiny_gpu
from tests.planner.tiny_problems import planner_of, shape, tiny_cluster, tiny_problem

PLANNER = planner_of(tiny_problem())
TOPOLOGY = PLANNER.problem.cluster.topology
(REPLICA,) = PLANNER.deploy([shape(Phase.AGGREGATED, tp=2)]).replicas
LIMIT_W = 2 * TOPOLOGY.gpu(0).type.tdp_w
IDLE = ReplicaStats(
    num_requests=0,
    prefill_busy_frac=0.0,
    decode_busy_frac=0.0,
    mixed_busy_frac=0.0,
    num_prefill_steps=0,
    num_decode_steps=0,
    num_mixed_steps=0,
    num_prefill_tokens=0,
    num_decode_tokens=0,
    num_mixed_tokens=0,
    kv_mean_frac=0.0,
    kv_peak_frac=0.0,
    kv_curve_frac=(),
    active_frac=0.0,
    bubble_frac=0.0,
)


@pytest.mark.parametrize(
    ("prefill", "decode", "mixed", "share"),
    [
        # (63 / 400 + 75 / 700) / 2 = 0.1323, (250 / 400 + 380 / 700) / 2 = 0.5839.
        (0.0, 0.0, 0.0, 0.1323),
        (1.0, 0.0, 0.0, 1.0),
        (0.0, 1.0, 0.0, 0.5839),
        (0.25, 0.0, 0.25, 0.5 * 0.1323 + 0.5),
        (0.0, 0.5, 0.0, 0.5 * (0.1323 + 0.5839)),
    ],
)
def test_power_follows_what_the_gpus_do(prefill, decode, mixed, share):
    load = replace(
        IDLE,
        prefill_busy_frac=prefill,
        decode_busy_frac=decode,
        mixed_busy_frac=mixed,
    )
    power_w = replica_power_w(REPLICA, load, TOPOLOGY)
    assert power_w == pytest.approx(share * LIMIT_W, rel=1e-3)


def test_decodes_draw_less_than_prompts_and_more_than_nothing():
    assert 0 < IDLE_FRAC < DECODE_FRAC < 1


def test_without_a_board_limit_no_power_is_made_up():
    gpu = replace(make_tiny_gpu(), tdp_w=None)
    topology = tiny_cluster(gpu=gpu, interconnect="pcie").topology
    assert replica_power_w(REPLICA, IDLE, topology) is None
