"""Units of low node-affinity: segments of both phases side by side on each node."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.deployment import Deployment
from planner.placement import FreeGpus, StageGpus
from planner.problem import Problem
from planner.search.ratios import Mix, RatedShape, gpu_budget
from planner.serving import Planner
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Prefill and decode instances over the same nodes."""

    mix: Mix = spec("Its instances.")
    num_nodes: int = spec("Nodes it is cut over.", unit="nodes", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)


def most_units(problem: Problem, unit: Unit) -> int:
    """How often a unit goes into the GPUs and replicas that a plan may use."""
    most = gpu_budget(problem) // unit.mix.num_gpus
    if problem.search.max_replicas:
        widest = max(count for _, count in unit.mix.counts)
        most = min(most, problem.search.max_replicas // widest)
    return most


def repetitions(problem: Problem, unit: Unit, rate_rps: float) -> range:
    """Numbers of units to try after one, the likeliest first.

    With a target rate as many as it takes, and more if they do not reach it; without
    one as many as fit.
    """
    most = most_units(problem, unit)
    target = problem.service.workload.rate_rps or 0.0
    needs_rate = problem.objective.needs_rate
    if rate_rps <= 0 or (needs_rate and rate_rps >= target):
        return range(0)
    if not needs_rate:
        return range(most, 1, -1)
    return range(min(most, math.ceil(target / rate_rps)), most + 1)


def ranked_units(
    problem: Problem, prefills: Sequence[RatedShape], decodes: Sequence[RatedShape]
) -> list[Unit]:
    """All units that a set of nodes can hold, the best promise first."""
    widest = max(len(node.slots) for node in problem.cluster.nodes)
    budget = gpu_budget(problem)
    num_nodes = len(problem.cluster.nodes)
    cap = problem.search.max_replicas or widest
    units = []
    for prefill in prefills:
        for decode in decodes:
            if prefill.shape.gpu_type != decode.shape.gpu_type:
                continue
            stages = (prefill.shape.parallelism.pp, decode.shape.parallelism.pp)
            for cut in range(1, min(num_nodes, *stages) + 1):
                if stages[0] % cut or stages[1] % cut:
                    continue
                room = min(widest * cut, budget)
                for mix in _fillings(prefill, decode, room, cap):
                    units.append(Unit(mix=mix, num_nodes=cut))
    return sorted(units, key=lambda unit: _promise(problem, unit))


def _promise(problem: Problem, unit: Unit) -> tuple[float, ...]:
    """Sort key: the best use of GPUs first; a unit is replicated, so size follows."""
    mix = unit.mix
    if mix.promised_rps <= 0:
        return mix.rank(problem)
    return (-mix.promised_rps / mix.num_gpus, mix.num_gpus)


def _fillings(
    prefill: RatedShape, decode: RatedShape, num_gpus: int, cap: int
) -> list[Mix]:
    """Numbers of instances of both phases that fit `num_gpus` together."""
    found = []
    for x in range(1, min(cap, (num_gpus - decode.num_gpus) // prefill.num_gpus) + 1):
        left = num_gpus - x * prefill.num_gpus
        for y in range(1, min(cap, left // decode.num_gpus) + 1):
            promised = min(x * prefill.rate_rps, y * decode.rate_rps)
            # Nothing promised: a best effort still needs candidates, one of each.
            if promised > 0 or x == y == 1:
                counts = ((prefill, x), (decode, y))
                found.append(Mix(counts=counts, promised_rps=promised))
    return found


def place_units(planner: Planner, unit: Unit, num_units: int) -> Deployment | None:
    """Units with a pairing group each; None when they do not fit the nodes."""
    free = FreeGpus.of(planner.problem.cluster)
    shapes, placed, slices = [], [], []
    for index in range(num_units):
        taken = _take_unit(free, unit)
        if taken is None:
            return None
        shapes += list(unit.mix.shapes)
        placed += taken
        slices += [index] * len(taken)
    order = sorted(
        range(len(shapes)), key=lambda i: (shapes[i].phase is not Phase.PREFILL, i)
    )
    return planner.deploy_if_joined(
        [shapes[i] for i in order],
        [placed[i] for i in order],
        [slices[i] for i in order],
    )


def _take_unit(free: FreeGpus, unit: Unit) -> list[StageGpus] | None:
    """GPUs of every instance: segment s of all of them on the s-th host."""
    shapes = unit.mix.shapes
    per_host = unit.mix.num_gpus // unit.num_nodes
    hosts = [
        host
        for host in sorted(free.hosts, key=lambda host: host.num_free)
        if host.gpu_type == shapes[0].gpu_type and host.num_free >= per_host
    ][: unit.num_nodes]
    if len(hosts) < unit.num_nodes:
        return None
    stages: list[list[tuple[int, ...]]] = [[] for _ in shapes]
    for host in hosts:
        by_width = sorted(
            range(len(shapes)), key=lambda i: -shapes[i].parallelism.gpus_per_stage
        )
        for index in by_width:
            parallelism = shapes[index].parallelism
            for _ in range(parallelism.pp // unit.num_nodes):
                stages[index].append(host.take(parallelism.gpus_per_stage))
    return [tuple(each) for each in stages]
