"""MuxServe's placement: mesh groups by enumeration, LLMs one after the other.

Reference
    Duan et al., "MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM
    Serving", ICML 2024, arXiv 2404.02015, Algorithm 1 (section 3.2).

Idea
    Cut the cluster into meshes in every sensible way. On each way, place the LLMs with
    the most computation first, each where it adds most to what its unit serves. The
    best of all ways is the placement.

Steps
    1. Enumerate mesh groups; prune those whose largest mesh is too small for an LLM.
    2. Take the LLMs by computation demand, largest first.
    3. Give each to the mesh whose unit gains most by it (of equals the smaller mesh).
    4. Keep the group whose units are worth most together.

Differences from the paper
    - a group may leave GPUs idle when there are fewer LLMs than meshes: the paper's
      bound on the number of meshes then excludes every group of some clusters;
    - groups are sets of mesh sizes, whichever nodes they lie on: sizes are powers of
      two, so every set within the blocks of the hosts fits;
    - no partial placement is discarded for an LLM that fits on none of its meshes
      before the others were tried: the group is counted as infeasible

Assumes   an estimate of what a unit is worth
Cost      groups x LLMs x different meshes estimates, most of them met before
Guarantee heuristic
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from clusters.fields import check_fields, spec
from planner.multiplexing.meshes import MeshKind, MeshSupply, mesh_groups
from planner.stop import Never, StoppingCriterion


class UnitEstimate(Protocol):
    """What LLMs on one mesh are worth together."""

    def value(self, mesh: MeshKind, members: tuple[int, ...]) -> float | None:
        """Worth of a unit, its LLMs in the order they came; None: they do not fit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyUnit:
    """LLMs on one mesh."""

    mesh: MeshKind = spec("Its GPUs.")
    members: tuple[int, ...] = spec("Indices of its LLMs.", unit="index", default=())
    value: float = spec("What they are worth together.", unit="value", default=0.0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyPlacement:
    """The best placement of the greedy."""

    units: tuple[GreedyUnit, ...] = spec("Units with LLMs.")
    value: float = spec("What all are worth.", unit="value")
    num_groups: int = spec("Mesh groups tried.", unit="groups", ge=0)
    num_infeasible: int = spec("Of them without room for all.", unit="groups", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


def place_greedily(
    supply: MeshSupply,
    estimate: UnitEstimate,
    *,
    by_demand: Sequence[int],
    stop: StoppingCriterion | None = None,
) -> GreedyPlacement | None:
    """The best placement over all mesh groups; None when no group holds all LLMs.

    Parameters
    ----------
    supply
        The hosts.
    estimate
        What units are worth.
    by_demand
        Indices of the LLMs, the largest computation demand first.
    stop
        When to end; None: when all groups were tried.
    """
    stop = stop or Never()
    best: tuple[GreedyUnit, ...] | None = None
    best_value, tried, infeasible = 0.0, 0, 0
    smallest = _smallest_meshes(supply, estimate, by_demand)
    # 1. Mesh groups.
    for group in mesh_groups(supply, max_meshes=len(by_demand)):
        if not all(any(mesh in fitting for mesh in group) for fitting in smallest):
            continue
        if stop.is_met(tried, best_value if best else None):
            break
        tried += 1
        # 2 and 3. LLMs by demand.
        units = _place_on(group, estimate, by_demand)
        if units is None:
            infeasible += 1
            continue
        # 4. The best group.
        value = sum(unit.value for unit in units)
        if best is None or value > best_value:
            best, best_value = units, value
    if best is None:
        return None
    return GreedyPlacement(
        units=tuple(unit for unit in best if unit.members),
        value=best_value,
        num_groups=tried,
        num_infeasible=infeasible,
    )


def _smallest_meshes(
    supply: MeshSupply, estimate: UnitEstimate, llms: Sequence[int]
) -> list[set[MeshKind]]:
    """By LLM the meshes that it fits alone: a group needs one of them."""
    return [
        {kind for kind in supply.kinds if estimate.value(kind, (llm,)) is not None}
        for llm in llms
    ]


def _place_on(
    group: Sequence[MeshKind], estimate: UnitEstimate, by_demand: Sequence[int]
) -> tuple[GreedyUnit, ...] | None:
    """One pass of the greedy over a mesh group; None when an LLM finds no room."""
    units = [GreedyUnit(mesh=mesh) for mesh in group]
    for llm in by_demand:
        best: tuple[float, int, int, GreedyUnit] | None = None
        # Equal units, such as empty ones, need one look.
        for unit, index in {unit: i for i, unit in enumerate(units)}.items():
            members = (*unit.members, llm)
            value = estimate.value(unit.mesh, members)
            if value is None:
                continue
            grown = GreedyUnit(mesh=unit.mesh, members=members, value=value)
            rank = (value - unit.value, -unit.mesh.num_gpus, index)
            if best is None or rank > best[:3]:
                best = (*rank, grown)
        if best is None:
            return None
        units[best[2]] = best[3]
    return tuple(units)
