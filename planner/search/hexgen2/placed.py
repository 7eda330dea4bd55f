"""From a grouping to deployments: replicas where their groups are, and slices."""

from collections.abc import Sequence

from planner.deployment import Deployment
from planner.search.hexgen2.grouping import Judged
from planner.search.hexgen2.strategy import Strategy
from planner.serving import Planner
from planner.simulator.system import Phase


def deployments(planner: Planner, judged: Judged) -> list[Deployment]:
    """KV caches free to go wherever a way leads, and kept within nodes.

    The second only where all replicas lie on nodes that hold both phases, in two sets
    or more. Replicas that no way joins to one of the other phase are left out.
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
    kept = _paired(replicas, anywhere)
    if not kept:
        return []
    chosen = [replicas[i] for i in kept]
    parts = _numbered([anywhere[i] for i in kept])
    domains = [{topology.domain_of(gpu) for gpu in s.gpus} for _, s in chosen]
    nodes = _numbered(_joined(domains))
    slicings = [parts]
    if nodes != parts and len(_paired(chosen, nodes)) == len(chosen):
        slicings.append(nodes)
    return [_deployed(planner, chosen, slices) for slices in slicings]


def _paired(
    replicas: Sequence[tuple[Phase, Strategy]], parts: Sequence[int]
) -> list[int]:
    """Indices of the replicas whose part has both phases."""
    phases: dict[int, set[Phase]] = {}
    for (phase, _), part in zip(replicas, parts, strict=True):
        phases.setdefault(part, set()).add(phase)
    return [i for i, part in enumerate(parts) if len(phases[part]) > 1]


def _joined(sets: Sequence[set[str]]) -> list[int]:
    """Numbers that are equal for sets with members in common, also over others."""
    parts: list[set[str]] = []
    for each in sets:
        touching = [part for part in parts if part & each]
        parts = [part for part in parts if not part & each]
        parts.append(each.union(*touching))
    return [next(i for i, part in enumerate(parts) if each <= part) for each in sets]


def _numbered(parts: Sequence[int]) -> list[int]:
    """Parts counted from 0 in order of appearance."""
    order = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    return [order[part] for part in parts]


def _deployed(
    planner: Planner, replicas: Sequence[tuple[Phase, Strategy]], slices: list[int]
) -> Deployment:
    return planner.deploy_at(
        [strategy.rated.shape for _, strategy in replicas],
        [strategy.stage_gpus for _, strategy in replicas],
        slices if max(slices) > 0 else None,
    )
