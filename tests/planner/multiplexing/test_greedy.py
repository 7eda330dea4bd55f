"""MuxServe's greedy on units by hand."""

from typing import ClassVar

import pytest

from planner.multiplexing.greedy import place_greedily
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.stop import MaxEvaluations

NODE = MeshSupply.even("a", num_nodes=1, gpus_per_node=4)


class Additive:
    """Each LLM alone is worth its mesh's GPUs; `room` GPUs are needed for each."""

    def __init__(self, weights: tuple[float, ...], room: tuple[int, ...]) -> None:
        self.weights, self.room = weights, room
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def value(self, mesh: MeshKind, members: tuple[int, ...]) -> float | None:
        self.asked.append((mesh.num_gpus, members))
        if sum(self.room[llm] for llm in members) > mesh.num_gpus:
            return None
        shared = mesh.num_gpus / len(members)
        return sum(self.weights[llm] * shared for llm in members)


def test_the_heaviest_gets_the_large_mesh() -> None:
    estimate = Additive(weights=(1.0, 3.0), room=(1, 1))
    found = place_greedily(NODE, estimate, by_demand=(1, 0))
    # Two and two: 2 * (1 + 3) = 8. All four shared: 2 * 4 = 8 as well, but with one
    # mesh alone the first takes 12, and the second would take it down to 8: two meshes
    # of two are found first, and nothing is better.
    assert found.value == pytest.approx(8.0)
    assert sum(unit.mesh.num_gpus for unit in found.units) == 4


def test_a_mesh_group_without_room_for_all_is_infeasible() -> None:
    estimate = Additive(weights=(1.0, 1.0, 1.0), room=(2, 2, 1))
    found = place_greedily(NODE, estimate, by_demand=(0, 1, 2))
    # Together they need five of the four GPUs, whatever the group.
    assert found is None


def test_groups_whose_meshes_are_too_small_for_an_llm_are_not_tried() -> None:
    estimate = Additive(weights=(1.0, 1.0), room=(3, 1))
    found = place_greedily(NODE, estimate, by_demand=(0, 1))
    # Only a mesh of four holds the first: one group (with two LLMs) has it.
    assert (found.num_groups, found.num_infeasible) == (1, 0)
    assert found.units[0].members == (0, 1)


def test_of_equal_gains_the_smaller_mesh_is_taken() -> None:
    class Flat:
        def value(self, mesh: MeshKind, members: tuple[int, ...]) -> float | None:
            return 1.0 if len(members) == 1 else None

    # Two LLMs: the groups are (1, 1), (2, 1), ..., of which all are worth 2.
    found = place_greedily(NODE, Flat(), by_demand=(0, 1))
    assert found.value == 2.0
    assert found.units[0].mesh.num_gpus <= found.units[1].mesh.num_gpus


def test_one_llm_on_a_node_of_eight_has_a_place() -> None:
    # The released code finds none: it asks for as many LLMs as meshes, and its groups
    # use every GPU.
    node = MeshSupply.even("a", num_nodes=1, gpus_per_node=8)
    found = place_greedily(node, Additive((1.0,), (2,)), by_demand=(0,))
    assert found.units[0].mesh.num_gpus == 8


def test_the_base_of_a_gain_is_what_that_very_unit_is_worth() -> None:
    """The index bug: meshes change places, and what was stored stays behind."""

    class Table:
        # On meshes of two: worth of a set of LLMs.
        worth: ClassVar = {(0,): 9.0, (1,): 5.0, (2,): 3.0, (0, 2): 10.0, (1, 2): 8.5}

        def value(self, mesh: MeshKind, members: tuple[int, ...]) -> float | None:
            return self.worth.get(members) if mesh.num_gpus == 2 else None

    found = place_greedily(NODE, Table(), by_demand=(0, 1, 2))
    # LLM 2 adds 8.5 - 5 to the unit of 1, and 10 - 9 to that of 0.
    assert {unit.members for unit in found.units} == {(0,), (1, 2)}
    assert found.value == pytest.approx(17.5)


def test_it_stops_when_told() -> None:
    estimate = Additive(weights=(1.0,) * 3, room=(1,) * 3)
    whole = place_greedily(NODE, estimate, by_demand=(0, 1, 2))
    cut = place_greedily(
        NODE, estimate, by_demand=(0, 1, 2), stop=MaxEvaluations(num=1)
    )
    assert (whole.num_groups > 1, cut.num_groups) == (True, 1)
