"""Placement: concrete GPUs of the topology for the replicas of a deployment.

A tensor-parallel group stays on one host (a node, or an NVLink domain that spans
nodes), inside one NVLink island when any has room. The stages of a pipeline stay on the
host of the stage before when they fit, otherwise they go to the host with the least
room that does: so big hosts stay whole for big groups.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from weakref import WeakKeyDictionary

from clusters.cluster import Cluster
from clusters.topology import Topology
from planner.deployment import ReplicaShape
from planner.simulator.system import Phase

StageGpus = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Host:
    """A node (or NVLink domain): its free GPUs, grouped by NVLink island."""

    gpu_type: str
    islands: list[list[int]]

    @property
    def num_free(self) -> int:
        """Free GPUs."""
        if len(self.islands) == 1:  # most hosts, and asked of thousands
            return len(self.islands[0])
        return sum(map(len, self.islands))

    def take(self, count: int) -> tuple[int, ...]:
        """`count` GPUs: of the tightest island that has them, otherwise of several."""
        fitting = [island for island in self.islands if len(island) >= count]
        if fitting:
            island = min(fitting, key=len)
            taken = island[:count]
            del island[:count]
            return tuple(taken)
        taken = []
        for island in sorted(self.islands, key=len, reverse=True):
            while island and len(taken) < count:
                taken.append(island.pop(0))
        return tuple(sorted(taken))


@dataclass(slots=True)
class FreeGpus:
    """GPUs not given to any replica yet.

    Of a type with a `quota` no more are given, whichever they are.
    """

    hosts: list[Host]
    quota: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, cluster: Cluster, available: Mapping[str, int] | None = None) -> Self:
        """All GPUs of a cluster, with quotas for the types named in `available`."""
        if cluster.topology not in _WHOLE:
            _WHOLE[cluster.topology] = _hosts_of(cluster)
        return cls(hosts=_copied(_WHOLE[cluster.topology]), quota=dict(available or {}))

    def copy(self) -> "FreeGpus":
        """An independent copy."""
        return FreeGpus(hosts=_copied(self.hosts), quota=dict(self.quota))

    def without(self, taken: Collection[int]) -> "FreeGpus":
        """A copy in which some GPUs are no longer free."""
        left = self.copy()
        for host in left.hosts:
            before = host.num_free
            host.islands = [
                [gpu for gpu in island if gpu not in taken] for island in host.islands
            ]
            if host.gpu_type in left.quota:
                left.quota[host.gpu_type] -= before - host.num_free
        return left

    def largest_group(self, gpu_type: str) -> int:
        """GPUs of the largest host of a type: the largest tensor-parallel group."""
        largest = max(
            (h.num_free for h in self.hosts if h.gpu_type == gpu_type), default=0
        )
        return min(largest, self.quota.get(gpu_type, largest))

    def num_free(self, gpu_type: str) -> int:
        """Free GPUs of a type."""
        free = sum(h.num_free for h in self.hosts if h.gpu_type == gpu_type)
        return min(free, self.quota.get(gpu_type, free))

    def most_replicas(self, shape: ReplicaShape) -> int:
        """Replicas of one shape that fit beside each other."""
        if shape.has_unlike_stages:
            return self._most_unlike(shape)
        width = shape.parallelism.gpus_per_stage
        stages = sum(
            h.num_free // width for h in self.hosts if h.gpu_type == shape.gpu_type
        )
        stages = min(stages, self.quota.get(shape.gpu_type, stages * width) // width)
        return stages // shape.parallelism.pp

    def take_replica(self, shape: ReplicaShape) -> StageGpus | None:
        """GPUs for one replica, or None (and nothing taken) when it does not fit."""
        if shape.has_unlike_stages:
            return self._take_unlike(shape)
        width = shape.parallelism.gpus_per_stage
        hosts = [h for h in self.hosts if h.gpu_type == shape.gpu_type]
        num_gpus = width * shape.parallelism.pp
        if self.quota.get(shape.gpu_type, num_gpus) < num_gpus:
            return None
        if not self._can_take(hosts, width, shape.parallelism.pp):
            return None
        if shape.gpu_type in self.quota:
            self.quota[shape.gpu_type] -= num_gpus
        stages: list[tuple[int, ...]] = []
        last: Host | None = None
        for left in range(shape.parallelism.pp, 0, -1):
            if last is None or last.num_free < width:
                last = _best_host(hosts, width, left)
            stages.append(last.take(width))
        return tuple(stages)

    def _take_unlike(self, shape: ReplicaShape) -> StageGpus | None:
        """The same where stages differ: a stage stays on the last host if it can."""
        stages: list[tuple[int, ...]] = []
        left, last = self.copy(), None
        for name, width in zip(
            shape.gpu_types, shape.parallelism.stage_widths, strict=True
        ):
            if left.quota.get(name, width) < width:
                return None
            if name in left.quota:
                left.quota[name] -= width
            if last is None or last.gpu_type != name or last.num_free < width:
                hosts = [h for h in left.hosts if h.gpu_type == name]
                fitting = [h for h in hosts if h.num_free >= width]
                if not fitting:
                    return None
                last = min(fitting, key=lambda host: host.num_free)
            stages.append(last.take(width))
        self.hosts, self.quota = left.hosts, left.quota
        return tuple(stages)

    def _most_unlike(self, shape: ReplicaShape) -> int:
        left, count = self.copy(), 0
        while left.take_replica(shape) is not None:
            count += 1
        return count

    @staticmethod
    def _can_take(hosts: Sequence[Host], width: int, num_stages: int) -> bool:
        left = num_stages
        for host in hosts:
            left -= host.num_free // width
            if left <= 0:
                return True
        return False


_WHOLE: WeakKeyDictionary[Topology, list[Host]] = WeakKeyDictionary()
"""Hosts of the clusters asked for, all their GPUs free."""


def _copied(hosts: Sequence[Host]) -> list[Host]:
    return [Host(h.gpu_type, [list(i) for i in h.islands]) for h in hosts]


def _hosts_of(cluster: Cluster) -> list[Host]:
    """All hosts of a cluster, all their GPUs free."""
    topology = cluster.topology
    by_host: dict[tuple[str, str], list[list[int]]] = {}
    for node in range(len(cluster.nodes)):
        for island in topology.islands(node):
            for name in sorted({topology.gpu(i).type.name for i in island}):
                members = [i for i in island if topology.gpu(i).type.name == name]
                host = topology.domain_of(members[0])
                by_host.setdefault((host, name), []).append(members)
    hosts = []
    domains = {node.nvlink_domain for node in cluster.nodes}
    for (host, gpu_type), islands in by_host.items():
        spans = host in domains
        merged = [sorted(g for island in islands for g in island)]
        hosts.append(Host(gpu_type=gpu_type, islands=merged if spans else islands))
    return hosts


def _best_host(hosts: Sequence[Host], width: int, num_stages: int) -> Host:
    """The tightest host for all stages, else the one that takes the most of them."""
    whole = [h for h in hosts if h.num_free >= width * num_stages]
    if whole:
        return min(whole, key=lambda host: host.num_free)
    return max(hosts, key=lambda host: host.num_free // width)


def place(
    cluster: Cluster,
    shapes: Sequence[ReplicaShape],
    available: Mapping[str, int] | None = None,
) -> list[StageGpus] | None:
    """GPUs for every replica of `shapes` (in their order), or None when they don't fit.

    The widest groups are placed first; replicas of different phases alternate, so that
    prefill and decode replicas come to lie near each other.
    """
    return _place_on(FreeGpus.of(cluster, available), shapes)


def place_on_few(
    cluster: Cluster,
    shapes: Sequence[ReplicaShape],
    available: Mapping[str, int] | None = None,
) -> list[StageGpus] | None:
    """The same on the fewest, and then the largest, hosts of every type that do.

    Where hosts are unlike, small ones are not filled first: KV caches stay on a host.
    """
    free = FreeGpus.of(cluster, available)
    by_type: dict[str, list[Host]] = {}
    for host in sorted(free.hosts, key=lambda host: -host.num_free):
        by_type.setdefault(host.gpu_type, []).append(host)
    most = max(map(len, by_type.values()))
    for number in range(1, most + 1):
        kept = [host for hosts in by_type.values() for host in hosts[:number]]
        few = FreeGpus(hosts=kept, quota=free.quota).copy()
        placed = _place_on(few, shapes)
        if placed is not None:
            return placed
    return None


def place_evenly(
    cluster: Cluster,
    shapes: Sequence[ReplicaShape],
    available: Mapping[str, int] | None = None,
) -> list[StageGpus] | None:
    """The same with each phase spread over the hosts of a type, by their sizes.

    Every host comes to hold both phases, so that KV caches can stay on it.
    """
    free = FreeGpus.of(cluster, available)
    sizes = [host.num_free for host in free.hosts]
    given: dict[tuple[int, Phase], int] = {}
    placed: dict[int, StageGpus] = {}
    for index in _widest_first(shapes):
        shape = shapes[index]
        size, phase = shape.parallelism.num_gpus, shape.phase
        hosts = [
            (given.get((number, phase), 0) / sizes[number], host.num_free, number)
            for number, host in enumerate(free.hosts)
            if host.gpu_type == shape.gpu_type and host.num_free >= size
        ]
        here, number = free, -1
        if hosts and not shape.has_unlike_stages:
            *_, number = min(hosts)
            here = FreeGpus(hosts=[free.hosts[number]], quota=free.quota)
        stages = here.take_replica(shape)
        if stages is None:
            return None
        given[number, phase] = given.get((number, phase), 0) + size
        placed[index] = stages
    return [placed[index] for index in range(len(shapes))]


def _place_on(free: FreeGpus, shapes: Sequence[ReplicaShape]) -> list[StageGpus] | None:
    placed: dict[int, StageGpus] = {}
    for index in _widest_first(shapes):
        stages = free.take_replica(shapes[index])
        if stages is None:
            return None
        placed[index] = stages
    return [placed[index] for index in range(len(shapes))]


def _widest_first(shapes: Sequence[ReplicaShape]) -> list[int]:
    """Indices of the replicas in the order in which they are placed."""
    ranks: list[int] = []
    seen: dict[Phase, int] = {}
    for shape in shapes:
        ranks.append(seen.get(shape.phase, 0))
        seen[shape.phase] = ranks[-1] + 1

    def key(index: int) -> tuple[int, int, int, int]:
        parallelism = shapes[index].parallelism
        return (-parallelism.gpus_per_stage, -parallelism.pp, ranks[index], index)

    return sorted(range(len(shapes)), key=key)
