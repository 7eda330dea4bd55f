"""Pipelines over unlike machines: which layers every machine holds.

Reference
    Mei et al., "Helix: Serving Large Language Models over Heterogeneous GPUs and
    Network via Max-Flow", ASPLOS 2025, arXiv 2406.01566. The problem, its flow model
    and its clusters; the search is ours.

Idea
    The highest flow is a knapsack where links do not bind, and can be bounded. But a
    flow says what could pass, not what is served: that depends on KV room, on the
    number of stages, and on what waits behind prompts. So layouts of the best flow and
    of a little less with fewer stages are proposed, served in a closed loop, and the
    best are improved by small moves.

Steps
    1. Staged layouts over all machines, from the best flow down, with the fewest stages
       that pass it, machines filled or partly filled (which leaves room for more
       requests); the same over regions where links are slow.
    2. Exact flow of each; drop those whose bound on served tokens is below the best.
    3. Serve the others for a short time, best bound first.
    4. Improve several side by side by moves, each with its exact flow, served likewise.
    5. Serve the finalists for the whole time; the best wins.

Differences from the paper
    - no integer programme (`planner.pipelines.staged` says why);
    - served tokens decide, not flow; `best_flow` stops after step 2.

Assumes   closed-loop load: requests are always waiting
Cost      0.05 s an evaluation of 24 machines; as many as the stopping criterion allows
Guarantee heuristic; `flow_bound` bounds the flow of any layout
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from clusters.fields import spec
from planner.pipelines.closed_loop import LoopSettings, Served, serve
from planner.pipelines.costs import CostedFleet, TypicalLoad
from planner.pipelines.fleet import Fleet
from planner.pipelines.flow import LayerFlow, layer_flow
from planner.pipelines.flow_bound import flow_bound
from planner.pipelines.layout import Layout
from planner.pipelines.moves import neighbour
from planner.pipelines.regions import (
    groups_by_links,
    region_layouts,
    regions_of,
    segments_of,
)
from planner.pipelines.served_bound import concurrency_bound
from planner.pipelines.staged import best_staged, staged_at
from planner.pipelines.teams import Pool
from planner.stop import StoppingCriterion
from planner.workload.requests import Requests

RATE_FRACS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of the best flow for which layouts are proposed."""
LAYERS_FRACS = (1.0, 0.75, 0.6)
"""Shares of the most layers that machines hold in them."""
_SHORT_FRAC = 0.4
_ROUNDING = 1e-9
_NUM_CLIMBERS = 8
"""Layouts improved side by side, so that one lucky run does not end the others."""
_NUM_FINALISTS = 4
"""Of them, those served for the whole time in the end."""
_CHANCE_FRAC = 0.75
"""Chance of a climber to move next, relative to the next better one."""
_MAX_MOVES = 3000
"""Moves after which a search ends that finds nothing to serve any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPlacement:
    """A layout with its exact flow, and a bound on the flow of any layout."""

    layout: Layout = spec("Who holds which layers.")
    flow: LayerFlow = spec("Its maximum flow.")
    bound_tokens_per_s: float = spec("No layout passes more.", unit="tokens/s")

    @property
    def gap_frac(self) -> float:
        """How far the bound is above the flow, relative to it."""
        if self.flow.tokens_per_s <= 0.0:
            return float("inf")
        return max(0.0, self.bound_tokens_per_s / self.flow.tokens_per_s - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPlacement:
    """A layout with its flow and with what it serves."""

    layout: Layout = spec("Who holds which layers.")
    flow: LayerFlow = spec("Its maximum flow, which routes follow.")
    served: Served = spec("What the closed loop served.")
    num_evaluated: int = spec("Layouts served on the way.", unit="layouts", default=1)


def best_flow(fleet: Fleet) -> FlowPlacement | None:
    """The layout with the highest flow among those proposed (steps 1 and 2)."""
    proposed = [(layer_flow(fleet, layout), layout) for layout in proposals(fleet)]
    if not proposed:
        return None
    flow, layout = max(proposed, key=lambda pair: pair[0].tokens_per_s)
    bound = flow_bound(Pool.of(fleet), fleet.num_layers)
    return FlowPlacement(layout=layout, flow=flow, bound_tokens_per_s=bound)


def proposals(fleet: Fleet) -> Iterator[Layout]:
    """Step 1, each layout once."""
    seen: set[Layout] = set()
    for layout in _proposals(fleet):
        if layout not in seen:
            seen.add(layout)
            yield layout


def _proposals(fleet: Fleet) -> Iterator[Layout]:
    machines, pool = range(fleet.num_machines), Pool.of(fleet)
    best = best_staged(pool, fleet.num_layers)
    if best is None:
        return
    yield Layout.of(segments_of(fleet, machines, best))
    for frac, layers_frac in itertools.product(RATE_FRACS, LAYERS_FRACS):
        some = pool.with_layers_frac(layers_frac)
        staged = staged_at(some, fleet.num_layers, frac * best.tokens_per_s)
        if staged is not None:
            yield Layout.of(segments_of(fleet, machines, staged))
    if len(groups_by_links(fleet)) > 1:
        regions = regions_of(fleet)
        for frac in RATE_FRACS:
            yield from region_layouts(fleet, regions, frac)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A layout that was served for a short time."""

    layout: Layout = spec("Who holds which layers.")
    flow: LayerFlow = spec("Its maximum flow.")
    decode_tokens_per_s: float = spec("What it served.", unit="tokens/s")


