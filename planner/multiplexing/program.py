"""The set-partitioning programme: which units, so that every LLM has a place.

Data
    Units at hand (`Column`), the hosts (`MeshSupply`), the goals.
Variables
    x_c: how many units like c; y_i: load of LLM i that counts; z_i: whether LLM i
    has no place, which costs more than any placement is worth.
Constraints
    One function each, below; the programme is the list of their calls.
Objective
    The worth of the load that counts, less the price of meshes.
"""

from collections.abc import Iterable, Mapping, Sequence

import pulp

from planner.multiplexing.columns import Column, Goals, Prices
from planner.multiplexing.meshes import MeshKind, MeshSupply


class PlacementProgram:
    """The programme over some units."""

    def __init__(
        self, goals: Goals, supply: MeshSupply, columns: Sequence[Column]
    ) -> None:
        self.goals, self.supply, self.columns = goals, supply, tuple(columns)
        self.model = pulp.LpProblem("multiplexing", pulp.LpMaximize)
        most = None if goals.has_replicas else 1
        self.units = [
            self.model.add_variable(f"x_{c}", 0, most, pulp.LpInteger)
            for c in range(len(self.columns))
        ]
        self.loads = [
            self.model.add_variable(f"y_{i}", wanted * goals.must_serve_all, wanted)
            for i, wanted in enumerate(goals.wanted)
        ]
        self.homeless = [
            self.model.add_variable(f"z_{i}", 0, 1) for i in range(goals.num_llms)
        ]
        self._served: list[list[tuple[pulp.LpVariable, float]]] = [
            [] for _ in range(goals.num_llms)
        ]
        self._on: dict[MeshKind, list[pulp.LpVariable]] = {}
        for column, unit in zip(self.columns, self.units, strict=True):
            self._on.setdefault(column.mesh, []).append(unit)
            for llm, load in column.served:
                self._served[llm].append((unit, load))
        self._maximise_worth()
        for llm in range(goals.num_llms):
            self._counts_only_what_units_serve(llm)
            self._has_a_place(llm)
        for kind, num in supply.blocks:
            self._fits_the_hosts(kind, num)

    @property
    def penalty(self) -> float:
        """What an LLM without a place costs: more than anything could make up for."""
        goals = self.goals
        most = sum(w * load for w, load in zip(goals.worth, goals.wanted, strict=True))
        paid = sum(
            price * num
            for kind, price in goals.mesh_price
            for other, num in self.supply.blocks
            if other == kind
        )
        return 1.0 + 2.0 * (most + paid)

    def prices(self, by_constraint: Mapping[str, float]) -> Prices:
        """Prices of the relaxation, named for those who make units."""
        llms = range(self.goals.num_llms)
        block = {kind: by_constraint[_hosts(kind)] for kind, _ in self.supply.blocks}
        paid = dict(self.goals.mesh_price)
        return Prices(
            load=tuple(by_constraint[f"served_{i}"] for i in llms),
            presence=tuple(-by_constraint[f"placed_{i}"] for i in llms),
            mesh={
                mesh: paid.get(mesh, 0.0)
                + sum(mesh.blocks_of(kind) * price for kind, price in block.items())
                for mesh in self.supply.kinds
            },
        )

    def _maximise_worth(self) -> None:
        """Worth of the load that counts, less meshes, less LLMs without a place."""
        worth = pulp.lpDot(self.goals.worth, self.loads)
        paid = dict(self.goals.mesh_price)
        meshes = _sum(
            (unit, paid.get(mesh, 0.0))
            for mesh, units in self._on.items()
            for unit in units
        )
        self.model += worth - meshes - self.penalty * pulp.lpSum(self.homeless)

    def _counts_only_what_units_serve(self, llm: int) -> None:
        """Load counts if served: y_i <= sum_c served_ic x_c + wanted_i z_i."""
        served = _sum(self._served[llm])
        excused = self.goals.wanted[llm] * self.homeless[llm]
        self.model += self.loads[llm] <= served + excused, f"served_{llm}"

    def _has_a_place(self, llm: int) -> None:
        """Every LLM is in a unit (in one exactly): sum_{c with i} x_c + z_i >= 1."""
        places = _sum((unit, 1.0) for unit, _ in self._served[llm]) + self.homeless[llm]
        is_placed = places >= 1 if self.goals.has_replicas else places == 1
        self.model += is_placed, f"placed_{llm}"

    def _fits_the_hosts(self, kind: MeshKind, num: int) -> None:
        """Meshes need no more blocks than there are: sum_c blocks_c x_c <= num."""
        blocks = _sum(
            (unit, float(mesh.blocks_of(kind)))
            for mesh, units in self._on.items()
            for unit in units
        )
        self.model += blocks <= num, _hosts(kind)


def _sum(terms: Iterable[tuple[pulp.LpVariable, float]]) -> pulp.LpAffineExpression:
    """A weighted sum (`lpSum` of products takes ten times as long)."""
    return pulp.LpAffineExpression(list(terms))


def _hosts(kind: MeshKind) -> str:
    return f"hosts_{kind.gpu_type}_{kind.num_gpus}"
