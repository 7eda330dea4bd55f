"""Layout: the consecutive layers that each machine of a fleet holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from clusters.fields import InputError, check_fields, spec
from planner.pipelines.fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Segment:
    """Layers ``first <= layer < end`` on one machine."""

    first: int = spec("First layer.", unit="layers", ge=0)
    end: int = spec("Layer behind the last.", unit="layers", ge=1)
    machine: int = spec("Index of the machine in the fleet.", unit="1", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.end <= self.first:
            raise InputError("end", self.end, f"a layer behind the first, {self.first}")

    @property
    def num_layers(self) -> int:
        """Layers it holds."""
        return self.end - self.first

    def feeds(self, other: "Segment") -> bool:
        """Whether a token that leaves here can go on there.

        The other machine takes up at the layer where this one ends, be that inside its
        segment: it then computes only the rest of its layers for that token.
        """
        return other.first <= self.end < other.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Segments, sorted by their layers; machines without one are idle."""

    segments: tuple[Segment, ...] = spec("One for each machine in use.")

    def __post_init__(self) -> None:
        machines = [segment.machine for segment in self.segments]
        if len(set(machines)) != len(machines):
            raise InputError("segments", machines, "one segment a machine at most")
        if list(self.segments) != sorted(self.segments):
            raise InputError("segments", "…", "segments sorted by their layers")

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> Self:
        """Segments in any order."""
        return cls(segments=tuple(sorted(segments)))

    @classmethod
    def from_spans(cls, spans: Mapping[int, tuple[int, int]]) -> Self:
        """First layer and end of each machine, by its index."""
        return cls.of(
            Segment(machine=machine, first=first, end=end)
            for machine, (first, end) in spans.items()
        )

    @property
    def spans(self) -> dict[int, tuple[int, int]]:
        """First layer and end of each machine, by its index."""
        return {s.machine: (s.first, s.end) for s in self.segments}

    def why_not(self, fleet: Fleet) -> str | None:
        """Why this cannot run on `fleet`, or None."""
        for segment in self.segments:
            if segment.machine >= fleet.num_machines:
                return f"there is no machine {segment.machine}"
            kind = fleet.kinds[segment.machine]
            if segment.num_layers > kind.max_layers:
                return f"{kind.name} holds at most {kind.max_layers} layers"
            if segment.end > fleet.num_layers:
                return f"the model has {fleet.num_layers} layers"
        held: set[int] = set()
        for segment in self.segments:
            held.update(range(segment.first, segment.end))
        missing = sorted(set(range(fleet.num_layers)) - held)
        return f"nobody holds layer {missing[0]}" if missing else None

    def describe(self, fleet: Fleet) -> str:
        """E.g. ``0-8: 2 x A100 | 8-11: L4``, machines with the same layers together."""
        groups: dict[tuple[int, int], list[str]] = {}
        for segment in self.segments:
            names = groups.setdefault((segment.first, segment.end), [])
            names.append(fleet.kinds[segment.machine].name)
        parts = []
        for (first, end), names in groups.items():
            counts = [(names.count(name), name) for name in dict.fromkeys(names)]
            team = " + ".join(f"{n} x {name}" if n > 1 else name for n, name in counts)
            parts.append(f"{first}-{end}: {team}")
        return " | ".join(parts)
