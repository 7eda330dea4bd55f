"""Placements: every way to lay replicas on the GPUs of a cluster, and to pair them.

Reference
    None: complete enumeration, less what is the same but for names.

Idea
    GPUs of a host (a node, or an NVLink domain) are equal where two of them may change
    places and no link to any other changes. Hosts are never taken to be equal: routers
    break ties by the order of replicas, and that changes with the hosts.

Steps
    1. Neighbours that are equal form a run (`Seats`).
    2. A stage is told by how many GPUs it has of each run of one host (`placements`).
    3. Replicas are dealt out to slices, within which KV caches stay (`slicings`).
    4. Systems that differ only in names are told to be the same (`signature`).

Differences from the paper
    - not applicable

Assumes   few GPUs; replicas of one shape follow each other
Cost      exponential in the replicas; milliseconds to seconds on 8 GPUs
Guarantee whichever GPUs a method takes: what keeps tensor-parallel groups on a host is
          to the simulator one of these
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from clusters.cluster import Cluster
from clusters.fields import InputError, spec
from clusters.links import Edge
from clusters.topology import Topology
from planner.deployment import ReplicaShape
from planner.placement import FreeGpus, StageGpus
from planner.simulator.system import Phase, ServingSystem

_Part = tuple[tuple[int, int], ...]
"""Of a stage: numbers of runs, rising, and how many GPUs it has of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """GPUs of a cluster as runs of equal ones, by host."""

    runs: tuple[tuple[int, ...], ...] = spec("GPUs (indices) of every run.")
    hosts: tuple[tuple[str, tuple[int, ...]], ...] = spec(
        "GPU type of every host, and its runs (indices)."
    )

    @classmethod
    def of(cls, cluster: Cluster) -> "Seats":
        """All GPUs of a cluster."""
        runs: list[tuple[int, ...]] = []
        hosts = []
        for host in FreeGpus.of(cluster).hosts:
            first = len(runs)
            runs += _runs(cluster.topology, host.islands)
            hosts.append((host.gpu_type, tuple(range(first, len(runs)))))
        order = sorted(range(len(runs)), key=lambda run: runs[run])
        place = {run: number for number, run in enumerate(order)}
        return cls(
            runs=tuple(runs[run] for run in order),
            hosts=tuple((name, tuple(place[r] for r in own)) for name, own in hosts),
        )


