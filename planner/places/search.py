"""Place search: which GPUs of unlike hosts the replicas of a deployment get.

Reference
    Aarts and Lenstra (eds.), "Local Search in Combinatorial Optimization", 1997,
    chapter 1 (iterative improvement). Pairing the phases on fast links: Jiang et al.,
    "HexGen-2", ICLR 2025, arXiv 2502.07903; Zhong et al., "DistServe", OSDI 2024,
    arXiv 2401.09670 (KV caches that stay on a node).

Idea
    Where hosts are unlike, or racks, the same replicas serve more or less by where
    they are. What the KV flow of a place is takes a tenth of a millisecond
    (`planner.places.flow`), so stages change hosts as long as it grows. It does not
    know queues: a few of the best places are left for the simulator to choose from.

Steps
    1. Starts: the rules of `planner.placement`.
    2. From the best of them, the first neighbour with a higher flow, and so on.
    3. The best of the places met in slices too (`planner.places.slices`).

Differences from the reference
    - not applicable

Assumes   at most as many replicas as a cell has (`planner.cells`)
Cost      at most `max_tried` flows; none where all hosts are alike
Guarantee heuristic; the flow is never below that of a start
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planner.deployment import ReplicaShape
from planner.placement import StageGpus
from planner.places.flow import PlaceFlow, PlaceFlows
from planner.places.moves import Grounds, Place, neighbours
from planner.places.slices import by_host, matched, numbered, paired
from planner.simulator.system import Phase

if TYPE_CHECKING:
    from planner.serving import Planner

MAX_TRIED = 60
"""Places that one search looks at."""

_AMPLE = 8.0
"""Links that carry so many times what replicas serve are not worth a search."""

_NUM_PARTED = 3
"""Places that are looked at in slices too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A place, and what it promises."""

    place: Place
    slices: tuple[int, ...] | None
    flow: PlaceFlow


@dataclass(slots=True)
class PlaceSearch:
    """Places of replicas in one problem."""

    planner: "Planner"
    flows: PlaceFlows = field(init=False)
    grounds: Grounds = field(init=False)

    def __post_init__(self) -> None:
        self.flows = PlaceFlows(self.planner)
        self.grounds = Grounds.of(self.planner.problem.cluster)

    def best(
        self, shapes: Sequence[ReplicaShape], starts: Sequence[Sequence[StageGpus]]
    ) -> Found | None:
        """The best place found from some starts; None where replicas run in none.

        In slices only where nothing is served without.
        """
        found = self.places(shapes, starts)
        whole = next((each for each in found if each.slices is None), None)
        return whole if whole is None or whole.flow.rate_rps > 0 else found[0]

    def places(
        self,
        shapes: Sequence[ReplicaShape],
        starts: Sequence[Sequence[StageGpus]],
        *,
        max_tried: int = MAX_TRIED,
    ) -> list[Found]:
        """All places met, the best first; steps 1-3."""
        # 1. Starts.
        known: dict[object, Found] = {}
        for start in starts:
            self._look(shapes, tuple(start), known)
        if not known:
            return []
        # 2. Neighbours.
        best = max(known.values(), key=_order)
        left = max_tried
        while left > 0 and not _is_ample(best):
            better = None
            for place in neighbours(self.grounds, shapes, best.place):
                found = self._look(shapes, place, known)
                if found is None:
                    continue
                left -= 1
                if _order(found) > _order(best):
                    better = found
                if better is not None or left == 0:
                    break
            if better is None:
                break
            best = better
        # 3. Slices.
        ranked = sorted(known.values(), key=_order, reverse=True)
        parted = [p for found in ranked[:_NUM_PARTED] for p in self._parted(shapes, found)]
        return sorted([*ranked, *parted], key=_order, reverse=True)

    def _look(
        self,
        shapes: Sequence[ReplicaShape],
        place: Place,
        known: dict[object, Found],
    ) -> Found | None:
        """The flow of a place; None where it is known, or replicas do not run there."""
        key = self.grounds.key(shapes, place)
        flow = None if key in known else self.flows.flow(shapes, place)
        if flow is None:
            return None
        known[key] = Found(place=place, slices=None, flow=flow)
        return known[key]

    def _parted(self, shapes: Sequence[ReplicaShape], found: Found) -> Iterator[Found]:
        """The same place in slices that hold both phases each."""
        phases = [shape.phase for shape in shapes]
        if Phase.PREFILL not in phases or _is_ample(found):
            return
        hosts = by_host(self.planner.problem.cluster.topology, found.place)
        ways = list(matched(phases, self.flows.rates_rps(shapes, found.place), hosts))
        if max(hosts) > 0 and len(paired(phases, hosts)) == len(phases):
            ways.insert(0, hosts)
        for slices in dict.fromkeys(tuple(numbered(way)) for way in ways):
            flow = self.flows.flow(shapes, found.place, slices)
            if flow is not None:
                yield Found(place=found.place, slices=slices, flow=flow)


def _is_ample(found: Found) -> bool:
    return found.flow.link_rps >= _AMPLE * found.flow.rate_rps > 0


def _order(found: Found) -> PlaceFlow:
    """Sort key: the larger, the better."""
    return found.flow
