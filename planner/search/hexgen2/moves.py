"""Moves: what can change about a grouping, a step at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.search.hexgen2.graph import GpuGraph
from planner.search.hexgen2.grouping import Group, Grouping, grouping_of
from planner.search.hexgen2.partition import partition
from planner.simulator.system import Phase

_SIZES = (1, 2, 4)
"""GPUs that move from one group to another."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Makes the neighbours of groupings of one cluster."""

    graph: GpuGraph
    gpu_types: Sequence[str]
    """Type of every GPU."""

    def phases(self, grouping: Grouping, index: int) -> list[Grouping]:
        """A group does something else, or nothing."""
        group = grouping[index]
        others = [p for p in (Phase.PREFILL, Phase.DECODE, None) if p != group.phase]
        return [
            _changed(grouping, {index: [Group(gpus=group.gpus, phase=phase)]})
            for phase in others
        ]

    def exchange(self, grouping: Grouping, a: int, b: int) -> list[Grouping]:
        """Two groups of different phases change phases."""
        first, second = grouping[a], grouping[b]
        if first.phase == second.phase:
            return []
        return [
            _changed(
                grouping,
                {
                    a: [Group(gpus=first.gpus, phase=second.phase)],
                    b: [Group(gpus=second.gpus, phase=first.phase)],
                },
            )
        ]

    def give(self, grouping: Grouping, a: int, b: int) -> list[Grouping]:
        """Some GPUs of one group join another of the same type: the nearest to it."""
        giver, taker = grouping[a], grouping[b]
        if not self._are_alike(giver, taker):
            return []
        rates = self.graph.bytes_per_s[np.ix_(giver.gpus, taker.gpus)].sum(axis=1)
        nearest = [giver.gpus[i] for i in np.argsort(-rates, kind="stable")]
        found = []
        for size in _SIZES:
            if size < len(giver.gpus):
                gone = set(nearest[:size])
                found.append(
                    _changed(
                        grouping,
                        {
                            a: [_without(giver, gone)],
                            b: [Group(gpus=(*taker.gpus, *gone), phase=taker.phase)],
                        },
                    )
                )
        return found

    def swap(self, grouping: Grouping, a: int, b: int) -> list[Grouping]:
        """Two groups of one type swap the pair of GPUs that gains most."""
        first, second = grouping[a], grouping[b]
        if not self._are_alike(first, second):
            return []
        across = self.graph.bytes_per_s[np.ix_(first.gpus, second.gpus)]
        inside = [
            self.graph.bytes_per_s[np.ix_(group.gpus, group.gpus)].sum(axis=1)
            for group in (first, second)
        ]
        gain = (
            (across.sum(axis=1) - inside[0])[:, None]
            + (across.sum(axis=0) - inside[1])[None, :]
            - 2.0 * across
        )
        mine, theirs = divmod(int(np.argmax(gain)), len(second.gpus))
        return self.swap_gpus(grouping, (a, first.gpus[mine]), (b, second.gpus[theirs]))

    def swap_gpus(
        self, grouping: Grouping, mine: tuple[int, int], theirs: tuple[int, int]
    ) -> list[Grouping]:
        """A GPU of one group against one of another; both as (group, GPU)."""
        (a, gpu), (b, other) = mine, theirs
        first, second = grouping[a], grouping[b]
        if not self._are_alike(first, second):
            return []
        kept, others = _without(first, {gpu}), _without(second, {other})
        return [
            _changed(
                grouping,
                {
                    a: [replace(kept, gpus=(*kept.gpus, other))],
                    b: [replace(others, gpus=(*others.gpus, gpu))],
                },
            )
        ]

    def split(
        self, grouping: Grouping, index: int, unused: Sequence[int] = ()
    ) -> list[Grouping]:
        """A group in two, both of its phase or one of the other.

        Cut where links are slow, and where its replica leaves GPUs unused.
        """
        group = grouping[index]
        if len(group.gpus) < 2 or group.phase is None or not self._is_pure(group):
            return []
        rng = np.random.default_rng(0)
        halves = [tuple(partition(self.graph, group.gpus, 2, rng))]
        if unused and len(unused) < len(group.gpus):
            used = tuple(gpu for gpu in group.gpus if gpu not in unused)
            halves.append((used, tuple(unused)))
        other = other_phase(group.phase)
        return [
            _changed(
                grouping,
                {
                    index: [
                        Group(gpus=first, phase=phases[0]),
                        Group(gpus=second, phase=phases[1]),
                    ]
                },
            )
            for first, second in halves
            for phases in (
                (group.phase, group.phase),
                (group.phase, other),
                (other, group.phase),
            )
        ]

    def merge(self, grouping: Grouping, a: int, b: int) -> list[Grouping]:
        """Two groups of one type are one, of either phase."""
        first, second = grouping[a], grouping[b]
        if not self._are_alike(first, second):
            return []
        gpus = (*first.gpus, *second.gpus)
        phases = [p for p in dict.fromkeys((first.phase, second.phase)) if p]
        return [
            _changed(grouping, {a: [Group(gpus=gpus, phase=phase)], b: []})
            for phase in phases
        ]

    def _are_alike(self, first: Group, second: Group) -> bool:
        """Whether both have GPUs of one type, the same one."""
        is_same = self.gpu_types[first.gpus[0]] == self.gpu_types[second.gpus[0]]
        return is_same and self._is_pure(first) and self._is_pure(second)

    def _is_pure(self, group: Group) -> bool:
        """Whether all its GPUs are of one type; others change their phase only."""
        return len({self.gpu_types[gpu] for gpu in group.gpus}) == 1


def other_phase(phase: Phase) -> Phase:
    """Decode for prefill, prefill for decode."""
    return Phase.DECODE if phase is Phase.PREFILL else Phase.PREFILL


def _without(group: Group, gone: Iterable[int]) -> Group:
    left = set(gone)
    return Group(gpus=tuple(g for g in group.gpus if g not in left), phase=group.phase)


def _changed(grouping: Grouping, changes: dict[int, list[Group]]) -> Grouping:
    """The grouping with some groups replaced, each by none, one or several."""
    groups = [g for i, g in enumerate(grouping) if i not in changes]
    for new in changes.values():
        groups += [Group(gpus=tuple(sorted(g.gpus)), phase=g.phase) for g in new]
    return grouping_of(groups)
