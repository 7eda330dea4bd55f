"""KV flow: the requests per second that groups can pass on to each other.

Reference
    Jiang et al., "HexGen-2", ICLR 2025, arXiv 2502.07903: max-flow phase.

Idea
    Every request visits one prefill and one decode replica, and its KV cache travels
    in between. Replicas have a capacity in requests/s, and so have links. The maximum
    flow from a source through both sets to a sink is what the groups can serve; the
    minimum cut names what binds.

Steps
    1. Source to every prefill replica, decode replicas to the sink, by their rates.
    2. Replicas that reach each other without the network are joined by the rate of
       their own transfer; all others by the NICs of their nodes and the fabric.
    3. The maximum flow, and the cut that proves it (`max_flow`).

Differences from the paper
    - Dinic's algorithm instead of preflow-push, for the same value in less time
    - NICs and the fabric are shared by all pairs, instead of a capacity for each pair
    - a rate is one within the SLO, instead of one over the latency; a NIC over which a
      single KV cache takes longer than the SLO has time for carries none
    - a replica over several nodes may split its traffic over their NICs at will

Assumes   at most one group a GPU
Cost      half a millisecond for 20 GPUs
Guarantee exact for that network
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clusters.fields import InputError, spec
from clusters.links import LinkKind
from clusters.topology_build import leaf_vertex
from clusters.units import MS_PER_S
from models.memory import kv_bytes
from planner.kv_paths import KvPaths
from planner.places.flow import in_time_frac, sample_of
from planner.problem import Problem
from planner.search.hexgen2.max_flow import Arc, max_flow
from planner.search.hexgen2.strategy import Strategy
from planner.search.provisioning.hosts import host_classes, nic_rates
from planner.search.provisioning.network import ANY_LEAF, kv_network
from planner.search.shapes import usable_gpu_types
from planner.workload.requests import Requests

_SOURCE, _SINK = 0, 1
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFlow:
    """A maximum flow between groups of GPUs, and the cut that proves it."""

    rate_rps: float = spec("Its value.", unit="requests/s", ge=0)
    prefilled_rps: tuple[float, ...] = spec(
        "Of each prefill replica.", unit="requests/s"
    )
    decoded_rps: tuple[float, ...] = spec("Of each decode replica.", unit="requests/s")
    cut_prefills: tuple[int, ...] = spec("Prefill replicas in the cut (indices).")
    cut_decodes: tuple[int, ...] = spec("Decode replicas in the cut (indices).")
    cut_links: tuple[str, ...] = spec("Links in the cut, by what they join.")


class KvFlows:
    """Maximum flows between replicas in one cluster."""

    def __init__(self, problem: Problem) -> None:
        cluster, service = problem.cluster, problem.service
        self._topology = cluster.topology
        self._paths = KvPaths.of(cluster)
        classes = host_classes(cluster, usable_gpu_types(problem))
        self._network = kv_network(
            cluster,
            classes,
            kv_bytes_per_request=kv_bytes(
                service.llm, service.workload.mean_input_tokens
            ),
            efficiency_frac=problem.engine.kv_link_efficiency_frac,
        )
        tells_leaves = any(hosts.leaf for hosts in classes)
        sample = sample_of(problem)
        # A NIC that takes too long for one cache alone is none.
        self._nics = [
            rate if self._is_in_time(problem, sample, rate) else 0.0
            for rate in nic_rates(cluster)
        ]
        self._leaf = [
            leaf_vertex(cluster.leaf_of(node)) if tells_leaves else ANY_LEAF
            for node in cluster.nodes
        ]
        # Numbers only: the order of sets of texts differs from run to run.
        names = dict.fromkeys([*self._network.vertices, *self._leaf])
        self._number = {name: 2 + place for place, name in enumerate(names)}
        self._first_node = 2 + len(names)
        self._first_replica = self._first_node + 2 * len(cluster.nodes)
        self._fabric = tuple(self._fabric_arcs())
        self._nodes: dict[tuple[int, ...], list[int]] = {}
        self._pairs: dict[tuple[tuple[int, ...], tuple[int, ...]], float | None] = {}

    def flow(
        self, prefills: Sequence[Strategy], decodes: Sequence[Strategy]
    ) -> GroupFlow:
        """The maximum flow from prefill to decode replicas; steps 1-3."""
        arcs = self.arcs(prefills, decodes)
        first, second = self._replicas(prefills, decodes)
        found = max_flow(arcs, _SOURCE, _SINK)
        cut = [
            arc
            for arc in arcs
            if arc.source in found.reached and arc.target not in found.reached
        ]
        through = {
            arc.target if arc.source == _SOURCE else arc.source: flow
            for arc, flow in zip(arcs, found.flows, strict=True)
            if arc.source == _SOURCE or arc.target == _SINK
        }
        return GroupFlow(
            rate_rps=found.value,
            prefilled_rps=tuple(through[vertex] for vertex in first),
            decoded_rps=tuple(through[vertex] for vertex in second),
            cut_prefills=tuple(
                arc.target - first.start for arc in cut if arc.source == _SOURCE
            ),
            cut_decodes=tuple(
                arc.source - second.start for arc in cut if arc.target == _SINK
            ),
            cut_links=tuple(sorted(arc.name for arc in cut if arc.name)),
        )

    def arcs(
        self, prefills: Sequence[Strategy], decodes: Sequence[Strategy]
    ) -> list[Arc]:
        """The network; steps 1 and 2."""
        first, second = self._replicas(prefills, decodes)
        arcs = list(self._fabric)
        # No more can pass than the other set serves; that keeps numbers alike in size.
        most = [sum(s.rated.rate_rps for s in each) for each in (decodes, prefills)]
        # 1. Replicas.
        for vertex, prefill in zip(first, prefills, strict=True):
            arcs.append(Arc(_SOURCE, vertex, min(prefill.rated.rate_rps, most[0])))
        for vertex, decode in zip(second, decodes, strict=True):
            arcs.append(Arc(vertex, _SINK, min(decode.rated.rate_rps, most[1])))
        # 2. Links.
        for vertex, prefill in zip(first, prefills, strict=True):
            for other, decode in zip(second, decodes, strict=True):
                rate = self._beside(prefill.gpus, decode.gpus)
                if rate is not None:
                    arcs.append(Arc(vertex, other, rate, "inside a node"))
            for node in self._nodes_with_nic(prefill):
                arcs.append(Arc(vertex, self._first_node + 2 * node, math.inf))
        for vertex, decode in zip(second, decodes, strict=True):
            for node in self._nodes_with_nic(decode):
                arcs.append(Arc(self._first_node + 2 * node + 1, vertex, math.inf))
        return arcs

    def _replicas(
        self, prefills: Sequence[Strategy], decodes: Sequence[Strategy]
    ) -> tuple[range, range]:
        """Vertices of the replicas."""
        middle = self._first_replica + len(prefills)
        return range(self._first_replica, middle), range(middle, middle + len(decodes))

    def _nodes_with_nic(self, strategy: Strategy) -> list[int]:
        """Nodes of a replica that reach the network."""
        if strategy.gpus not in self._nodes:
            nodes = {self._topology.gpu(gpu).node for gpu in strategy.gpus}
            self._nodes[strategy.gpus] = sorted(n for n in nodes if self._nics[n] > 0)
        return self._nodes[strategy.gpus]

    def _fabric_arcs(self) -> Iterator[Arc]:
        """NICs of the nodes, and what joins their leaf switches."""
        for node, bytes_per_s in enumerate(self._nics):
            leaf, nic = self._number[self._leaf[node]], self._first_node + 2 * node
            if bytes_per_s > 0:
                rate = self._requests_per_s(bytes_per_s)
                yield Arc(nic, leaf, rate, f"out of node {node}")
                yield Arc(leaf, nic + 1, rate, f"into node {node}")
        for link in self._network.links:
            rate = self._requests_per_s(link.bytes_per_s)
            ends = (self._number[link.source], self._number[link.target])
            yield Arc(*ends, rate, f"{link.source}->{link.target}")

    def _is_in_time(
        self, problem: Problem, sample: Requests, bytes_per_s: float
    ) -> bool:
        """Whether enough KV caches alone on a link are through within the limits."""
        rate = self._network.requests_per_s(bytes_per_s) if bytes_per_s > 0 else None
        if rate is None:
            return bytes_per_s > 0
        in_time = in_time_frac(problem, sample, MS_PER_S / rate)
        return in_time >= problem.service.slo.attainment_frac - _ROUNDING

    def _requests_per_s(self, bytes_per_s: float) -> float:
        rate = self._network.requests_per_s(bytes_per_s)
        return math.inf if rate is None else rate

    def _beside(
        self, sources: tuple[int, ...], targets: tuple[int, ...]
    ) -> float | None:
        """Requests/s of a transfer that crosses no network; None when it does."""
        key = (sources, targets)
        if key not in self._pairs:
            nodes = [
                {self._topology.domain_of(gpu) for gpu in gpus}
                for gpus in (sources, targets)
            ]
            self._pairs[key] = None
            if nodes[0] & nodes[1]:
                try:
                    transfer = self._paths.transfer(sources, targets)
                except InputError:
                    return None  # nothing joins some of them
                if transfer.kind is not LinkKind.NETWORK:
                    self._pairs[key] = self._requests_per_s(transfer.bytes_per_s)
        return self._pairs[key]
