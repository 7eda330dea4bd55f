"""Maximum flows by hand, and against networkx on random networks."""

import math

import networkx as nx
import numpy as np
import pytest
from networkx.algorithms.flow import preflow_push

from planner.search.hexgen2.max_flow import Arc, max_flow


def test_two_ways_and_the_cut_that_binds():
    # 0 -> 2 -> 1 carries min(5, 3), 0 -> 3 -> 1 carries min(2, 9).
    arcs = [Arc(0, 2, 5.0), Arc(2, 1, 3.0), Arc(0, 3, 2.0), Arc(3, 1, 9.0)]
    found = max_flow(arcs, 0, 1)
    assert found.value == 5.0
    assert found.flows == (3.0, 3.0, 2.0, 2.0)
    assert found.reached == {0, 2}  # the cut is 2 -> 1 and 0 -> 3


def test_flow_turns_back_when_that_helps():
    # The first way 0-2-3-1 blocks both others until the flow on 2 -> 3 is undone.
    arcs = [
        Arc(0, 2, 1.0),
        Arc(0, 3, 1.0),
        Arc(2, 3, 1.0),
        Arc(2, 4, 1.0),
        Arc(4, 1, 1.0),
        Arc(3, 1, 1.0),
    ]
    assert max_flow(arcs, 0, 1).value == 2.0


def test_unlimited_arcs_are_never_in_the_cut():
    arcs = [Arc(0, 2, 4.0), Arc(2, 3, math.inf), Arc(3, 1, 7.0)]
    found = max_flow(arcs, 0, 1)
    assert (found.value, found.reached) == (4.0, {0})


def test_without_a_way_nothing_flows():
    found = max_flow([Arc(0, 2, 4.0), Arc(3, 1, 4.0)], 0, 1)
    assert (found.value, found.flows) == (0.0, (0.0, 0.0))
    assert max_flow([Arc(0, 1, 0.0)], 0, 1).value == 0.0


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_equal_preflow_push_and_their_cut(seed):
    rng = np.random.default_rng(seed)
    num = int(rng.integers(4, 12))
    graph = nx.gnp_random_graph(num, 0.4, seed=seed, directed=True)
    arcs = [Arc(a, b, float(rng.integers(1, 20)) / 7) for a, b in graph.edges]
    for arc in arcs:
        graph.edges[arc.source, arc.target]["capacity"] = arc.capacity
    expected = preflow_push(graph, 0, 1).graph["flow_value"]
    found = max_flow(arcs, 0, 1)
    assert found.value == pytest.approx(expected)
    cut = [
        a for a in arcs if a.source in found.reached and a.target not in found.reached
    ]
    assert sum(arc.capacity for arc in cut) == pytest.approx(expected)
    for vertex in range(2, num):
        flows = list(zip(arcs, found.flows, strict=True))
        into = sum(flow for arc, flow in flows if arc.target == vertex)
        out = sum(flow for arc, flow in flows if arc.source == vertex)
        assert into == pytest.approx(out)
