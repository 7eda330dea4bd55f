"""An LLM whose phases have units of their own, as the simulator of one service runs it.

Its prefill-only and decode-only units are the replicas of a deployment with KV routes
over the cluster's links; nothing else runs on their GPUs. Links that KV caches of
several LLMs cross are as much slower as there are LLMs on them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from models.parallelism import Parallelism
from planner.deployment import Deployment, ReplicaShape
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.placed import PlacedUnits
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
    replicas = tuple(
        replace(
            replica,
            kv_capacity_tokens=min(
                replica.kv_capacity_tokens, each.unit.members[0].kv_quota_tokens
            ),
        )
        for replica, each in zip(found.replicas, own, strict=True)
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


def serve_apart(
    book: CostBook, placed: PlacedUnits, traffic: Mapping[str, Requests]
) -> dict[str, SimulationResult]:
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
    dict[str, SimulationResult]
        By service; its replicas are in the order of `placed.apart(service)`.
    """
    deployments = {name: deployment_of(book, placed, name) for name in traffic}
    crowding = crowding_of(deployments)
    return {
        name: simulate(
            planner_of(book, name).system(deployment, crowding=crowding[name]),
            traffic[name],
        )
        for name, deployment in deployments.items()
    }
