"""An LLM whose phases have units of their own, as the simulator of one service runs it.

Its prefill-only and decode-only units are the replicas of a deployment with KV routes
over the cluster's links; nothing else runs on their GPUs. Links that KV caches of
several LLMs cross are as much slower as there are LLMs on them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from clusters.fields import spec
from models.parallelism import Parallelism
from planner.deployment import Deployment, ReplicaShape
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.placed import PlacedUnits
from planner.problem import Problem
from planner.serving import Planner
from planner.simulator.outcome import ReplicaStats, SimulationResult
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
    quotas = {each.gpu_indices: each.unit.members[0].kv_quota_tokens for each in own}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedApart:
    """What became of one service whose phases are apart."""

    result: SimulationResult = spec("Times of its requests.")
    by_unit: Mapping[int, ReplicaStats] = spec("Counters by index of the unit.")


def serve_apart(
    book: CostBook, placed: PlacedUnits, traffic: Mapping[str, Requests]
) -> dict[str, ServedApart]:
    """Serve the requests of services on their prefill-only and decode-only units.

    Parameters
    ----------
    book
        Costs of the LLMs.
    placed
        The units, on GPUs.
    traffic
        Requests of each service that go to units of this kind.

    Returns
    -------
    dict[str, ServedApart]
        By service.
    """
    deployments = {name: deployment_of(book, placed, name) for name in traffic}
    crowding = crowding_of(deployments)
    unit_of = {each.gpu_indices: index for index, each in enumerate(placed.units)}
    found = {}
    for name, deployment in deployments.items():
        system = planner_of(book, name).system(deployment, crowding=crowding[name])
        result = simulate(system, traffic[name])
        by_unit = {
            unit_of[replica.gpu_indices]: stats
            for replica, stats in zip(deployment.replicas, result.replicas, strict=True)
        }
        found[name] = ServedApart(result=result, by_unit=by_unit)
    return found
