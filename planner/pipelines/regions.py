"""Regions: machines with fast links among them, placed as if each were one machine.

Reference
    Our own extension of `planner.pipelines.staged` to slow links; the clusters it is
    meant for are those of section 6.4 of Mei et al., "Helix", ASPLOS 2025.

Idea
    Where links between sites are a hundred times slower than within, a token should
    cross them as rarely as possible. Inside a region links do not bind, so the best
    staged layout of a region over k layers gives it a rate, just as a machine has one:
    the same programme then places regions, side by side or one after the other.

Steps
    1. Regions: machines joined by links faster than the widest gap in link rates.
    2. The best rate of every region over 1, 2, … layers.
    3. Every way to put regions in a row of groups (a group's regions hold the same
       layers), with the best split of the layers over the groups.
    4. The staged layout of every region over its layers, with few or many stages.

Assumes   links that are fast inside regions; between them the exact flow decides
Cost      one dynamic programme a region; regions in a row: 25 ways for 3 of them
Guarantee heuristic; candidates for `planner.pipelines.place`
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clusters.fields import spec
from planner.pipelines.fleet import Fleet
from planner.pipelines.flow_bound import flow_bound
from planner.pipelines.layer_split import best_split
from planner.pipelines.layout import Layout, Segment
from planner.pipelines.staged import (
    MAX_STATES,
    Staged,
    best_rates,
    num_states,
    staged_at,
)
from planner.pipelines.teams import Pool

_GAP = 3.0
"""Rates further apart than this are of different kinds of links."""
_MAX_TEAM = 4
MAX_REGIONS = 4
"""Beyond, there are too many ways to put them in a row; the fleet is then one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Machines, and their best rate over each number of layers."""

    machines: tuple[int, ...] = spec("Indices in the fleet.", unit="1")
    rates: tuple[float, ...] = spec("Over 1, 2, … layers.", unit="tokens/s")


def groups_by_links(fleet: Fleet) -> list[tuple[int, ...]]:
    """Step 1: machines grouped by fast links; one group when no links are slow."""
    num = fleet.num_machines
    rates = fleet.link_bytes_per_s[:num, :num]
    known = np.unique(rates[rates > 0])
    everyone = [tuple(range(num))]
    if len(known) < 2:
        return everyone
    gaps = known[1:] / known[:-1]
    widest = int(gaps.argmax())
    if gaps[widest] < _GAP:
        return everyone
    groups, left = [], list(range(num))
    while left:
        group: list[int] = []
        frontier = [left.pop(0)]
        while frontier:
            here = frontier.pop()
            group.append(here)
            fast = np.maximum(rates[here], rates[:, here]) > known[widest]
            near = [machine for machine in left if fast[machine]]
            left = [m for m in left if m not in near]
            frontier += near
        groups.append(tuple(sorted(group)))
    return groups if len(groups) <= MAX_REGIONS else everyone


def regions_of(fleet: Fleet) -> tuple[Region, ...]:
    """Steps 1 and 2."""
    return tuple(
        Region(machines=machines, rates=_rates(Pool.of(fleet, machines), fleet))
        for machines in groups_by_links(fleet)
    )


def _rates(pool: Pool, fleet: Fleet) -> tuple[float, ...]:
    layers = range(1, fleet.num_layers + 1)
    if num_states(pool) > MAX_STATES:
        most = sum(n * len(r) for n, r in zip(pool.counts, pool.rates, strict=True))
        return tuple(flow_bound(pool, n) if n <= most else 0.0 for n in layers)
    return tuple(best_rates(pool, fleet.num_layers, _MAX_TEAM)[1:].tolist())


def region_layouts(
    fleet: Fleet, regions: Sequence[Region], rate_frac: float
) -> Iterator[Layout]:
    """Steps 3 and 4: a layout for every way to put the regions in a row.

    `rate_frac` of the best rate is enough for a region: the less, the fewer stages.
    """
    for row in _rows(len(regions)):
        members = [[regions[i] for i in group] for group in row]
        rates = [_side_by_side(group) for group in members]
        split = best_split(rates, fleet.num_layers)
        if split is None:
            continue
        first, segments = 0, []
        for group, held in zip(members, split[1], strict=True):
            for region in group:
                segments += _place(fleet, region, (first, held), rate_frac)
            first += held
        layout = Layout.of(segments)
        if layout.why_not(fleet) is None:
            yield layout


def _side_by_side(regions: Sequence[Region]) -> list[float]:
    return [sum(rates) for rates in zip(*(r.rates for r in regions), strict=True)]


def _rows(num: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every row of groups of (some of) `num` regions."""
    for places in itertools.product(range(-1, num), repeat=num):
        used = sorted(set(places) - {-1})
        if used and used == list(range(len(used))):
            yield tuple(
                tuple(i for i, place in enumerate(places) if place == group)
                for group in used
            )


def _place(
    fleet: Fleet, region: Region, layers: tuple[int, int], rate_frac: float
) -> list[Segment]:
    """Segments of a region's staged layout; none when it cannot hold the layers."""
    first, held = layers
    pool = Pool.of(fleet, region.machines)
    staged = staged_at(pool, held, rate_frac * region.rates[held - 1])
    if staged is None:
        return []
    return segments_of(fleet, region.machines, staged, first)


def segments_of(
    fleet: Fleet, machines: Sequence[int], staged: Staged, first: int = 0
) -> list[Segment]:
    """The stages of `staged` on these machines, from layer `first` on."""
    names = Pool.of(fleet, machines).names
    left = {
        name: [m for m in machines if fleet.kinds[m].name == name] for name in names
    }
    segments = []
    for team in staged.stages:
        for name, count in zip(names, team.counts, strict=True):
            for _ in range(count):
                segments.append(
                    Segment(
                        machine=left[name].pop(0),
                        first=first,
                        end=first + team.num_layers,
                    )
                )
        first += team.num_layers
    return segments
