"""Assignment: from numbers of replicas on host classes to concrete GPUs.

Replicas of prefill and decode alternate, so that both come to lie under every leaf
switch and on every host that has room for both. Where widths do not divide each other,
hosts are cut up as the programme packed them; where NICs are slow, between the phases
as it split them.
"""

from collections.abc import Mapping, Sequence

from planner.deployment import Deployment, ReplicaShape
from planner.placement import FreeGpus, Host, StageGpus
from planner.search.provisioning.columns import Column
from planner.search.provisioning.hosts import HostClass
from planner.search.provisioning.optimum import Allocation
from planner.search.provisioning.splits import Split
from planner.serving import Planner
from planner.simulator.system import Phase

Placed = list[tuple[ReplicaShape, StageGpus]]


def deploy(
    planner: Planner, classes: Sequence[HostClass], allocation: Allocation
) -> Deployment | None:
    """An allocation on concrete GPUs, or None when it does not fit them."""
    placed = assign(classes, allocation)
    if placed is None:
        return None
    shapes, stages = zip(*placed, strict=True)
    return planner.deploy_if_joined(shapes, stages)


def assign(classes: Sequence[HostClass], allocation: Allocation) -> Placed | None:
    """Every replica with its GPUs, prefill first; None when they do not fit."""
    placed: Placed = []
    for index, hosts in enumerate(classes):
        wanted = _interleaved(
            [(c, n) for c, n in allocation.counts if c.host_class == index]
        )
        splits = allocation.splits.get(index)
        there = None if splits is None else _taken(wanted, _split(hosts, splits))
        if there is None:
            free = _cut_up(hosts, allocation.packings.get(index))
            there = _taken(wanted, dict.fromkeys(Phase, free))
        if there is None:
            return None
        placed += there
    return sorted(placed, key=lambda each: each[0].phase is not Phase.PREFILL)


def _taken(wanted: Sequence[Column], free: Mapping[Phase, FreeGpus]) -> Placed | None:
    """GPUs for replicas, of those that their phase may have."""
    placed: Placed = []
    for column in wanted:
        stages = free[column.shape.phase].take_replica(column.shape)
        if stages is None:
            return None
        placed.append((column.shape, stages))
    return placed


def _split(
    hosts: HostClass, splits: Sequence[tuple[Split, int]]
) -> dict[Phase, FreeGpus]:
    """What each phase may have of the hosts of a class: decode its GPUs of each."""
    decodes: list[Host] = []
    prefills: list[Host] = []
    whole = iter(hosts.free().hosts)
    for split, number in splits:
        for _ in range(number):
            host = next(whole)
            decodes.append(Host(host.gpu_type, [list(host.take(split.num_decode))]))
            prefills.append(host)
    prefills += whole
    return {
        Phase.PREFILL: FreeGpus(hosts=prefills),
        Phase.DECODE: FreeGpus(hosts=decodes),
    }


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
