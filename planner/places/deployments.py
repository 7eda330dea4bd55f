"""Deployments by place: where rules put replicas, or where the KV flow is highest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.cells import is_of_cells
from planner.deployment import Deployment, ReplicaShape
from planner.placement import StageGpus, place, place_evenly, place_on_few
from planner.places.search import Found
from planner.simulator.system import Phase

if TYPE_CHECKING:
    from planner.serving import Planner


def deployed(planner: "Planner", shapes: Sequence[ReplicaShape]) -> Deployment | None:
    """Replicas by `planner.placement`; where links are short, by the KV flow.

    None when they do not fit. `shapes` are in the order of a deployment.
    """
    starts = by_rules(planner, shapes)
    ruled = _by_rules_alone(planner, shapes, starts)
    if ruled is None or not ruled.routes or is_of_cells(len(shapes)):
        return ruled
    if any(replica.slice for replica in ruled.replicas):
        return ruled  # parts of the cluster that nothing joins
    first = [replica.stage_gpus for replica in ruled.replicas]
    found = planner.place_search.best(shapes, [first, *starts])
    if found is None or found.place == tuple(first):
        return ruled
    return _at(planner, shapes, found)


def _by_rules_alone(
    planner: "Planner",
    shapes: Sequence[ReplicaShape],
    starts: Sequence[Sequence[StageGpus]],
) -> Deployment | None:
    """By the first of the rules, or the second if its links are quicker."""
    joined = [planner.deploy_if_joined(shapes, start) for start in starts[:2]]
    known = [each for each in joined if each is not None]
    if not joined or joined[0] is None:
        return None
    return min(known, key=_slowness)


def deployed_apart(
    planner: "Planner", shapes: Sequence[ReplicaShape]
) -> Deployment | None:
    """The same in slices, where links are short and those promise no less."""
    if not _is_split(shapes) or is_of_cells(len(shapes)):
        return None
    starts = by_rules(planner, shapes)
    found = planner.place_search.best_apart(shapes, starts)
    return None if found is None else _at(planner, shapes, found)


def other_places(
    planner: "Planner", deployment: Deployment, num: int
) -> list[Deployment]:
    """The same replicas where the KV flow is highest; none where links are ample.

    Half of `num` without slices, the others with, and the one that rules give.
    """
    replicas = deployment.replicas
    if not deployment.routes or is_of_cells(len(replicas)):
        return []
    shapes = [replica.shape for replica in replicas]
    ruled = by_rules(planner, shapes)
    own = [replica.stage_gpus for replica in replicas]
    found = planner.place_search.places(shapes, [own, *ruled])
    whole = [each for each in found if each.slices is None]
    apart = [each for each in found if each.slices is not None]
    if not apart:
        return []
    chosen = [*whole[: num - num // 2], *apart[: num // 2]]
    by_flow = [_at(planner, shapes, each) for each in chosen]
    ruled_alone = _by_rules_alone(planner, shapes, ruled)
    return by_flow if ruled_alone is None else [*by_flow, ruled_alone]


def by_rules(
    planner: "Planner", shapes: Sequence[ReplicaShape]
) -> list[list[StageGpus]]:
    """Places by rules: hosts as they come, few hosts, both phases on all hosts.

    The first alone where no KV caches are sent, or for several cells; none when they
    do not fit.
    """
    available = planner.problem.search.available_gpus
    cluster = planner.problem.cluster
    placed = place(cluster, shapes, available)
    if placed is None:
        return []
    if not _is_split(shapes) or is_of_cells(len(shapes)):
        return [placed]
    near = place_on_few(cluster, shapes, available)
    even = place_evenly(cluster, shapes, available)
    return [placed, near or placed, even or placed]


def _is_split(shapes: Sequence[ReplicaShape]) -> bool:
    return any(shape.phase is Phase.PREFILL for shape in shapes)


def _at(planner: "Planner", shapes: Sequence[ReplicaShape], found: Found) -> Deployment:
    return planner.deploy_at(shapes, found.place, found.slices)


def _slowness(deployment: Deployment) -> float:
    """Time of a byte of KV cache on every route, added up."""
    return sum(1.0 / route.bytes_per_s for route in deployment.routes)
