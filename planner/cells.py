"""Cells: a large deployment as groups of replicas that are planned and judged apart.

Every prefill replica paired with every decode replica is a number of pairs that grows
with the square of the cluster, and nobody runs it so: routers serve a share of the
replicas each. Beyond `MOST_REPLICAS` replicas are dealt into cells with (nearly) the
same share of every shape. KV caches stay in a cell.

A request goes to a cell at random, in proportion to what the cells serve. A Poisson
process split at random is Poisson in every part, so a cell can be judged alone at its
own rate, and cells add up: where each keeps the SLO, all of them together do. A router
that looks at queues would do better still. Links that several cells share are slower
for each of them by the others' share of the KV traffic.

Cells with the same replicas are judged once, by the one whose routes are slowest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clusters.cluster import Cluster
from clusters.fields import InputError, spec
from planner.deployment import Deployment, Replica, ReplicaShape, Route
from planner.kv_shards import kv_transfer
from planner.placement import StageGpus
from planner.simulator.system import Phase, ServingSystem

if TYPE_CHECKING:
    from planner.serving import Planner

FloatArray = NDArray[np.float64]

MOST_REPLICAS = 64
"""More replicas than this are several cells."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKind:
    """Cells with the same replicas."""

    system: ServingSystem = spec("The one with the slowest routes.")
    cells: tuple[tuple[int, ...], ...] = spec(
        "Of each such cell, the replicas (indices) in the order of the system."
    )


def is_of_cells(num_replicas: int) -> bool:
    """Whether as many replicas are more than one cell."""
    return num_replicas > MOST_REPLICAS


