"""Shapes: what can run, and why the others cannot."""

from dataclasses import replace

from planner.search.contract import Ledger
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase
from tests.planner.tiny_problems import mixed_cluster, planner_of, tiny_problem


def usable(problem):
    ledger = Ledger()
    found = usable_shapes(planner_of(problem), Phase.AGGREGATED, ledger)
    names = [str(alone.replicas[0].parallelism) for alone in found]
    return names, dict(ledger.rejected)


def test_every_divisor_that_fits_the_node_is_usable():
    # Four heads, two layers, four GPUs: TP3 divides nothing.
    assert usable(tiny_problem()) == (
        ["TP1 PP1", "TP1 PP2", "TP2 PP1", "TP2 PP2", "TP4 PP1"],
        {"parallelism does not divide the model": 1},
    )


def test_degrees_asked_for_are_counted_when_they_do_not_fit():
    assert usable(tiny_problem(tp=(8,)))[1] == {
        "parallelism does not divide the model": 1
    }
    small = tiny_problem(tp=(4,), max_gpus=2)
    assert usable(small) == ([], {"needs more GPUs than the plan may use": 1})
    two_each = tiny_problem(tp=(4,), cluster=mixed_cluster())
    assert usable(two_each) == ([], {"does not fit the nodes": 2})


def test_gpu_types_can_be_chosen():
    problem = tiny_problem(cluster=mixed_cluster(), gpu_types=("other",), max_pp=1)
    found = usable_shapes(planner_of(problem), Phase.AGGREGATED, Ledger())
    assert {alone.replicas[0].gpu_type for alone in found} == {"other"}


def test_memory_is_enforced():
    problem = tiny_problem()
    memory = replace(problem.engine.memory, runtime_reserve_bytes=8 * 2.0**30)
    full = replace(problem, engine=replace(problem.engine, memory=memory))
    names, why = usable(full)
    assert names == []
    assert why["does not fit the memory of tiny (9 GB)"] == 5
