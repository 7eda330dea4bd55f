"""Deployments of groupings: replicas on their own GPUs, slices where nodes pair up."""

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from planner.check import check_deployment
from planner.search.hexgen2.placed import deployments
from tests.planner.search.hexgen2.hexgen2_parts import (
    DECODE,
    PREFILL,
    groups,
    parts_of,
)
from tests.planner.tiny_problems import tiny_cluster, tiny_problem


def placed(problem, *given):
    parts = parts_of(problem)
    found = deployments(
        parts.context.evaluator.planner, parts.judge.judge(groups(*given))
    )
    for each in found:
        check_deployment(problem, each)
    return found


def test_replicas_stay_on_the_gpus_of_their_groups():
    problem = tiny_problem(cluster=tiny_cluster(2, 2))
    (found,) = placed(problem, ((0, 1), PREFILL), ((2,), DECODE), ((3,), DECODE))
    assert [replica.gpu_indices for replica in found.replicas] == [(0, 1), (2,), (3,)]
    assert len(found.routes) == 2
    assert {replica.slice for replica in found.replicas} == {0}


def test_nodes_with_both_phases_can_keep_their_caches():
    problem = tiny_problem(cluster=tiny_cluster(2, 2))
    free, kept = placed(
        problem, ((0,), PREFILL), ((1,), DECODE), ((2,), PREFILL), ((3,), DECODE)
    )
    assert (len(free.routes), len(kept.routes)) == (4, 2)
    slices = {replica.gpu_indices: replica.slice for replica in kept.replicas}
    assert slices == {(0,): 0, (1,): 0, (2,): 1, (3,): 1}


def test_islands_are_apart_and_what_has_no_partner_is_left_out():
    nodes = tiny_cluster(3, 2, num_nics=0).nodes
    cluster = Cluster(name="apart", nodes=nodes, fabric=Fabric())
    (found,) = placed(
        tiny_problem(cluster=cluster),
        ((0,), PREFILL),
        ((1,), DECODE),
        ((2,), PREFILL),
        ((3,), DECODE),
        ((4, 5), DECODE),
    )
    assert sorted(replica.slice for replica in found.replicas) == [0, 0, 1, 1]
    assert found.gpu_indices == (0, 1, 2, 3)


def test_without_any_pair_there_is_no_deployment():
    nodes = tiny_cluster(2, 1, num_nics=0).nodes
    cluster = Cluster(name="apart", nodes=nodes, fabric=Fabric())
    problem = tiny_problem(cluster=cluster)
    assert placed(problem, ((0,), PREFILL), ((1,), DECODE)) == []
