"""Candidates: the exact split of every recipe, and the most promising of them."""

from dataclasses import replace

from planner.check import check_deployment
from planner.placement import FreeGpus
from planner.search.contract import Ledger
from planner.search.pipelines.candidates import UnlikeReplicas
from planner.simulator.system import Phase
from tests.planner.unlike_problems import (
    two_types,
    unlike_planner,
    unlike_problem,
)


def best_of(problem, phase=Phase.DECODE, num=3):
    ledger = Ledger()
    makes = UnlikeReplicas(unlike_planner(problem))
    return makes.best(FreeGpus.of(problem.cluster), phase, num, ledger), ledger


def test_a_type_of_twice_the_speed_holds_twice_the_layers():
    problem = unlike_problem(two_types(gpus_per_node=1), max_pp=2)
    for phase in Phase:
        (unlike,), ledger = best_of(problem, phase)
        (replica,) = unlike.alone.replicas
        assert replica.parallelism.stage_layers == (4, 2)
        assert replica.shape.gpu_types == ("big", "small")
        assert not ledger.rejected
        if phase is Phase.AGGREGATED:
            check_deployment(problem, unlike.alone)


def test_every_recipe_is_chosen_or_counted():
    problem = unlike_problem(two_types(2, 2))
    found, ledger = best_of(problem, num=3)
    assert len(found) == 3
    counted, _ = best_of(problem, num=1000)
    assert len(found) + sum(ledger.rejected.values()) == len(counted)
    assert found[0].total_rps == max(each.total_rps for each in counted)
    per_gpu = max(each.per_gpu_rps for each in counted)
    assert per_gpu in [each.per_gpu_rps for each in found[:2]]


def test_memory_decides_where_speed_does_not():
    """The big GPU has room for two layers only: the small ones take the rest."""
    cluster = two_types(1, 2, gpus_per_node=1, big_bytes=28_000.0, small_bytes=2.0**20)
    problem = unlike_problem(cluster, max_pp=2)
    found, _ = best_of(problem, Phase.PREFILL)
    layers = {
        tuple(zip(r.shape.gpu_types, r.parallelism.stage_layers, strict=True))
        for each in found
        for r in each.alone.replicas
    }
    assert layers
    assert all(dict(split)["big"] <= 2 for split in layers)


def test_stages_that_nothing_joins_are_counted():
    apart = two_types(gpus_per_node=1)
    nodes = tuple(
        replace(node, type=replace(node.type, num_nics=0)) for node in apart.nodes
    )
    problem = unlike_problem(replace(apart, nodes=nodes), max_pp=2)
    found, ledger = best_of(problem)
    assert found == []
    assert ledger.rejected == {"does not fit the nodes": 1}


def test_copies_of_a_replica_are_counted_by_placing_them():
    problem = unlike_problem(two_types(2, 1))
    found, _ = best_of(problem, num=1000)
    by_shape = {each.alone.replicas[0].shape: each.num_replicas for each in found}
    free = FreeGpus.of(problem.cluster)
    assert all(free.most_replicas(shape) == num for shape, num in by_shape.items())
