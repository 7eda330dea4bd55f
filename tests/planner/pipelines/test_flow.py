"""Layer flow: by hand, against a linear programme, and under every cut."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from planner.pipelines.fleet import COORDINATOR, Fleet
from planner.pipelines.flow import flow_graph, layer_flow
from planner.pipelines.layout import Layout
from tests.planner.pipelines.tiny_fleets import tiny_fleet

FOUR = tiny_fleet([("a", (10.0, 8.0, 6.0)), ("b", (5.0, 4.0, 3.0))] * 2, 4)


def test_the_slower_of_two_machines_in_a_row_binds():
    # a holds 2 layers at 8 tokens/s, b the other 2 at 4.
    flow = layer_flow(FOUR, Layout.from_spans({0: (0, 2), 1: (2, 4)}))
    assert flow.tokens_per_s == 4.0
    assert flow.cut == ("1",)


def test_machines_side_by_side_add_up():
    flow = layer_flow(FOUR, Layout.from_spans({0: (0, 2), 1: (2, 4), 3: (2, 4)}))
    # 4 + 4 behind 8: both are at their limit.
    assert flow.tokens_per_s == 8.0
    assert [flow.through(machine) for machine in (0, 1, 3)] == [8.0, 4.0, 4.0]


def test_overlapping_layers_join_in_the_middle():
    # 0-3 on a (6 tokens/s), 2-4 on b (4): a token from layer 3 enters b behind layer 2.
    flow = layer_flow(FOUR, Layout.from_spans({0: (0, 3), 1: (2, 4)}))
    assert flow.tokens_per_s == 4.0


def test_a_gap_in_the_layers_passes_nothing():
    flow = layer_flow(FOUR, Layout.from_spans({0: (0, 2), 1: (3, 4)}))
    assert flow.tokens_per_s == 0.0
    assert flow.links == ()


def test_a_slow_link_binds_and_is_named():
    # 3 bytes/s carry 1.5 tokens with activations; the way through machine 3 has 4.
    fleet = tiny_fleet(
        [("a", (10.0, 8.0)), ("b", (5.0, 4.0)), ("a", (10.0, 8.0)), ("b", (5.0, 4.0))],
        4,
        links={(0, 1): 3.0},
    )
    flow = layer_flow(fleet, Layout.from_spans({0: (0, 2), 1: (2, 4), 3: (2, 4)}))
    assert flow.tokens_per_s == 5.5
    assert flow.cut == ("0->1", "3")


def test_a_missing_link_is_no_way():
    fleet = tiny_fleet([("a", (9.0, 5.0))] * 2, 4, links={(0, 1): 0.0})
    assert layer_flow(fleet, Layout.from_spans({0: (0, 2), 1: (2, 4)})).links == ()


@st.composite
def placed_fleets(draw: st.DrawFn) -> tuple[Fleet, Layout]:
    """Up to six machines with any layers of a small model, on links that may bind."""
    num, num_layers = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    rate = st.integers(1, 20).map(float)
    rates = [
        (f"m{i}", draw(st.lists(rate, min_size=num_layers, max_size=num_layers)))
        for i in range(num)
    ]
    pairs = st.tuples(st.integers(-1, num - 1), st.integers(-1, num - 1))
    links = draw(st.dictionaries(pairs, st.integers(0, 20).map(float), max_size=8))
    spans = {}
    for machine in range(num):
        first = draw(st.integers(0, num_layers - 1))
        spans[machine] = (first, draw(st.integers(first + 1, num_layers)))
    return tiny_fleet(rates, num_layers, links=links), Layout.from_spans(spans)


@settings(max_examples=60, deadline=None)
@given(placed_fleets())
def test_the_flow_is_the_optimum_of_a_linear_programme(case):
    fleet, layout = case
    assert layer_flow(fleet, layout).tokens_per_s == pytest.approx(
        programme(fleet, layout), abs=1e-6
    )


def programme(fleet: Fleet, layout: Layout) -> float:
    """Maximise what leaves the coordinator, written down without any graph."""
    spans = layout.spans
    ends = [COORDINATOR, *spans]
    arcs = [
        (a, b) for a in ends for b in ends if a != b and goes_on(spans, a, b, fleet)
    ]
    if not arcs:
        return 0.0
    capacity = [fleet.link_tokens_per_s(a, b) for a, b in arcs]
    through = [[float(b == m) for _, b in arcs] for m in spans]
    limits = [fleet.machine_tokens_per_s(m, s[1] - s[0]) for m, s in spans.items()]
    balance = [[float(b == m) - float(a == m) for a, b in arcs] for m in spans]
    answer = linprog(
        [-float(a == COORDINATOR) for a, _ in arcs],
        A_ub=through,
        b_ub=limits,
        A_eq=balance,
        b_eq=np.zeros(len(spans)),
        bounds=[(0.0, c) for c in capacity],
    )
    return -float(answer.fun)


def goes_on(spans, a, b, fleet) -> bool:
    end = 0 if a == COORDINATOR else spans[a][1]
    if b == COORDINATOR:
        return end == fleet.num_layers
    first, stop = spans[b]
    return first == 0 if a == COORDINATOR else first <= end < stop


@settings(max_examples=40, deadline=None)
@given(placed_fleets(), st.data())
def test_no_cut_is_below_the_flow(case, data):
    fleet, layout = case
    flow = layer_flow(fleet, layout).tokens_per_s
    graph = flow_graph(fleet, layout)
    # Any vertices, beside the source and without the sink.
    vertices = sorted(graph.nodes)
    source, sink = (COORDINATOR, 2), (COORDINATOR, 3)
    assert nx.is_directed(graph)
    inside = set(data.draw(st.lists(st.sampled_from(vertices)))) - {sink} | {source}
    out = sum(
        edge["capacity"]
        for a, b, edge in graph.edges(data=True)
        if a in inside and b not in inside
    )
    assert flow <= out * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(placed_fleets())
def test_links_carry_what_machines_pass(case):
    fleet, layout = case
    flow = layer_flow(fleet, layout)
    for segment in layout.segments:
        machine = segment.machine
        left = sum(x.tokens_per_s for x in flow.links if x.source == machine)
        limit = fleet.machine_tokens_per_s(machine, segment.num_layers)
        assert flow.through(machine) == pytest.approx(left, abs=1e-6)
        assert left <= limit * (1 + 1e-9)
    for link in flow.links:
        capacity = fleet.link_tokens_per_s(link.source, link.target)
        assert link.tokens_per_s <= capacity * (1 + 1e-9)
