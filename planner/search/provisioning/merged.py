"""Merged classes: hosts that differ in their leaf switch alone, solved for as one.

Classes that differ in nothing but their leaf have the same columns, and branch and
bound goes through the same allocation once for every way to deal it to the leaves.
Without leaves the programme is a relaxation: packings of a kind of host add up, and
links between leaves carry anything. It has no such symmetry and is solved fifty times
faster. Where its answer can be dealt to the leaves, it is the best answer of all;
where it cannot, the programme is solved as it is.
"""

from dataclasses import dataclass, replace

from planner.search.provisioning.columns import Column
from planner.search.provisioning.hosts import HostClass
from planner.search.provisioning.network import ANY_LEAF
from planner.search.provisioning.optimum import Allocation, Target, dealt
from planner.search.provisioning.program import ProgramData


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A programme with all hosts of a kind in one class."""

    data: ProgramData
    """The programme, without leaves."""
    whole: ProgramData
    """The same with leaves."""
    members: tuple[tuple[int, ...], ...]
    """By column of `data`, the indices of those of `whole` that it stands for."""

    @classmethod
    def of(cls, whole: ProgramData) -> "Merged":
        """Merge the classes of a programme; columns of a kind have the best rate."""
        kinds: dict[HostClass, list[HostClass]] = {}
        for hosts in whole.classes:
            kinds.setdefault(_kind(hosts), []).append(hosts)
        number = {kind: index for index, kind in enumerate(kinds)}
        members: dict[tuple[int, object], list[int]] = {}
        for index, column in enumerate(whole.columns):
            kind = number[_kind(whole.classes[column.host_class])]
            members.setdefault((kind, column.shape), []).append(index)
        data = replace(
            whole,
            classes=tuple(
                replace(kind, hosts=tuple(h for each in alike for h in each.hosts))
                for kind, alike in kinds.items()
            ),
            columns=tuple(
                replace(
                    whole.columns[alike[0]],
                    host_class=kind,
                    rate_rps=max(whole.columns[i].rate_rps for i in alike),
                )
                for (kind, _), alike in members.items()
            ),
            network=replace(whole.network, vertices=(ANY_LEAF,), links=()),
        )
        return cls(data=data, whole=whole, members=tuple(map(tuple, members.values())))

    @property
    def is_smaller(self) -> bool:
        """Whether any classes are one."""
        return len(self.data.classes) < len(self.whole.classes)

    def columns_of(self, answer: Allocation) -> list[Column]:
        """The columns with leaves that those of an answer without stand for."""
        return [
            self.whole.columns[index]
            for column, alike in zip(self.data.columns, self.members, strict=True)
            if column in answer.columns
            for index in alike
        ]

    def dealt(self, answer: Allocation, target: Target) -> Allocation | None:
        """The answer with leaves, no worse; None where these or links forbid it."""
        numbers = {column: number for column, number in answer.counts}
        used = [
            (alike, numbers[column])
            for column, alike in zip(self.data.columns, self.members, strict=True)
            if column in numbers
        ]
        return dealt(self.whole, target, used, answer)


def _kind(hosts: HostClass) -> HostClass:
    return replace(hosts, leaf="", hosts=())
