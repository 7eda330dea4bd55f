"""Mixed groups: groupings with GPUs of several types, where a type cannot serve."""

from collections import Counter

import numpy as np

from planner.search.contract import Ledger
from planner.search.hexgen2.mixed_groups import mixed_starts, mixes_types
from planner.search.hexgen2.moves import Neighbours
from planner.simulator.system import Phase
from tests.planner.search.hexgen2.hexgen2_parts import parts_of
from tests.planner.search.tiny_searches import search
from tests.planner.tiny_problems import context_of
from tests.planner.unlike_problems import LIBRARY, two_types, unlike_problem

ROOM = 28_000.0
"""Of a GPU that holds two of the six layers with a request beside them, not more."""


def small_types():
    cluster = two_types(big_bytes=ROOM, small_bytes=ROOM)
    return unlike_problem(cluster, tp=(1,), is_batching_searched=False)


def test_a_phase_is_served_by_gpus_of_both_types():
    outcome = search("hexgen2", context_of(small_types(), library=LIBRARY))
    assert outcome.has_unlike
    best = outcome.candidates[0]
    assert best.goodput.rate_rps > 0
    phases = {replica.phase for replica in best.deployment.replicas}
    assert phases == {Phase.PREFILL, Phase.DECODE}
    assert all(r.shape.has_unlike_stages for r in best.deployment.replicas)


def test_types_that_serve_alone_are_not_mixed():
    problem = unlike_problem()
    assert not mixes_types(problem)
    parts = parts_of(problem, library=LIBRARY)
    rng = np.random.default_rng(0)
    found = mixed_starts(problem, parts.moves.graph, parts.strategies, rng, Ledger())
    assert found == []


def test_mixed_groups_are_copies_and_the_rest_by_type():
    cluster = two_types(2, 1, big_bytes=ROOM, small_bytes=ROOM)
    problem = unlike_problem(cluster, tp=(1,), is_batching_searched=False, max_pp=3)
    parts = parts_of(problem, library=LIBRARY)
    rng = np.random.default_rng(0)
    groupings = mixed_starts(
        problem, parts.moves.graph, parts.strategies, rng, Ledger()
    )
    assert groupings
    types = [gpu.type.name for gpu in cluster.topology.gpus]
    for grouping in groupings:
        gpus = [gpu for group in grouping for gpu in group.gpus]
        assert len(set(gpus)) == len(gpus)
        mixed = [g for g in grouping if len({types[gpu] for gpu in g.gpus}) > 1]
        assert mixed
        assert {group.phase for group in grouping} == {Phase.PREFILL, Phase.DECODE}
        # Such groups change phases; their GPUs stay together.
        moves = Neighbours(parts.moves.graph, types)
        index = grouping.index(mixed[0])
        assert moves.split(grouping, index) == []
        assert moves.phases(grouping, index)
        for other in range(len(grouping)):
            if other != index:
                assert moves.merge(grouping, index, other) == []


def test_mixed_groups_keep_the_limits_of_the_plan():
    cluster = two_types(2, 2, big_bytes=ROOM, small_bytes=ROOM)
    for limits in ({"available_gpus": {"big": 2, "small": 3}}, {"max_gpus": 6}):
        problem = unlike_problem(
            cluster, tp=(1,), is_batching_searched=False, max_pp=3, **limits
        )
        parts = parts_of(problem, library=LIBRARY)
        rng = np.random.default_rng(0)
        groupings = mixed_starts(
            problem, parts.moves.graph, parts.strategies, rng, Ledger()
        )
        assert groupings
        types = [gpu.type.name for gpu in cluster.topology.gpus]
        for grouping in groupings:
            busy = [g for group in grouping if group.phase for g in group.gpus]
            used = Counter(types[gpu] for gpu in busy)
            assert used.total() <= limits.get("max_gpus", 8)
            most = limits.get("available_gpus", {})
            assert all(used[name] <= number for name, number in most.items())