@dataclass(slots=True)
class ServedSearch:
    """Serves layouts whose flow is at least `least_flow`, for a short time each."""

    machines: CostedFleet
    requests: Requests
    settings: LoopSettings
    stop: StoppingCriterion
    least_flow: float
    best: float | None = None
    num_tried: int = 0
    seen: set[Layout] = field(default_factory=set)

    def is_over(self) -> bool:
        """Whether the search has to end."""
        return self.stop.is_met(self.num_tried, self.best)

    def bound(self, layout: Layout, flow: LayerFlow) -> float:
        """Tokens/s that a layout cannot serve more than."""
        load = TypicalLoad.of(self.requests)
        bound = concurrency_bound(self.machines, layout, flow, load)
        return bound.decode_tokens_per_s

    def try_layout(
        self, layout: Layout, flow: LayerFlow, *, above: float = 0.0
    ) -> Tried | None:
        """Serve a layout, unless its flow is too low or its bound not `above`."""
        self.seen.add(layout)
        if flow.tokens_per_s < self.least_flow * (1.0 - _ROUNDING):
            return None
        if self.bound(layout, flow) <= above:
            return None
        self.num_tried += 1
        measured_s = _SHORT_FRAC * self.settings.measured_s
        short = replace(self.settings, measured_s=measured_s)
        served = serve(self.machines, layout, flow, self.requests, short)
        rate = served.decode_tokens_per_s
        self.best = max(rate, self.best or 0.0)
        return Tried(layout=layout, flow=flow, decode_tokens_per_s=rate)


def best_served(
    machines: CostedFleet,
    requests: Requests,
    settings: LoopSettings,
    *,
    stop: StoppingCriterion,
    least_flow: float = 0.0,
    seed: int = 0,
) -> ServedPlacement | None:
    """The layout that serves most in a closed loop; None when none holds the model.

    With `least_flow` (tokens/s), the one among the layouts whose flow is no less.
    """
    search = ServedSearch(machines, requests, settings, stop, least_flow)
    climbers = _served_proposals(search)
    _climb(search, climbers, np.random.default_rng(seed))
    # 5. The finalists, served for the whole time.
    climbers.sort(key=lambda tried: -tried.decode_tokens_per_s)
    finals = [
        ServedPlacement(
            layout=tried.layout,
            flow=tried.flow,
            served=serve(machines, tried.layout, tried.flow, requests, settings),
            num_evaluated=search.num_tried,
        )
        for tried in climbers[:_NUM_FINALISTS]
    ]
    return max(finals, key=lambda f: f.served.decode_tokens_per_s, default=None)


def _served_proposals(search: ServedSearch) -> list[Tried]:
    """Steps 1 to 3: the proposals that serve most."""
    fleet = search.machines.fleet
    proposed = [(layout, layer_flow(fleet, layout)) for layout in proposals(fleet)]
    proposed.sort(key=lambda pair: -search.bound(*pair))
    tried: list[Tried] = []
    for layout, flow in proposed:
        if not tried or not search.is_over():
            weakest = (
                tried[-1].decode_tokens_per_s if len(tried) == _NUM_CLIMBERS else 0
            )
            if found := search.try_layout(layout, flow, above=weakest):
                tried.append(found)
        tried.sort(key=lambda each: -each.decode_tokens_per_s)
        del tried[_NUM_CLIMBERS:]
    return tried


def _climb(
    search: ServedSearch, climbers: list[Tried], rng: np.random.Generator
) -> None:
    """Step 4: each climber takes the moves that serve more; the better climb more."""
    if not climbers:
        return
    fleet = search.machines.fleet
    chances = _CHANCE_FRAC ** np.arange(len(climbers))
    for _ in range(_MAX_MOVES):
        if search.is_over():
            return
        order = sorted(
            range(len(climbers)), key=lambda i: -climbers[i].decode_tokens_per_s
        )
        chosen = order[int(rng.choice(len(order), p=chances / chances.sum()))]
        here = climbers[chosen]
        layout = neighbour(fleet, here.layout, rng)
        if layout is None or layout in search.seen:
            continue
        above = here.decode_tokens_per_s
        found = search.try_layout(layout, layer_flow(fleet, layout), above=above)
        if found and found.decode_tokens_per_s > above:
            climbers[chosen] = found
