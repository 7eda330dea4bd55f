"""Moves: places of the same replicas that differ in a few GPUs.

A stage goes to another host, where GPUs are free or where it changes places with
stages that it is as wide as; or a GPU of it changes with another of its host, where
GPUs of a host are not alike. Hosts alike may change names: of such places one is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from clusters.cluster import Cluster
from planner.deployment import ReplicaShape
from planner.placement import FreeGpus, StageGpus

Place = tuple[StageGpus, ...]
"""GPUs of every stage of every replica, in the order of the replicas."""

_Stage = tuple[int, int]
"""Replica, and stage of it."""


@dataclass(slots=True)
class Grounds:
    """Hosts of a cluster: which GPUs are on which, and which hosts are alike."""

    hosts: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    host_of: dict[int, int] = field(default_factory=dict)
    island_of: dict[int, int] = field(default_factory=dict)
    types: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, cluster: Cluster) -> "Grounds":
        """Those of a cluster."""
        grounds = cls()
        numbers: dict[object, int] = {}
        topology = cluster.topology
        for number, host in enumerate(FreeGpus.of(cluster).hosts):
            islands = tuple(tuple(island) for island in host.islands)
            gpus = [gpu for island in islands for gpu in island]
            nodes = sorted({topology.gpu(gpu).node for gpu in gpus})
            first = cluster.nodes[nodes[0]]
            sizes = tuple(len(island) for island in islands)
            leaf = cluster.leaf_of(first)
            key = (host.gpu_type, first.type, len(nodes), sizes, leaf)
            grounds.hosts.append(islands)
            grounds.kinds.append(numbers.setdefault(key, len(numbers)))
            grounds.types.append(host.gpu_type)
            for island_number, island in enumerate(islands):
                for gpu in island:
                    grounds.host_of[gpu] = number
                    grounds.island_of[gpu] = island_number
        return grounds

    def members(self, host: int) -> list[int]:
        """GPUs of a host."""
        return [gpu for island in self.hosts[host] for gpu in island]

    def key(self, shapes: Sequence[ReplicaShape], place: Place) -> object:
        """The same for places that differ in the names of hosts or GPUs alike."""
        order = {shape: number for number, shape in enumerate(dict.fromkeys(shapes))}
        content: dict[int, list[object]] = {}
        for replica, stages in enumerate(place):
            whole = replica if len(stages) > 1 else -1
            for number, gpus in enumerate(stages):
                there: dict[int, list[int]] = {}
                for gpu in gpus:
                    there.setdefault(self.host_of[gpu], []).append(gpu)
                for host, own in there.items():
                    islands: object = len(own)
                    if len(self.hosts[host]) > 1:
                        islands = tuple(own)
                    told = (order[shapes[replica]], whole, number, repr(islands))
                    content.setdefault(host, []).append(told)
        return tuple(
            sorted(
                (
                    self.kinds[host],
                    host if len(self.hosts[host]) > 1 else -1,
                    repr(sorted(told, key=repr)),
                )
                for host, told in content.items()
            )
        )


def neighbours(
    grounds: Grounds, shapes: Sequence[ReplicaShape], place: Place
) -> Iterator[Place]:
    """Places that are one move away, those between hosts first."""
    stages = [(r, s) for r, whole in enumerate(place) for s in range(len(whole))]
    used = {gpu for whole in place for gpus in whole for gpu in gpus}
    free = [
        [gpu for gpu in grounds.members(host) if gpu not in used]
        for host in range(len(grounds.hosts))
    ]
    for stage in stages:
        yield from _to_other_hosts(grounds, shapes, place, stages, free, stage)
    for stage in stages:
        yield from _within_host(grounds, shapes, place, stages, free, stage)


def _gpus(place: Place, stage: _Stage) -> tuple[int, ...]:
    return place[stage[0]][stage[1]]


def _to_other_hosts(
    grounds: Grounds,
    shapes: Sequence[ReplicaShape],
    place: Place,
    stages: Sequence[_Stage],
    free: Sequence[Sequence[int]],
    stage: _Stage,
) -> Iterator[Place]:
    """A stage on every other host of its type, in turn for what is there."""
    gpus = _gpus(place, stage)
    home, width = grounds.host_of[gpus[0]], len(gpus)
    for host, name in enumerate(grounds.types):
        if host == home or name != grounds.types[home]:
            continue
        if len(free[host]) >= width:
            yield _moved(place, {stage: _tightest(grounds, free[host], width)})
        there = [
            other
            for other in stages
            if grounds.host_of[_gpus(place, other)[0]] == host
            and len(_gpus(place, other)) <= width
            and shapes[other[0]] != shapes[stage[0]]
        ]
        for shape in dict.fromkeys(shapes[other[0]] for other in there):
            first = [other for other in there if shapes[other[0]] == shape]
            rest = [other for other in there if shapes[other[0]] != shape]
            found = _exchange(grounds, place, stage, [*first, *rest], free, host)
            if found is not None:
                yield found


def _exchange(
    grounds: Grounds,
    place: Place,
    stage: _Stage,
    others: Sequence[_Stage],
    free: Sequence[Sequence[int]],
    host: int,
) -> Place | None:
    """A stage on a host, and as few stages of that as it takes in its place."""
    gpus = _gpus(place, stage)
    home, width = grounds.host_of[gpus[0]], len(gpus)
    room, given = list(free[host]), []
    for other in others:
        if len(room) >= width:
            break
        given.append(other)
        room += _gpus(place, other)
    back = [*gpus, *free[home]]
    if len(room) < width or sum(len(_gpus(place, o)) for o in given) > len(back):
        return None
    changed = {stage: _tightest(grounds, room, width)}
    for other in sorted(given, key=lambda o: -len(_gpus(place, o))):
        taken = _tightest(grounds, back, len(_gpus(place, other)))
        back = [gpu for gpu in back if gpu not in taken]
        changed[other] = taken
    return _moved(place, changed)


def _tightest(grounds: Grounds, room: Sequence[int], width: int) -> tuple[int, ...]:
    """GPUs of the tightest island of one host that has them, otherwise of several."""
    islands: dict[int, list[int]] = {}
    for gpu in sorted(room):
        islands.setdefault(grounds.island_of[gpu], []).append(gpu)
    fitting = [island for island in islands.values() if len(island) >= width]
    if fitting:
        return tuple(min(fitting, key=len)[:width])
    rising = sorted(islands.values(), key=len, reverse=True)
    return tuple(sorted([gpu for island in rising for gpu in island][:width]))


def _within_host(
    grounds: Grounds,
    shapes: Sequence[ReplicaShape],
    place: Place,
    stages: Sequence[_Stage],
    free: Sequence[Sequence[int]],
    stage: _Stage,
) -> Iterator[Place]:
    """A GPU of a stage in turn with another of its host, where these are not alike."""
    gpus = _gpus(place, stage)
    home = grounds.host_of[gpus[0]]
    if len(grounds.hosts[home]) == 1:
        return
    others = [
        (other, gpu)
        for other in stages
        if other > stage and grounds.host_of[_gpus(place, other)[0]] == home
        for gpu in _gpus(place, other)
        if shapes[other[0]] != shapes[stage[0]] or len(gpus) > 1
    ]
    for own in gpus:
        for gpu in free[home]:
            yield _moved(place, {stage: _with(gpus, own, gpu)})
        for other, gpu in others:
            theirs = _with(_gpus(place, other), gpu, own)
            yield _moved(place, {stage: _with(gpus, own, gpu), other: theirs})


def _with(gpus: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    return tuple(sorted(new if gpu == old else gpu for gpu in gpus))


def _moved(place: Place, changed: dict[_Stage, tuple[int, ...]]) -> Place:
    """The place with other GPUs for some stages."""
    return tuple(
        tuple(changed.get((r, s), gpus) for s, gpus in enumerate(whole))
        for r, whole in enumerate(place)
    )
