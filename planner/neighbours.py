"""Neighbours of a deployment: one replica more or fewer, the others where they are."""

from collections.abc import Sequence
from dataclasses import replace

from planner.deployment import Deployment, Replica
from planner.placement import FreeGpus
from planner.serving import Planner
from planner.simulator.system import Phase


def neighbours(planner: Planner, deployment: Deployment) -> dict[str, Deployment]:
    """Deployments with one replica more or fewer of a pool, by what changes.

    Replicas are added on GPUs that are free, if there are any. Where KV caches stay
    within slices, whole slices are added and removed.
    """
    last = max(replica.slice for replica in deployment.replicas)
    if last > 0:
        members = tuple(r for r in deployment.replicas if r.slice == last)
        groups = {f"slice ({len(members)} replicas)": members}
    else:
        groups = {str(pool.shape): pool.replicas[-1:] for pool in deployment.pools()}
    found = {}
    for name, group in groups.items():
        for change, changed_to in (
            (f"+ 1 {name}", _with_more(planner, deployment, group)),
            (f"- 1 {name}", _with_fewer(planner, deployment, group)),
        ):
            if changed_to is not None:
                found[change] = changed_to
    return found


def _with_more(
    planner: Planner, deployment: Deployment, group: Sequence[Replica]
) -> Deployment | None:
    """A copy of some replicas added on free GPUs; None when they do not fit."""
    free = FreeGpus.of(planner.problem.cluster)
    used = set(deployment.gpu_indices)
    for host in free.hosts:
        host.islands = [[g for g in island if g not in used] for island in host.islands]
    slices = {replica.slice for replica in deployment.replicas}
    added = []
    for replica in group:
        stage_gpus = free.take_replica(replica.shape)
        if stage_gpus is None:
            return None
        part = max(slices) + 1 if len(slices) > 1 else replica.slice
        added.append(replace(replica, stage_gpus=stage_gpus, slice=part))
    return _redeployed(planner, (*deployment.replicas, *added))


def _with_fewer(
    planner: Planner, deployment: Deployment, group: Sequence[Replica]
) -> Deployment | None:
    """The deployment without some replicas; None when a phase would be left empty."""
    left = [replica for replica in deployment.replicas if replica not in group]
    phases = {replica.phase for replica in deployment.replicas}
    if {replica.phase for replica in left} != phases:
        return None
    return _redeployed(planner, left)


def _redeployed(planner: Planner, replicas: Sequence[Replica]) -> Deployment:
    """Replicas in their places, with new names and routes."""
    ordered = sorted(replicas, key=lambda each: each.phase is not Phase.PREFILL)
    return planner.deploy_at(
        [replica.shape for replica in ordered],
        [replica.stage_gpus for replica in ordered],
        [replica.slice for replica in ordered],
    )


def ratio_of(deployment: Deployment) -> str:
    """Numbers of replicas, e.g. ``2P1D``, or ``3 aggregated``."""
    prefill, decode, both = (
        len(deployment.of_phase(phase))
        for phase in (Phase.PREFILL, Phase.DECODE, Phase.AGGREGATED)
    )
    return (
        f"{prefill}P{decode}D" if deployment.is_disaggregated else f"{both} aggregated"
    )
