"""Events from outside: a schedule of failures, drains, role flips and scale-ups."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping, nearest
from clusters.serde import read_mapping
from clusters.units import MS_PER_S
from planner.simulator.system import Phase, Routing, ServingSystem, kv_phases


class OutsideKind(StrEnum):
    """What happens to a replica.

    `FAIL`: it is gone at once, with all KV caches on it. `RECOVER`: it is loaded again
    and serves. `DRAIN`: it gets no new requests, and ends those it has. `FLIP`: it
    drains, switches, and serves in the other phase. `SCALE_UP`: it is not there before,
    is loaded and serves.
    """

    FAIL = "fail"
    RECOVER = "recover"
    DRAIN = "drain"
    FLIP = "flip"
    SCALE_UP = "scale_up"


_LASTING = (OutsideKind.RECOVER, OutsideKind.FLIP, OutsideKind.SCALE_UP)
_ENDING = (OutsideKind.FAIL, OutsideKind.DRAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideEvent:
    """Something that happens to one replica."""

    at_ms: float = spec("When.", unit="ms", ge=0)
    kind: OutsideKind = spec("What.")
    replica: int = spec("Index of the replica.", unit="index", ge=0)
    takes_ms: float = spec(
        "Until it serves: loading, or switching once it is empty (flip).",
        unit="ms",
        ge=0,
        default=0.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.takes_ms > 0 and self.kind not in _LASTING:
            raise InputError("takes_ms", self.takes_ms, f"0 for {self.kind}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledEvent:
    """An event of a schedule file, with the replica by its name in the plan."""

    at_s: float = spec("When, from the start of the simulation.", unit="s", ge=0)
    kind: OutsideKind = spec("What.")
    replica: str = spec("Name of the replica.")
    takes_s: float = spec(
        "Until it serves: loading, or switching once it is empty (flip).",
        unit="s",
        ge=0,
        default=0.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.takes_s > 0 and self.kind not in _LASTING:
            raise InputError("takes_s", self.takes_s, f"0 for {self.kind}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideSchedule:
    """What happens to the replicas of a plan while it serves."""

    events: tuple[ScheduledEvent, ...] = spec("Events, in any order.")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a schedule file (YAML or JSON)."""
        return from_mapping(cls, read_mapping(path), file=str(path))

    def of(self, names: Sequence[str]) -> tuple[OutsideEvent, ...]:
        """The events with indices in place of the names of the replicas.

        Raises
        ------
        InputError
            Naming the nearest replica, if there is none of a name.
        """
        index = {name: i for i, name in enumerate(names)}
        found = []
        for i, event in enumerate(self.events):
            if event.replica not in index:
                raise InputError(
                    f"events[{i}].replica",
                    event.replica,
                    f"a replica of the plan ({nearest(event.replica, names)})",
                )
            found.append(
                OutsideEvent(
                    at_ms=event.at_s * MS_PER_S,
                    kind=event.kind,
                    replica=index[event.replica],
                    takes_ms=event.takes_s * MS_PER_S,
                )
            )
        return tuple(found)


def in_order(events: Sequence[OutsideEvent]) -> tuple[OutsideEvent, ...]:
    """Events by time, those at one time as they were given."""
    return tuple(sorted(events, key=lambda event: event.at_ms))


def flipped(events: Sequence[OutsideEvent]) -> frozenset[int]:
    """Replicas that change their phase."""
    return frozenset(e.replica for e in events if e.kind is OutsideKind.FLIP)


def switch_pairs(
    phases: Sequence[Phase],
    slices: Sequence[int],
    switching: frozenset[int],
    routing: Routing = Routing.SHORTEST_QUEUE,
) -> tuple[tuple[int, int], ...]:
    """Pairs of replicas (source, target) that are such only after a change of phase."""
    kinds = kv_phases(routing)
    both = (Phase.PREFILL, Phase.DECODE)

    def may_send(source: int, target: int) -> bool:
        return any(
            (one, two) in kinds
            for one in (both if source in switching else (phases[source],))
            for two in (both if target in switching else (phases[target],))
        )

    every = range(len(phases))
    return tuple(
        (source, target)
        for source in every
        for target in every
        if source != target
        and slices[source] == slices[target]
        and may_send(source, target)
        and (phases[source], phases[target]) not in kinds
    )


def check_outside(system: ServingSystem, events: Sequence[OutsideEvent]) -> None:
    """Every event is one that its replica can have at that time.

    Raises
    ------
    InputError
        Naming the first that is not.
    """
    if not events:
        return
    has_caches = any(replica.prefix_cache is not None for replica in system.replicas)
    if system.routing is Routing.SPLITWISE and system.is_split and has_caches:
        raise InputError("events", len(events), "none with splitwise and prefix caches")
    if all(replica.phase is Phase.DECODE for replica in system.replicas):
        raise InputError("events", len(events), "none without prefill: a lost prompt")
    last: dict[int, OutsideEvent] = {}
    for number, event in sorted(enumerate(events), key=lambda pair: pair[1].at_ms):
        where = f"events[{number}]"
        if event.replica >= len(system.replicas):
            most = len(system.replicas) - 1
            raise InputError(f"{where}.replica", event.replica, f"0 to {most}")
        _check_after(where, event, last.get(event.replica))
        _check_replica(where, system, event)
        last[event.replica] = event
    _check_switch_routes(system, events)


def _check_after(where: str, event: OutsideEvent, last: OutsideEvent | None) -> None:
    """Whether `event` can follow the `last` one of the same replica."""
    if last is not None and last.at_ms == event.at_ms:
        raise InputError(f"{where}.at_ms", event.at_ms, "one event a replica at a time")
    is_down = last is not None and last.kind in _ENDING
    if event.kind is OutsideKind.SCALE_UP:
        if last is not None:
            raise InputError(f"{where}.kind", "scale_up", "the replica's first event")
    elif event.kind is OutsideKind.RECOVER:
        if not is_down:
            raise InputError(f"{where}.kind", "recover", "it after fail or drain")
    elif is_down and not (
        event.kind is OutsideKind.FAIL and last and last.kind is OutsideKind.DRAIN
    ):
        raise InputError(f"{where}.kind", str(event.kind), "recover before it")


def _check_replica(where: str, system: ServingSystem, event: OutsideEvent) -> None:
    is_flip = event.kind is OutsideKind.FLIP
    if is_flip and any(r.prefix_cache is not None for r in system.replicas):
        raise InputError(f"{where}.kind", "flip", "no prefix caches beside it")
    others = {r.phase for r in system.replicas}
    if is_flip and len(others) == 1:
        raise InputError(
            f"{where}.kind", "flip", "a system of prefill and decode replicas"
        )


def _check_switch_routes(system: ServingSystem, events: Sequence[OutsideEvent]) -> None:
    known = {(route.source, route.target) for route in system.switch_routes}
    phases = [replica.phase for replica in system.replicas]
    slices = [replica.slice for replica in system.replicas]
    switching = flipped(events)
    for source, target in switch_pairs(phases, slices, switching, system.routing):
        if (source, target) not in known:
            raise InputError(
                "switch_routes", f"{source}->{target} missing", "a KV route a pair"
            )
