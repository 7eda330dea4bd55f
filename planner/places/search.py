"""Place search: which GPUs the replicas of a deployment get where links are short.

Reference
    Aarts and Lenstra (eds.), "Local Search in Combinatorial Optimization", 1997,
    chapter 1 (iterative improvement). Pairing the phases on fast links: Jiang et al.,
    "HexGen-2", ICLR 2025, arXiv 2502.07903; Zhong et al., "DistServe", OSDI 2024,
    arXiv 2401.09670 (KV caches that stay on a node).

Idea
    Where NICs are slow, the same replicas serve more or less by where they are. What
    the KV flow of a place is takes a tenth of a millisecond (`planner.places.flow`), so
    stages change hosts as long as it grows. It does not know queues: a few of the best
    places are left for the simulator to choose from.

Steps
    1. Starts: the rules of `planner.placement`.
    2. From the best of them, the first neighbour with a higher flow, and so on.
    3. Where links may be short, the same once more with replicas in slices.

Differences from the reference
    - not applicable

Assumes   at most as many replicas as a cell has (`planner.cells`)
Cost      at most `MAX_TRIED` places, twice; one where its links are ample
Guarantee heuristic; the flow is never below that of a start
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clusters.fields import InputError
from models.latency.library import LatencyUnavailableError
from planner.deployment import ReplicaShape
from planner.placement import StageGpus
from planner.places.flow import PlaceFlow, PlaceFlows
from planner.places.moves import Grounds, Place, neighbours
from planner.places.slices import by_host, matched, numbered, paired
from planner.simulator.system import Phase

if TYPE_CHECKING:
    from planner.serving import Planner

MAX_TRIED, MOST_ROUTES = 60, 600
"""Places that one climb looks at, and the routes of all of them together."""

_SMALL_CLUSTER, _FEW = 16, 6
"""On more GPUs it looks at few, since rules do nearly as well on many replicas."""

_AMPLE = 8.0
"""Links that carry so many times what replicas serve are not worth a search."""

_NUM_KEPT = 4
"""Places without slices, and with, that are remembered."""

_APART_LOSS_FRAC = 0.1
"""Slices may promise so much less and be simulated: transfers that cross each other's
ways, which the flow does not know, cost up to three quarters of the rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A place, and what it promises."""

    place: Place
    slices: tuple[int, ...] | None
    flow: PlaceFlow


_Look = Callable[[Sequence[ReplicaShape], Place], Found | None]


@dataclass(slots=True)
class PlaceSearch:
    """Places of replicas in one problem."""

    planner: "Planner"
    flows: PlaceFlows = field(init=False)
    grounds: Grounds = field(init=False)
    _known: dict[tuple[tuple[ReplicaShape, ...], tuple[Place, ...]], list[Found]] = (
        field(default_factory=dict)
    )

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

    def best_apart(
        self, shapes: Sequence[ReplicaShape], starts: Sequence[Sequence[StageGpus]]
    ) -> Found | None:
        """The best place in slices; None where links are ample, or it promises less."""
        found = self.places(shapes, starts)
        whole = next((each for each in found if each.slices is None), None)
        apart = next((each for each in found if each.slices is not None), None)
        if whole is None or apart is None:
            return None
        least = whole.flow.rate_rps * (1.0 - _APART_LOSS_FRAC)
        return apart if apart.flow.rate_rps >= least else None

    def places(
        self, shapes: Sequence[ReplicaShape], starts: Sequence[Sequence[StageGpus]]
    ) -> list[Found]:
        """The places met, the best first; steps 1-3."""
        key = (tuple(shapes), tuple(map(tuple, starts)))
        if key not in self._known:
            self._known[key] = self._places(shapes, key[1])
        return self._known[key]

    def _places(
        self, shapes: Sequence[ReplicaShape], starts: Sequence[Place]
    ) -> list[Found]:
        # 1, 2. Starts and neighbours, KV caches free to go anywhere.
        whole = self._climb(shapes, starts, self._as_one)
        if not whole or _is_ample(whole[0]) or shapes[0].phase is Phase.AGGREGATED:
            return whole[:_NUM_KEPT]
        # 3. The same in slices.
        near = [*starts, whole[0].place]
        apart = self._climb(shapes, near, self._in_slices)
        found = [*whole[:_NUM_KEPT], *apart[:_NUM_KEPT]]
        return sorted(found, key=_order, reverse=True)

    def _climb(
        self, shapes: Sequence[ReplicaShape], starts: Sequence[Place], look: _Look
    ) -> list[Found]:
        """Places from the starts on, the best first; each kind of place once."""
        known: dict[object, Found] = {}

        def seen(place: Place) -> Found | None:
            key = self.grounds.key(shapes, place)
            found = None if key in known else look(shapes, place)
            if found is not None:
                known[key] = found
            return found

        for start in starts:
            found = seen(start)
            if found is not None and _is_ample(found):
                break
        best = max(known.values(), key=_order, default=None)
        num_gpus = len(self.grounds.host_of)
        left = _num_tried(shapes, MAX_TRIED if num_gpus <= _SMALL_CLUSTER else _FEW)
        while best is not None and left > 0 and not _is_ample(best):
            before = best
            for place in neighbours(self.grounds, shapes, before.place):
                found = seen(place)
                left -= found is not None
                if found is not None and _order(found) > _order(best):
                    best = found
                if best is not before or left == 0:
                    break
            if best is before:
                break
        return sorted(known.values(), key=_order, reverse=True)

    def _as_one(self, shapes: Sequence[ReplicaShape], place: Place) -> Found | None:
        """A place with KV caches free to go anywhere; None: replicas do not run."""
        flow = self.flows.flow(shapes, place)
        return None if flow is None else Found(place=place, slices=None, flow=flow)

    def _in_slices(self, shapes: Sequence[ReplicaShape], place: Place) -> Found | None:
        """A place in the best slices that hold both phases each; None without any."""
        phases = [shape.phase for shape in shapes]
        hosts = by_host(self.planner.problem.cluster.topology, place)
        try:
            ways = list(matched(phases, self.flows.rates_rps(shapes, place), hosts))
        except (InputError, LatencyUnavailableError):
            return None
        if max(hosts) > 0 and len(paired(phases, hosts)) == len(phases):
            ways.insert(0, hosts)
        found = []
        for slices in dict.fromkeys(tuple(numbered(way)) for way in ways):
            flow = self.flows.flow(shapes, place, slices)
            if flow is not None:
                found.append(Found(place=place, slices=slices, flow=flow))
        return max(found, key=_order, default=None)


def _num_tried(shapes: Sequence[ReplicaShape], most: int) -> int:
    """Places that one climb looks at: fewer where there are many routes."""
    numbers = [sum(s.phase is p for s in shapes) for p in (Phase.PREFILL, Phase.DECODE)]
    return min(most, MOST_ROUTES // max(1, numbers[0] * numbers[1]))


def _is_ample(found: Found) -> bool:
    return found.flow.link_rps >= _AMPLE * found.flow.rate_rps > 0


def _order(found: Found) -> PlaceFlow:
    """Sort key: the larger, the better."""
    return found.flow
