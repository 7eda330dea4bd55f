"""Meshes: what fits on hosts, and every way to cut them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.multiplexing.meshes import MeshKind, MeshSupply, mesh_groups
from tests.planner.tiny_problems import mixed_cluster, tiny_cluster


def kind(num_gpus: int) -> MeshKind:
    return MeshKind(gpu_type="a", num_gpus=num_gpus)


def nodes(num_nodes: int, gpus_per_node: int) -> MeshSupply:
    return MeshSupply.even("a", num_nodes=num_nodes, gpus_per_node=gpus_per_node)


def packs(meshes: list[int], hosts: list[int]) -> bool:
    """Whether meshes fit on hosts, by trying every host for each."""
    if not meshes:
        return True
    first, *rest = meshes
    return any(
        packs(rest, [*hosts[:i], free - first, *hosts[i + 1 :]])
        for i, free in enumerate(hosts)
        if free >= first
    )


@given(
    meshes=st.lists(st.sampled_from([1, 2, 4, 8]), max_size=6),
    hosts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
def test_blocks_say_exactly_what_packs(meshes: list[int], hosts: list[int]) -> None:
    supply = MeshSupply._of_hosts({"a": hosts}, None)
    counts = {kind(size): meshes.count(size) for size in set(meshes)}
    known = all(mesh in supply.kinds for mesh in counts)
    is_packed = packs(sorted(meshes, reverse=True), hosts)
    assert (known and supply.fits(counts)) == is_packed


def test_a_node_of_eight_has_the_ten_cuts_of_the_paper() -> None:
    groups = [
        tuple(mesh.num_gpus for mesh in group)
        for group in mesh_groups(nodes(1, 8), max_meshes=8)
    ]
    assert len(groups) == len(set(groups)) == 10
    assert all(sum(group) == 8 for group in groups)


def test_a_node_of_six_has_six_cuts_and_none_of_two_fours() -> None:
    groups = [
        tuple(mesh.num_gpus for mesh in group)
        for group in mesh_groups(nodes(1, 6), max_meshes=6)
    ]
    assert len(groups) == 6
    assert all(group.count(4) <= 1 for group in groups)


def test_four_nodes_of_eight_have_165_sets_of_meshes() -> None:
    assert sum(1 for _ in mesh_groups(nodes(4, 8), max_meshes=32)) == 165


def test_fewer_llms_than_meshes_leave_gpus_idle() -> None:
    # One LLM on eight GPUs: one mesh of any size.
    groups = list(mesh_groups(nodes(1, 8), max_meshes=1))
    assert sorted(mesh.num_gpus for (mesh,) in groups) == [1, 2, 4, 8]


def test_meshes_lie_on_nodes_of_their_gpu_type() -> None:
    supply = MeshSupply.of(mixed_cluster())
    assert {(k.gpu_type, k.num_gpus): n for k, n in supply.blocks} == {
        ("other", 2): 1,
        ("other", 1): 2,
        ("tiny", 2): 1,
        ("tiny", 1): 2,
    }
    assert MeshSupply.of(tiny_cluster(2, 4)).kinds[0].num_gpus == 4


def test_a_mesh_of_three_is_refused() -> None:
    with pytest.raises(InputError, match="num_gpus"):
        kind(3)
