"""The fleet of a problem: its cluster as machines that hold layers of its model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from clusters.fields import spec
from clusters.topology import Topology
from models.latency.library import LatencyLibrary, LatencyUnavailableError
from models.parallelism import Parallelism
from models.shapes import ACTIVATION_BYTES
from planner.pipelines.costs import (
    CostedFleet,
    MachineCosts,
    TypicalLoad,
    machine_costs,
    typical_rates,
)
from planner.pipelines.fleet import Fleet, FloatArray, MachineKind
from planner.placement import FreeGpus
from planner.problem import Problem

_TOKEN_BYTES = 4.0
"""A token on its own: its number."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProblemFleet:
    """Machines of a problem, their costs, and the GPUs behind them."""

    machines: CostedFleet = spec("Machines, links and costs.")
    gpus: tuple[tuple[int, ...], ...] = spec("GPUs of every machine.", unit="index")


def problem_fleet(problem: Problem, library: LatencyLibrary) -> ProblemFleet | None:
    """Every tensor-parallel group of a node as a machine; None when none can serve.

    A machine is as wide as the model and the node's NVLink island allow. GPU types that
    hold not a layer, or that no latency covers, are left out.
    """
    topology = problem.cluster.topology
    load = _load(problem)
    groups, names = [], []
    costs: dict[str, MachineCosts] = {}
    for gpus in _groups(problem):
        name = f"{topology.gpu(gpus[0]).type.name} TP{len(gpus)}"
        if name not in costs:
            found = _costs(problem, library, gpus)
            if found is None:
                continue
            costs[name] = found
        groups.append(gpus)
        names.append(name)
    if not groups:
        return None
    counts = {name: names.count(name) for name in costs}
    llm = problem.service.llm
    rates = typical_rates(costs, counts, llm.num_layers, load)
    link_bytes_per_s, link_latency_ms = _links(topology, groups)
    kinds = {
        name: MachineKind(
            name=name,
            tokens_per_s=rates[name],
            nic_bytes_per_s=float(link_bytes_per_s.max()),
        )
        for name in costs
    }
    fleet = Fleet(
        kinds=tuple(kinds[name] for name in names),
        num_layers=llm.num_layers,
        token_bytes=_TOKEN_BYTES,
        activation_bytes=float(ACTIVATION_BYTES * llm.hidden),
        coordinator_bytes_per_s=float(link_bytes_per_s.max()),
        link_bytes_per_s=link_bytes_per_s,
        link_latency_ms=link_latency_ms,
    )
    machines = CostedFleet(fleet=fleet, costs=costs)
    return ProblemFleet(machines=machines, gpus=tuple(groups))


def _load(problem: Problem) -> TypicalLoad:
    workload = problem.service.workload
    return TypicalLoad(
        input_tokens=workload.mean_input_tokens,
        output_tokens=workload.mean_output_tokens,
    )


def _groups(problem: Problem) -> list[tuple[int, ...]]:
    """GPUs cut into tensor-parallel groups, island by island, widest first."""
    wanted = problem.search.gpu_types
    groups = []
    for host in FreeGpus.of(problem.cluster).hosts:
        if wanted and host.gpu_type not in wanted:
            continue
        for island in host.islands:
            left = list(island)
            while left:
                width = _width(problem, len(left))
                groups.append(tuple(left[:width]))
                del left[:width]
    return sorted(groups)


def _width(problem: Problem, num_gpus: int) -> int:
    """The widest tensor parallelism over at most `num_gpus` that divides the model."""
    degrees = problem.search.tp or range(1, num_gpus + 1)
    llm = problem.service.llm
    fitting = [
        tp
        for tp in degrees
        if tp <= num_gpus and Parallelism(tp=tp).why_not(llm) is None
    ]
    return max(fitting, default=1)


def _costs(
    problem: Problem, library: LatencyLibrary, gpus: Sequence[int]
) -> MachineCosts | None:
    topology = problem.cluster.topology
    try:
        return machine_costs(
            library,
            problem.service.llm,
            topology.gpu(gpus[0]).type,
            ring=topology.ring(gpus),
            num_gpus=len(gpus),
            memory=problem.engine.memory,
        )
    except LatencyUnavailableError:
        return None


def _links(
    topology: Topology, groups: Sequence[tuple[int, ...]]
) -> tuple[FloatArray, FloatArray]:
    """Rates and latencies between the groups; the coordinator is beside every one.

    Groups that nothing joins have a rate of 0.
    """
    side = len(groups) + 1
    island = {
        gpu: index
        for index, members in enumerate(topology.components())
        for gpu in members
    }
    rates, latencies = np.zeros((side, side)), np.zeros((side, side))
    for one, other in permutations(range(len(groups)), 2):
        if island[groups[one][0]] == island[groups[other][0]]:
            path = topology.route(groups[one], groups[other])
            rates[one, other] = path.bytes_per_s
            latencies[one, other] = path.latency_ms
    own = max(float(rates.max()), topology.gpu(groups[0][0]).type.memory_bytes_per_s)
    rates[-1, :-1] = rates[:-1, -1] = own
    return rates, latencies
