"""Assignment: from numbers of replicas on host classes to concrete GPUs.

Replicas of prefill and decode alternate, so that both come to lie under every leaf
switch and on every host that has room for both. Where widths do not divide each other,
hosts are cut up as the programme packed them.
"""

from collections.abc import Mapping, Sequence

from planner.deployment import ReplicaShape
from planner.placement import FreeGpus, Host, StageGpus
from planner.search.provisioning.columns import Column
from planner.search.provisioning.hosts import HostClass
from planner.search.provisioning.optimum import Allocation
from planner.simulator.system import Phase

Placed = list[tuple[ReplicaShape, StageGpus]]


def assign(classes: Sequence[HostClass], allocation: Allocation) -> Placed | None:
    """Every replica with its GPUs, prefill first; None when they do not fit."""
    placed: Placed = []
    for index, hosts in enumerate(classes):
        wanted = [(c, n) for c, n in allocation.counts if c.host_class == index]
        free = _cut_up(hosts, allocation.packings.get(index))
        for column in _interleaved(wanted):
            stages = free.take_replica(column.shape)
            if stages is None:
                return None
            placed.append((column.shape, stages))
    return sorted(placed, key=lambda each: each[0].phase is not Phase.PREFILL)


def _interleaved(wanted: Sequence[tuple[Column, int]]) -> list[Column]:
    """Widest groups first; columns of one width in proportion to their numbers."""
    places = [
        (-column.width, (position + 0.5) / number, order, column)
        for order, (column, number) in enumerate(wanted)
        for position in range(number)
    ]
    return [column for *_, column in sorted(places, key=lambda place: place[:3])]


def _cut_up(
    hosts: HostClass, packed: Sequence[tuple[Mapping[int, int], int]] | None
) -> FreeGpus:
    """Free GPUs of a class; with packings, one host a group that a packing holds."""
    free = hosts.free()
    if not packed:
        return free
    cuts: list[Host] = []
    whole = iter(free.hosts)
    for groups, number in packed:
        for _ in range(number):
            host = next(whole)
            for width in sorted(groups, reverse=True):
                for _ in range(groups[width]):
                    cuts.append(Host(hosts.gpu_type, [list(host.take(width))]))
    return FreeGpus(hosts=cuts)