def deal(cluster: Cluster, shapes: Sequence[ReplicaShape]) -> list[int]:
    """The cell of every replica, given in the order of their places.

    Cells get runs of replicas that lie beside each other, and the number of cells is
    the one (up to twice the least) that shares them out most evenly.
    """
    least = -(-len(shapes) // MOST_REPLICAS)
    if least == 1:
        return [0] * len(shapes)
    groups: dict[ReplicaShape, list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    by_phase = {
        phase: {s: places for s, places in groups.items() if s.phase is phase}
        for phase in Phase
    }
    sizes = [sum(map(len, each.values())) for each in by_phase.values() if each]
    weights = {shape: _weight(cluster, shape) for shape in groups}
    numbers = range(min(least, *sizes), min(2 * least, *sizes) + 1)
    best = min(numbers, key=lambda n: (round(_unevenness(by_phase, weights, n), 3), n))
    cells = [0] * len(shapes)
    for phase_groups in by_phase.values():
        for shape, counts in _shares(phase_groups, weights, best).items():
            places = iter(phase_groups[shape])
            for cell, count in enumerate(counts):
                for _ in range(count):
                    cells[next(places)] = cell
    return cells


def slices_by_part(
    cluster: Cluster, shapes: Sequence[ReplicaShape], placed: Sequence[StageGpus]
) -> list[int] | None:
    """Slices of replicas in parts of a cluster that nothing joins; None: all is joined.

    Many replicas in a part are dealt into several cells.

    Raises
    ------
    InputError
        When a part has replicas of prefill or decode alone.
    """
    parts = cluster.topology.components()
    if len(parts) == 1:
        return None
    both = {Phase.PREFILL, Phase.DECODE}
    is_split = both <= {shape.phase for shape in shapes}
    part_of = {gpu: number for number, part in enumerate(parts) for gpu in part}
    members: dict[int, list[int]] = {}
    for index, stage_gpus in enumerate(placed):
        members.setdefault(part_of[stage_gpus[0][0]], []).append(index)
    slices = [0] * len(placed)
    first = 0
    for _, indices in sorted(members.items()):
        phases = {shapes[i].phase for i in indices}
        if is_split and len(phases & both) == 1:
            form = "both phases in every part of the cluster"
            raise InputError("deployment", str(*phases), form)
        cells = deal(cluster, [shapes[i] for i in indices])
        for index, cell in zip(indices, cells, strict=True):
            slices[index] = first + cell
        first += max(cells) + 1
    return slices


Groups = dict[ReplicaShape, list[int]]


def _weight(cluster: Cluster, shape: ReplicaShape) -> float:
    """What a replica serves, roughly: by arithmetic in prefill, else by memory rate."""
    kinds = {gpu.name: gpu for gpu in cluster.gpu_types()}
    total = 0.0
    for name, width in zip(
        shape.gpu_types, shape.parallelism.stage_widths, strict=True
    ):
        rate = kinds[name].memory_bytes_per_s
        if shape.phase is Phase.PREFILL:
            rate = max(each.flops_per_s for each in kinds[name].flops)
        total += rate * width
    return total


def _shares(
    groups: Groups, weights: dict[ReplicaShape, float], num_cells: int
) -> dict[ReplicaShape, list[int]]:
    """Replicas of each shape for each cell: what is left over goes where least is."""
    loads = np.zeros(num_cells)
    shares = {}
    for shape in sorted(groups, key=lambda s: -weights[s]):
        whole, rest = divmod(len(groups[shape]), num_cells)
        counts = np.full(num_cells, whole)
        counts[np.argsort(loads, kind="stable")[:rest]] += 1
        loads += counts * weights[shape]
        shares[shape] = [int(count) for count in counts]
    return shares


def _unevenness(
    by_phase: dict[Phase, Groups], weights: dict[ReplicaShape, float], num_cells: int
) -> float:
    """Share of the best-served phase that the least cell lacks."""
    worst = 0.0
    for groups in by_phase.values():
        if groups:
            shares = _shares(groups, weights, num_cells)
            loads = sum(np.array(n) * weights[s] for s, n in shares.items())
            worst = max(worst, 1.0 - float(np.min(loads) / np.mean(loads)))
    return worst


def cell_kinds(planner: "Planner", deployment: Deployment) -> tuple[CellKind, ...]:
    """The cells of a large deployment by what they hold, the most frequent first."""
    cells = _cells_of(deployment)
    kinds: dict[tuple[tuple[ReplicaShape, int], ...], list[int]] = {}
    for number, members in enumerate(cells):
        pools = members.pools()
        key = tuple((pool.shape, len(pool.replicas)) for pool in pools)
        kinds.setdefault(key, []).append(number)
    loads = [_edge_loads(planner, members) for members in cells]
    total = np.sum(np.stack(loads), axis=0)
    index = {replica.name: i for i, replica in enumerate(deployment.replicas)}
    found = []
    for numbers in sorted(kinds.values(), key=lambda each: (-len(each), each)):
        slowest = max(numbers, key=lambda n: (_slowness(cells[n].routes), -n))
        own = loads[slowest]
        shared = np.flatnonzero((own > 0) & (total > own * (1.0 + _ROUNDING)))
        crowding = {int(edge): float(total[edge] / own[edge]) for edge in shared}
        found.append(
            CellKind(
                system=planner.system(cells[slowest], crowding=crowding),
                cells=tuple(
                    tuple(index[r.name] for r in cells[n].replicas) for n in numbers
                ),
            )
        )
    return tuple(found)


def _cells_of(deployment: Deployment) -> list[Deployment]:
    """Slices as cells; small ones that follow each other are one cell together."""
    members: dict[int, list[Replica]] = {}
    for replica in deployment.replicas:
        members.setdefault(replica.slice, []).append(replica)
    routes: dict[int, list[Route]] = {}
    slice_of = {replica.name: replica.slice for replica in deployment.replicas}
    for route in deployment.routes:
        routes.setdefault(slice_of[route.source], []).append(route)
    groups: list[list[int]] = []
    size = MOST_REPLICAS
    for part in sorted(members):
        if size >= MOST_REPLICAS // 3:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += len(members[part])
    found = []
    for group in groups:
        replicas = [replica for part in group for replica in members[part]]
        replicas.sort(key=lambda r: r.phase is not Phase.PREFILL)
        found.append(
            Deployment(
                replicas=tuple(replicas),
                routes=tuple(r for part in group for r in routes.get(part, [])),
                routing=deployment.routing,
            )
        )
    return found


def _edge_loads(planner: "Planner", cell: Deployment) -> FloatArray:
    """Share of the bytes of a cell that crosses each edge, every route alike."""
    cluster = planner.problem.cluster
    by_name = {replica.name: replica for replica in cell.replicas}
    edges: list[int] = []
    shares: list[float] = []
    for route in cell.routes:
        transfer = kv_transfer(
            planner.problem, by_name[route.source], by_name[route.target]
        )
        edges += transfer.edges
        shares += transfer.shares
    num_edges = len(cluster.topology.edges)
    loads = np.bincount(np.array(edges, dtype=np.int64), shares, minlength=num_edges)
    return loads / max(1, len(cell.routes))


def _slowness(routes: Sequence[Route]) -> float:
    """Mean time that a byte takes over the routes."""
    return sum(1.0 / route.bytes_per_s for route in routes) / max(1, len(routes))
