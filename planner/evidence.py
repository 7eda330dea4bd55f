"""Where the numbers of a plan come from, and what a reader should be careful about."""

from planner.deployment import Deployment
from planner.plan import ShapeEvidence
from planner.serving import Planner, replica_memory, stage_types

LARGE_ERROR_FRAC = 0.15
"""Expected error of latencies from which a plan warns."""


def evidence_of(planner: Planner, deployment: Deployment) -> tuple[ShapeEvidence, ...]:
    """Where the latencies and the memory of each pool come from."""
    found = []
    for pool in deployment.pools():
        replica = pool.replicas[0]
        choice = planner.latency(replica.shape, replica.stage_gpus)
        gpus = stage_types(planner.problem.cluster.topology, replica.stage_gpus)
        memory = replica_memory(
            planner.problem, replica.parallelism, gpus, replica.limits
        )
        found.append(
            ShapeEvidence(
                shape=str(pool.shape),
                num_replicas=len(pool.replicas),
                latency_source=choice.source,
                latency_provenance=str(choice.provenance),
                latency_reason=choice.reason,
                expected_error_frac=choice.expected_error_frac,
                weights_bytes=memory.weights_bytes,
                kv_capacity_tokens=replica.kv_capacity_tokens,
            )
        )
    return tuple(found)


def warnings_of(planner: Planner, deployment: Deployment) -> tuple[str, ...]:
    """What a reader of the plan should be careful about."""
    found = []
    for evidence in evidence_of(planner, deployment):
        error = evidence.expected_error_frac
        if error is not None and error > LARGE_ERROR_FRAC:
            found.append(
                f"{evidence.shape}: latencies are {evidence.latency_provenance} with "
                f"an expected error of {error:.0%}; measure before you buy"
            )
    num_parts = len(planner.problem.cluster.topology.components())
    if num_parts > 1:
        found.append(
            f"the cluster has {num_parts} parts that nothing joins: KV caches stay "
            "within each"
        )
    return tuple(found)
