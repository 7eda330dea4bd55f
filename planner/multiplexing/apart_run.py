"""An LLM whose phases have units of their own, as the simulator of one service runs it.

Its prefill-only and decode-only units are the replicas of a deployment with KV routes
over the cluster's links; nothing else runs on their GPUs. Links that KV caches of
several LLMs cross are as much slower as there are LLMs on them. LLMs that share such
units are served together (`shared_phases`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clusters.fields import spec
from models.parallelism import Parallelism
from planner.deployment import Deployment, ReplicaShape
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.placed import PlacedUnits
from planner.multiplexing.shared_phases import (
    serve_shared_phases,
    sharing_phases,
    unit_routes,
)
from planner.multiplexing.unit import LlmUnit
from planner.multiplexing.unit_load import UnitLoad
from planner.multiplexing.unit_run import Scheduling, UnitResult, simulate_unit
from planner.problem import Problem
from planner.serving import Planner
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.workload.requests import Requests


def planner_of(book: CostBook, service: str) -> Planner:
    """The planner of one service alone on the cluster."""
    shared = book.problem
    alone = Problem(
        cluster=shared.cluster,
        services=tuple(each for each in shared.services if each.name == service),
        engine=shared.engine,
    )
    return Planner(problem=alone, library=book.library)


def deployment_of(book: CostBook, placed: PlacedUnits, service: str) -> Deployment:
    """The prefill-only and decode-only units of a service as one deployment."""
    own = [placed.units[index] for index in placed.apart(service)]
    shapes = [
        ReplicaShape(
            phase=each.unit.phase,
            gpu_type=each.unit.mesh.gpu_type,
            parallelism=Parallelism(tp=each.unit.mesh.num_gpus),
        )
        for each in own
    ]
    found = planner_of(book, service).deploy_at(
        shapes, [(each.gpu_indices,) for each in own], [0] * len(own)
    )
    quotas = {
        each.gpu_indices: member.kv_quota_tokens
        for each in own
        for member in each.unit.members
        if member.service == service
    }
    replicas = tuple(
        replace(
            replica,
            kv_capacity_tokens=min(
                replica.kv_capacity_tokens, quotas[replica.gpu_indices]
            ),
        )
        for replica in found.replicas
    )
    return replace(found, replicas=replicas)


def crowding_of(deployments: Mapping[str, Deployment]) -> dict[str, dict[int, float]]:
    """By service how many services' KV caches cross each link of its routes."""
    edges = {
        service: {edge for route in each.routes for edge in route.edges}
        for service, each in deployments.items()
    }
    crossing = Counter(edge for own in edges.values() for edge in own)
    return {
        service: {edge: float(crossing[edge]) for edge in sorted(own)}
        for service, own in edges.items()
    }


def _others_on(
    deployments: Mapping[str, Deployment], services: Sequence[str]
) -> dict[int, float]:
    """Slowdown of links by services beside those that are served together."""
    alone = {name: deployments[name] for name in services}
    return {
        edge: 1.0 + count
        for own in crowding_of(alone).values()
        for edge, count in own.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedApart:
    """What became of services whose phases are apart."""

    services: Mapping[str, SimulationResult] = spec("Times of each one's requests.")
    loads: Mapping[int, UnitLoad] = spec("By index of the unit, those with requests.")

    def load_of(self, index: int, placed: PlacedUnits) -> UnitLoad:
        """How busy a unit was."""
        idle = UnitLoad.idle(len(placed.units[index].unit.members))
        return self.loads.get(index, idle)


def serve_apart(
    book: CostBook,
    placed: PlacedUnits,
    traffic: Mapping[str, Requests],
    *,
    scheduling: Scheduling = Scheduling.ADBS,
) -> ServedApart:
    """Serve the requests of services on their prefill-only and decode-only units.

    Parameters
    ----------
    book
        Costs of the LLMs.
    placed
        The units, on GPUs.
    traffic
        Requests of each service that go to units of this kind.
    scheduling
        What becomes of KV quotas where services share units.
    """
    deployments = {name: deployment_of(book, placed, name) for name in traffic}
    together = sharing_phases(placed, tuple(traffic))
    alone = [name for name in traffic if name not in together]
    crowding = crowding_of(deployments)
    systems = {
        name: planner_of(book, name).system(each, crowding=crowding[name])
        for name, each in deployments.items()
    }
    unit_of = {each.gpu_indices: index for index, each in enumerate(placed.units)}
    budget = book.problem.engine.limits.max_batch_tokens

    def run(unit: LlmUnit, requests: Mapping[str, Requests]) -> UnitResult:
        return simulate_unit(
            unit, book, requests, max_batch_tokens=budget, scheduling=scheduling
        )

    services, by_unit = serve_shared_phases(
        placed,
        {name: traffic[name] for name in together},
        unit_routes(book.problem, placed, together, _others_on(deployments, alone)),
        {name: systems[name].kv_bytes_per_token for name in together},
        run,
    )
    loads = {index: UnitLoad.of_unit(result) for index, result in by_unit.items()}
    for name in alone:
        services[name] = simulate(systems[name], traffic[name])
        stats, replicas = services[name].replicas, deployments[name].replicas
        for replica, each in zip(replicas, stats, strict=True):
            loads[unit_of[replica.gpu_indices]] = UnitLoad.of_replica(each)
    return ServedApart(services=services, loads=loads)