def _runs(
    topology: Topology, islands: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """GPUs of a host in runs of neighbours that are equal."""
    members = sorted(gpu for island in islands for gpu in island)
    found: list[list[int]] = []
    for gpu in members:
        last = found[-1][-1] if found else None
        if last == gpu - 1:
            near = {*members, *topology.gpus_of_node(topology.gpu(gpu).node)}
            if _are_equal(topology, last, gpu, near):
                found[-1].append(gpu)
                continue
        found.append([gpu])
    return [tuple(run) for run in found]


def _are_equal(topology: Topology, a: int, b: int, near: set[int]) -> bool:
    """Whether no link changes when two GPUs of a node change places.

    Ways to GPUs beyond those `near` differ only by their far ends: one is enough.
    """
    if topology.gpu(a).node != topology.gpu(b).node:
        return False
    outside = (gpu.index for gpu in topology.gpus if gpu.index not in near)
    others = [
        *sorted(near - {a, b}),
        *([far] if (far := next(outside, -1)) >= 0 else []),
    ]
    names = {topology.gpu(a).name: topology.gpu(b).name}
    names |= {new: old for old, new in names.items()}
    pairs = [((a, b), (b, a))]
    pairs += [((a, other), (b, other)) for other in others]
    pairs += [((other, a), (other, b)) for other in others]
    return all(
        _way(topology, *one, names) == _way(topology, *other, {})
        for one, other in pairs
    )


def _way(
    topology: Topology, source: int, target: int, names: Mapping[str, str]
) -> list[tuple[str, str, float, float]] | None:
    """Links between two GPUs with some vertices renamed; None where there is no way."""
    try:
        edges: list[Edge] = [
            topology.edges[edge] for edge in topology.path(source, target).edges
        ]
    except InputError:
        return None
    return [
        (
            names.get(edge.source, edge.source),
            names.get(edge.target, edge.target),
            edge.bytes_per_s,
            edge.latency_ms,
        )
        for edge in edges
    ]


def placements(
    seats: Seats, shapes: Sequence[ReplicaShape]
) -> Iterator[list[StageGpus]]:
    """Every way to lay replicas out, in their order; equal ones follow each other.

    Stages are on one host each. Of replicas of one shape the first stages lie in
    rising runs, since their order is that of their GPUs.
    """
    left = [len(run) for run in seats.runs]
    stages = [
        (index, name, width)
        for index, shape in enumerate(shapes)
        for name, width in zip(
            shape.gpu_types, shape.parallelism.stage_widths, strict=True
        )
    ]
    chosen: list[_Part] = []
    starts = [
        number == 0 or stages[number - 1][0] != stage[0]
        for number, stage in enumerate(stages)
    ]

    def least_run(number: int) -> int:
        """The run where the first stage of a replica may begin."""
        index = stages[number][0]
        if not starts[number] or index == 0 or shapes[index] != shapes[index - 1]:
            return 0
        before = next(n for n, stage in enumerate(stages) if stage[0] == index - 1)
        return chosen[before][0][0]

    def lay(number: int) -> Iterator[list[StageGpus]]:
        if number == len(stages):
            yield _on_gpus(seats, [index for index, *_ in stages], chosen)
            return
        _, name, width = stages[number]
        least = least_run(number)
        for gpu_type, runs in seats.hosts:
            if gpu_type != name:
                continue
            for part in _parts(runs, left, width):
                if part[0][0] < least:
                    continue
                for run, count in part:
                    left[run] -= count
                chosen.append(part)
                yield from lay(number + 1)
                chosen.pop()
                for run, count in part:
                    left[run] += count

    yield from lay(0)


def _parts(runs: Sequence[int], left: Sequence[int], width: int) -> Iterator[_Part]:
    """Ways to take `width` GPUs of some runs, of each no more than are left."""
    if width == 0:
        yield ()
        return
    for position, run in enumerate(runs):
        for count in range(min(left[run], width), 0, -1):
            for tail in _parts(runs[position + 1 :], left, width - count):
                yield ((run, count), *tail)


def _on_gpus(
    seats: Seats, owners: Sequence[int], chosen: Sequence[_Part]
) -> list[StageGpus]:
    """The GPUs of every stage of every replica, the first of a run first."""
    taken = [0] * len(seats.runs)
    placed: list[list[tuple[int, ...]]] = [[] for _ in range(max(owners) + 1)]
    for owner, part in zip(owners, chosen, strict=True):
        gpus: list[int] = []
        for run, count in part:
            gpus += seats.runs[run][taken[run] : taken[run] + count]
            taken[run] += count
        placed[owner].append(tuple(sorted(gpus)))
    return [tuple(stages) for stages in placed]


def slicings(phases: Sequence[Phase]) -> Iterator[tuple[int, ...]]:
    """Every way to deal replicas out to slices of both phases, two or more."""
    numbers = [phases.count(phase) for phase in (Phase.PREFILL, Phase.DECODE)]
    for num_slices in range(2, min(numbers) + 1):
        for dealt in product(range(num_slices), repeat=len(phases)):
            of_phase: dict[Phase, set[int]] = {}
            for phase, part in zip(phases, dealt, strict=True):
                of_phase.setdefault(phase, set()).add(part)
            if all(len(parts) == num_slices for parts in of_phase.values()):
                yield dealt


def signature(system: ServingSystem) -> tuple[object, ...]:
    """What tells systems of one problem apart: all but the names of links and slices.

    A link is the routes that cross it, and how long a byte of each takes there.
    """
    slices: dict[int, int] = {}
    links: dict[str, list[tuple[int, float]]] = {}
    for number, route in enumerate(system.routes):
        for share in route.edges:
            links.setdefault(share.edge, []).append((number, share.ms_per_byte))
    replicas = [
        (
            replica.phase,
            # Replicas of a shape share their tables where their links are the same.
            tuple(id(stage) for stage in replica.stages),
            replica.limits,
            replica.kv_capacity_tokens,
            slices.setdefault(replica.slice, len(slices)),
        )
        for replica in system.replicas
    ]
    routes = [(r.source, r.target, r.latency_ms, r.ms_per_byte) for r in system.routes]
    return (tuple(replicas), tuple(routes), tuple(sorted(map(tuple, links.values()))))
