"""Shapes: what can run, and why the others cannot."""

from dataclasses import replace

from models.llm import MoeSpec
from planner.search.contract import Ledger
from planner.search.shapes import parallelisms, usable_shapes
from planner.simulator.system import Phase
from tests.models.conftest import TINY
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


def test_ranks_are_tried_where_the_problem_lists_them():
    moe = MoeSpec(num_experts=4, experts_per_token=2, expert_intermediate=16)
    problem = tiny_problem(tp=(1, 2), max_pp=1, attention_dp=(1, 2, 4))
    service = replace(problem.service, llm=replace(TINY, name="moe", moe=moe))
    problem = replace(problem, services=(service,))
    # Experts lie on all GPUs of a stage; TP2 DP4 are eight GPUs of the four.
    names, why = usable(problem)
    assert names[:3] == ["TP1 PP1", "TP1 PP1 EP2 DPA2", "TP1 PP1 EP4 DPA4"]
    assert names[3:] == ["TP2 PP1", "TP2 PP1 EP4 DPA2"]
    assert why == {"needs more GPUs than the plan may use": 1}
    assert [str(each) for each in parallelisms(tiny_problem(max_pp=1), 2, 4)] == [
        "TP1 PP1",
        "TP2 PP1",
    ]


def test_three_ranks_split_every_one_of_four_experts_by_width():
    moe = MoeSpec(num_experts=4, experts_per_token=2, expert_intermediate=18)
    problem = tiny_problem(tp=(1,), max_pp=1, attention_dp=(3,))
    service = replace(problem.service, llm=replace(TINY, name="moe", moe=moe))
    names, _ = usable(replace(problem, services=(service,)))
    assert names == ["TP1 PP1", "TP1 PP1 DPA3"]
