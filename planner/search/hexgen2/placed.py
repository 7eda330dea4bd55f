"""From a grouping to deployments: replicas where their groups are, and slices."""

from collections.abc import Sequence

from planner.deployment import Deployment
from planner.places.slices import by_host, numbered, paired
from planner.search.hexgen2.grouping import Judged
from planner.search.hexgen2.strategy import Strategy
from planner.serving import Planner
from planner.simulator.system import Phase


def deployments(planner: Planner, judged: Judged) -> list[Deployment]:
    """KV caches free to go wherever a way leads, and kept on hosts.

    The second with the replicas on hosts that hold both phases, in two sets or more,
    or one where others are left out. Replicas that no way joins to one of the other
    phase are left out of both.
    """
    replicas = [
        (phase, strategy)
        for phase in (Phase.PREFILL, Phase.DECODE)
        for strategy in judged.replicas(phase)
    ]
    topology = planner.problem.cluster.topology
    part_of = {
        gpu: part
        for part, members in enumerate(topology.components())
        for gpu in members
    }
    anywhere = [part_of[strategy.gpus[0]] for _, strategy in replicas]
    hosts = by_host(topology, [strategy.stage_gpus for _, strategy in replicas])
    found: dict[tuple[tuple[int, int], ...], Deployment] = {}
    for parts in (anywhere, hosts):
        kept = paired([phase for phase, _ in replicas], parts)
        slices = numbered([parts[i] for i in kept])
        key = tuple(zip(kept, slices, strict=True))
        if not kept or key in found:
            continue
        chosen = [replicas[i] for i in kept]
        if found and len(kept) < len(replicas):
            before = _rate_rps(planner, replicas)
            if _rate_rps(planner, chosen, slices) <= before:
                continue
        found[key] = _deployed(planner, chosen, slices)
    return list(found.values())


def _rate_rps(
    planner: Planner,
    replicas: Sequence[tuple[Phase, Strategy]],
    slices: Sequence[int] | None = None,
) -> float:
    """What replicas promise by their place flow."""
    shapes = [strategy.rated.shape for _, strategy in replicas]
    placed = [strategy.stage_gpus for _, strategy in replicas]
    flow = planner.place_search.flows.flow(shapes, placed, slices)
    return 0.0 if flow is None else flow.rate_rps


def _deployed(
    planner: Planner, replicas: Sequence[tuple[Phase, Strategy]], slices: list[int]
) -> Deployment:
    return planner.deploy_at(
        [strategy.rated.shape for _, strategy in replicas],
        [strategy.stage_gpus for _, strategy in replicas],
        slices if max(slices) > 0 else None,
    )
