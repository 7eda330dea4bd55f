"""Spectral partition and Kernighan-Lin on graphs whose best parts are known."""

import itertools

import numpy as np
import pytest

from planner.search.hexgen2.graph import GpuGraph, gpu_graph
from planner.search.hexgen2.partition import (
    fiedler_vector,
    inside_bytes_per_s,
    kernighan_lin,
    partition,
)
from tests.planner.tiny_problems import tiny_cluster


def graph_of(weights: np.ndarray, memory: list[float] | None = None) -> GpuGraph:
    sizes = np.array(memory or [1.0] * len(weights))
    return GpuGraph(bytes_per_s=np.array(weights, dtype=float), memory_bytes=sizes)


def random_graph(seed: int, num: int) -> GpuGraph:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.0, 1.0, size=(num, num)) ** 4
    weights = np.triu(weights, 1)
    return graph_of(weights + weights.T)


@pytest.mark.parametrize("seed", range(5))
def test_nodes_are_the_parts_where_nodes_hold_one_each(seed):
    graph = gpu_graph(tiny_cluster(3, 4))
    parts = partition(graph, range(12), 3, np.random.default_rng(seed))
    assert sorted(parts) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]


def test_the_fiedler_vector_of_a_path_is_monotone():
    weights = np.diag(np.ones(4), 1) + np.diag(np.ones(4), -1)
    vector = fiedler_vector(weights, np.ones(5))
    assert (np.diff(vector) > 0).all()
    assert abs(vector.sum()) < 1e-9


def test_parts_are_balanced_by_memory():
    # A line of three GPUs of 3 and six of 1: halves of 7 or 8 hold 2 or 3 of the large.
    memory = [3.0] * 3 + [1.0] * 6
    weights = np.diag(np.ones(8), 1) + np.diag(np.ones(8), -1)
    rng = np.random.default_rng(0)
    first, second = partition(graph_of(weights, memory), range(9), 2, rng)
    sums = [sum(memory[gpu] for gpu in part) for part in (first, second)]
    assert sorted(sums) in ([7.0, 8.0], [6.0, 9.0])


@pytest.mark.parametrize("num_parts", range(1, 8))
def test_every_gpu_is_in_one_part_and_none_is_empty(num_parts):
    graph = random_graph(1, 7)
    parts = partition(graph, range(7), num_parts, np.random.default_rng(2))
    assert len(parts) == num_parts
    assert all(parts)
    assert sorted(gpu for part in parts for gpu in part) == list(range(7))


def test_swaps_repair_a_wrong_start():
    # Two cliques of three, dealt alternately.
    clique = np.ones((3, 3)) - np.eye(3)
    weights = np.block([[clique, np.zeros((3, 3))], [np.zeros((3, 3)), clique]])
    labels = kernighan_lin(weights, np.array([0, 1, 0, 1, 0, 1]))
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert len(set(labels[:3].tolist())) == len(set(labels[3:].tolist())) == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_single_swap_improves_the_result_and_no_halving_beats_the_best(seed):
    graph = random_graph(seed, 8)
    parts = partition(graph, range(8), 2, np.random.default_rng(seed))
    found = inside_bytes_per_s(graph, parts)
    for a, b in itertools.product(*parts):
        swapped = [
            tuple(sorted({*parts[0]} - {a} | {b})),
            tuple(sorted({*parts[1]} - {b} | {a})),
        ]
        assert inside_bytes_per_s(graph, swapped) <= found + 1e-9
    best = max(
        inside_bytes_per_s(graph, [half, tuple({*range(8)} - {*half})])
        for half in itertools.combinations(range(8), 4)
    )
    assert found <= best + 1e-9
