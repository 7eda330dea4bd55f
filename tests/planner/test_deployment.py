"""Deployment: replicas, pools and their names."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from planner.deployment import Deployment, gpu_ranges
from planner.simulator.system import Batching, BatchLimits, Phase
from tests.planner.tiny_problems import planner_of, shape, tiny_cluster, tiny_problem

PLANNER = planner_of(tiny_problem(cluster=tiny_cluster(2)))
SPLIT = PLANNER.deploy(
    [shape(Phase.PREFILL, tp=2), shape(Phase.PREFILL, tp=2), shape(Phase.DECODE, pp=2)]
)


def test_a_deployment_is_described_by_its_ratio_and_pools():
    assert SPLIT.describe() == (
        "2P1D: 2 x prefill tiny TP2 PP1 + 1 x decode tiny TP1 PP2"
    )
    assert (
        PLANNER.deploy([shape(Phase.AGGREGATED)]).describe()
        == "1 x aggregated tiny TP1 PP1 prefill_first"
    )


@pytest.mark.parametrize(
    ("phase", "policy", "budget", "text"),
    [
        (
            Phase.AGGREGATED,
            Batching.CHUNKED,
            512,
            "aggregated tiny TP1 PP1 chunked 512",
        ),
        (Phase.PREFILL, Batching.CHUNKED, 8192, "prefill tiny TP1 PP1 chunked 8192"),
        (Phase.PREFILL, Batching.PREFILL_FIRST, 768, "prefill tiny TP1 PP1 batch 768"),
        (Phase.DECODE, Batching.CHUNKED, 512, "decode tiny TP1 PP1"),
    ],
)
def test_a_shape_tells_how_prompts_are_served(phase, policy, budget, text):
    limits = BatchLimits(policy=policy, max_batch_tokens=budget, max_num_seqs=64)
    assert str(replace(shape(phase), limits=limits)) == text


def test_pools_are_replicas_of_one_shape():
    assert [(len(p.replicas), p.num_gpus) for p in SPLIT.pools()] == [(2, 4), (1, 2)]


def test_gpus_of_all_replicas_are_counted_once():
    assert SPLIT.num_gpus == 6
    assert len(set(SPLIT.gpu_indices)) == 6


def test_limits_are_changed_for_a_phase_or_for_all():
    chunked = BatchLimits(policy=Batching.CHUNKED, max_batch_tokens=512)
    before = SPLIT.replicas[0].limits
    some = SPLIT.with_limits(chunked, Phase.PREFILL)
    assert [r.limits for r in some.replicas] == [chunked, chunked, before]
    every = SPLIT.with_limits(chunked)
    assert {r.limits for r in every.replicas} == {chunked}
    assert {r.limits for r in PLANNER.system(every).replicas} == {chunked}
    assert every.routes == SPLIT.routes


def test_names_must_differ():
    first = SPLIT.replicas[0]
    with pytest.raises(InputError, match="different names"):
        Deployment(replicas=(first, first))


def test_a_deployment_has_replicas():
    with pytest.raises(InputError, match="at least one replica"):
        Deployment(replicas=())


def test_a_replica_names_gpus_for_every_stage():
    with pytest.raises(InputError, match="2 stages"):
        replace(SPLIT.replicas[2], stage_gpus=((0,),))


def test_runs_of_gpus_are_written_short():
    assert gpu_ranges([8, 0, 2, 1, 3]) == "0-3,8"
    assert gpu_ranges([]) == ""
