"""Layer flow: the tokens per second that a layout can pass, as an exact maximum flow.

Reference
    Mei et al., "Helix: Serving Large Language Models over Heterogeneous GPUs and
    Network via Max-Flow", ASPLOS 2025, arXiv 2406.01566. Section 4 (the graph).
    Goldberg, Tarjan, "A New Approach to the Maximum-Flow Problem", JACM 1988.

Idea
    A token visits machines whose layers, one after the other, cover the model. So a
    layout is a network: machines are vertices with a capacity, and a link may be used
    where a machine's layers end within (or right before) those of the next. Its maximum
    flow from and to the coordinator is the rate that the layout can pass.

Steps
    1. Split every machine into in and out, joined by its rate.
    2. Join out to in wherever the layers go on and there is a link, by the link's rate;
       coordinator to first layers, last layers to coordinator.
    3. Preflow-push; the minimum cut proves it, and names what binds.

Differences from the paper
    - adapter and compute limits of a machine are one capacity, the smaller;
    - the value is that of the cut: a sum of capacities, with no rounding of its own.

Assumes   nothing about the layout: layers that nobody holds give a flow of 0
Cost      O(V^2 sqrt(E)) for V machines; 10 ms for 24 machines
Guarantee exact; `LayerFlow.cut` certifies it
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clusters.fields import spec
from planner.pipelines.fleet import COORDINATOR, Fleet
from planner.pipelines.layout import Layout

if TYPE_CHECKING:
    import networkx as nx

NEGLIGIBLE_FRAC = 1e-9
"""Flows below this share of the whole are rounding and left out."""

Vertex = tuple[int, int]
"""Machine and side; numbers only, since the order of sets of texts differs from run to
run, and with it the flow that is found among equals."""
_IN, _OUT = 0, 1
_REQUESTS: Vertex = (COORDINATOR, 2)
_ENTRY: Vertex = (COORDINATOR, _OUT)
_EXIT: Vertex = (COORDINATOR, _IN)
_ANSWERS: Vertex = (COORDINATOR, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFlow:
    """Tokens per second from one machine to the next."""

    source: int = spec("Machine, or the coordinator.", unit="1")
    target: int = spec("Machine, or the coordinator.", unit="1")
    tokens_per_s: float = spec("Tokens that take it.", unit="tokens/s", gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFlow:
    """The maximum flow of a layout, how it runs, and what binds it."""

    tokens_per_s: float = spec("Its value.", unit="tokens/s", ge=0)
    links: tuple[LinkFlow, ...] = spec("Links in use, coordinator first.")
    cut: tuple[str, ...] = spec(
        "Machines (`7`), links (`7->9`) and adapters that together bind it."
    )

    def through(self, machine: int) -> float:
        """Tokens/s that pass a machine."""
        return sum(link.tokens_per_s for link in self.links if link.target == machine)


def layer_flow(fleet: Fleet, layout: Layout) -> LayerFlow:
    """The maximum flow of `layout`."""
    from networkx.algorithms.flow import preflow_push

    # 1. and 2. The network.
    graph = flow_graph(fleet, layout)
    # 3. Preflow-push, and the cut that proves it.
    residual = preflow_push(graph, _REQUESTS, _ANSWERS)
    value = float(residual.graph["flow_value"])
    cut = _cut(graph, residual, NEGLIGIBLE_FRAC * value)
    total = float(sum(graph.edges[edge]["capacity"] for edge in cut))
    assert abs(total - value) <= NEGLIGIBLE_FRAC * max(total, value), "not a cut"
    links = [
        LinkFlow(source=source[0], target=target[0], tokens_per_s=flow)
        for source, target in graph.edges
        if graph.edges[source, target]["is_link"]
        and (flow := residual[source][target]["flow"]) > NEGLIGIBLE_FRAC * total
    ]
    return LayerFlow(
        tokens_per_s=total,
        links=tuple(sorted(links, key=lambda link: (link.source, link.target))),
        cut=tuple(sorted(graph.edges[edge]["name"] for edge in cut)),
    )


def flow_graph(fleet: Fleet, layout: Layout) -> "nx.DiGraph[Vertex]":
    """The network of a layout, with `capacity`, `name` and `is_link` on its edges."""
    import networkx as nx

    graph: nx.DiGraph[Vertex] = nx.DiGraph()
    adapter = fleet.coordinator_bytes_per_s / fleet.token_bytes
    _join(graph, (_REQUESTS, _ENTRY), adapter, "coordinator out")
    _join(graph, (_EXIT, _ANSWERS), adapter, "coordinator in")
    # 1. Machines.
    for segment in layout.segments:
        here = segment.machine
        rate = fleet.machine_tokens_per_s(here, segment.num_layers)
        _join(graph, ((here, _IN), (here, _OUT)), rate, str(here))
    # 2. Links.
    for segment in layout.segments:
        out = (segment.machine, _OUT)
        if segment.first == 0:
            _link(graph, fleet, (_ENTRY, (segment.machine, _IN)))
        if segment.end == fleet.num_layers:
            _link(graph, fleet, (out, _EXIT))
        for other in layout.segments:
            if segment.feeds(other):
                _link(graph, fleet, (out, (other.machine, _IN)))
    return graph


def _link(
    graph: "nx.DiGraph[Vertex]", fleet: Fleet, edge: tuple[Vertex, Vertex]
) -> None:
    """A link of the fleet, unless its rate is 0."""
    (source, _), (target, _) = edge
    capacity = fleet.link_tokens_per_s(source, target)
    if capacity > 0:
        ends = [
            "coordinator" if end == COORDINATOR else end for end in (source, target)
        ]
        _join(graph, edge, capacity, f"{ends[0]}->{ends[1]}", is_link=True)


def _join(
    graph: "nx.DiGraph[Vertex]",
    edge: tuple[Vertex, Vertex],
    capacity: float,
    name: str,
    *,
    is_link: bool = False,
) -> None:
    graph.add_edge(*edge, capacity=capacity, name=name, is_link=is_link)


def _cut(
    graph: "nx.DiGraph[Vertex]", residual: "nx.DiGraph[Vertex]", tolerance: float
) -> list[tuple[Vertex, Vertex]]:
    """Edges out of what the source still reaches when the flow is in place."""
    reached, frontier = {_REQUESTS}, [_REQUESTS]
    while frontier:
        here = frontier.pop()
        for there, edge in residual[here].items():
            if there not in reached and edge["capacity"] - edge["flow"] > tolerance:
                reached.add(there)
                frontier.append(there)
    return [
        (source, target)
        for source, target in graph.edges
        if source in reached and target not in reached
    ]
