"""Bound on what a layout serves: KV room over the shortest round trip.

Idea
    A request under way gets one token a round trip, and there are no more requests
    under way than their KV caches have room. A round trip takes at least one decode
    step of a single request on every machine of the route, and the latency of every
    link. So, whatever the flow says,

        decode tokens/s <= requests that fit / shortest round trip,

    which falls with every stage a layout adds: the price of depth that a flow ignores.

Assumes   requests of the mean length, on routes in proportion to the planned flow
"""

import math
from dataclasses import dataclass

from clusters.fields import spec
from clusters.units import MS_PER_S
from planner.pipelines.costs import CostedFleet, TypicalLoad
from planner.pipelines.fleet import COORDINATOR
from planner.pipelines.flow import LayerFlow
from planner.pipelines.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyBound:
    """How many requests fit, and how fast a token can come round."""

    in_flight: float = spec("Requests that fit.", unit="requests", ge=0)
    round_trip_ms: float = spec("Shortest round trip.", unit="ms", ge=0)

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens/s that are not exceeded."""
        if self.round_trip_ms <= 0.0:
            return math.inf if self.in_flight > 0.0 else 0.0
        return self.in_flight * MS_PER_S / self.round_trip_ms


def concurrency_bound(
    machines: CostedFleet, layout: Layout, flow: LayerFlow, load: TypicalLoad
) -> ConcurrencyBound:
    """The bound for requests that follow `flow`."""
    if flow.tokens_per_s <= 0.0:
        return ConcurrencyBound(in_flight=0.0, round_trip_ms=0.0)
    spans = layout.spans
    work_ms, layers = 0.0, dict.fromkeys(spans, 0.0)
    for link in flow.links:
        share = link.tokens_per_s / flow.tokens_per_s
        latency_ms = machines.fleet.link_latency_ms[link.source, link.target]
        work_ms += share * float(latency_ms)
        if link.target != COORDINATOR:
            begin = 0 if link.source == COORDINATOR else spans[link.source][1]
            layers[link.target] += share * (spans[link.target][1] - begin)
    in_flight = math.inf
    for machine, computed in layers.items():
        if computed > 0.0:
            held = spans[machine][1] - spans[machine][0]
            costs = machines.of(machine)
            step_ms = costs.steps[held - 1].decode_step_ms(1, load.input_tokens)
            work_ms += computed / held * step_ms
            room = costs.kv_tokens[held - 1] * held / (load.tokens * computed)
            in_flight = min(in_flight, room)
    return ConcurrencyBound(in_flight=in_flight, round_trip_ms=work_ms)
