"""The set-partitioning programme: which units, so that every LLM has a place.

Data
    Units at hand (`Column`), the hosts (`MeshSupply`), the goals.
Variables
    x_c: how many units like c; y_i: load of LLM i that counts; z_i: whether LLM i
    has no place, which costs more than any placement is worth; w_i: load of LLM i whose
    phases are served apart; q_i: whether it has units of both phases; k_ipm: whether
    its units of phase p are meshes of kind m. A unit of one phase may be of several
    LLMs, and counts for each of them.
Constraints
    One function each, below; the programme is the list of their calls.
Objective
    The worth of the load that counts, less the price of meshes.
"""

from collections.abc import Iterable, Mapping, Sequence

import pulp

from planner.multiplexing.columns import APART, Column, Goals, Prices
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.simulator.system import Phase


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
        self._served: dict[tuple[int, Phase], list[tuple[pulp.LpVariable, float]]] = {}
        self._on: dict[MeshKind, list[pulp.LpVariable]] = {}
        self._of_phase: dict[tuple[int, Phase], list[int]] = {}
        for number, column in enumerate(self.columns):
            unit = self.units[number]
            self._on.setdefault(column.mesh, []).append(unit)
            for llm, load in column.served:
                key = (llm, column.phase)
                self._served.setdefault(key, []).append((unit, load))
                self._of_phase.setdefault(key, []).append(number)
        self._apart = {
            llm: (
                self.model.add_variable(f"w_{llm}", 0, goals.wanted[llm]),
                self.model.add_variable(f"q_{llm}", 0, 1),
            )
            for llm in range(goals.num_llms)
            if (llm, Phase.PREFILL) in self._served
            and (llm, Phase.DECODE) in self._served
        }
        self._maximise_worth()
        for llm in range(goals.num_llms):
            self._counts_only_what_units_serve(llm)
            self._has_a_place(llm)
        for llm in self._apart:
            for phase in APART:
                self._phase_keeps_up(llm, phase)
                self._phase_has_a_place(llm, phase)
                self._units_of_a_phase_are_alike(llm, phase)
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
        apart = [(llm, phase) for llm in self._apart for phase in APART]
        return Prices(
            load=tuple(by_constraint[f"served_{i}"] for i in llms),
            presence=tuple(-by_constraint[f"placed_{i}"] for i in llms),
            apart_load={
                (llm, phase): by_constraint[f"{phase}_{llm}"] for llm, phase in apart
            },
            apart_presence={
                (llm, phase, mesh): by_constraint[f"{phase}_place_{llm}"]
                - by_constraint.get(_alike(llm, phase, mesh), 0.0)
                for llm, phase in apart
                for mesh in self.supply.kinds
            },
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
        """Load counts if served: y_i <= sum_c served_ic x_c + w_i + wanted_i z_i."""
        served = _sum(self._whole(llm))
        if llm in self._apart:
            served += self._apart[llm][0]
        excused = self.goals.wanted[llm] * self.homeless[llm]
        self.model += self.loads[llm] <= served + excused, f"served_{llm}"

    def _has_a_place(self, llm: int) -> None:
        """Every LLM is in a unit (one exactly): sum_{c with i} x_c + q_i + z_i >= 1."""
        places = _sum((unit, 1.0) for unit, _ in self._whole(llm)) + self.homeless[llm]
        if llm in self._apart:
            places += self._apart[llm][1]
        is_placed = places >= 1 if self.goals.has_replicas else places == 1
        self.model += is_placed, f"placed_{llm}"

    def _phase_keeps_up(self, llm: int, phase: Phase) -> None:
        """A phase serves what is served apart: w_i <= sum_{c of it} served_ic x_c."""
        served = _sum(self._served[llm, phase])
        self.model += self._apart[llm][0] <= served, f"{phase}_{llm}"

    def _phase_has_a_place(self, llm: int, phase: Phase) -> None:
        """Phases apart are a place if both are: q_i <= sum_{c of it} x_c."""
        units = _sum((unit, 1.0) for unit, _ in self._served[llm, phase])
        self.model += self._apart[llm][1] <= units, f"{phase}_place_{llm}"

    def _units_of_a_phase_are_alike(self, llm: int, phase: Phase) -> None:
        """Of one kind: sum_{c of it on m} x_c <= num_m k_ipm, and sum_m k_ipm <= 1.

        A router in front of a phase compares loads, not speeds.
        """
        on: dict[MeshKind, list[tuple[pulp.LpVariable, float]]] = {}
        for number in self._of_phase[llm, phase]:
            mesh = self.columns[number].mesh
            on.setdefault(mesh, []).append((self.units[number], 1.0))
        chosen: list[pulp.LpVariable] = []
        for mesh, num in self.supply.blocks:
            if mesh in on:
                name = f"k_{llm}_{phase}_{len(chosen)}"
                kind = self.model.add_variable(name, 0, 1, pulp.LpInteger)
                alike = _sum(on[mesh]) <= num * kind
                self.model += alike, _alike(llm, phase, mesh)
                chosen.append(kind)
        self.model += pulp.lpSum(chosen) <= 1

    def _whole(self, llm: int) -> list[tuple[pulp.LpVariable, float]]:
        """Units that serve whole requests of an LLM, with its load."""
        return self._served.get((llm, Phase.AGGREGATED), [])

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


def _alike(llm: int, phase: Phase, mesh: MeshKind) -> str:
    return f"alike_{phase}_{llm}_{mesh.gpu_type}_{mesh.num_gpus}"


def _hosts(kind: MeshKind) -> str:
    return f"hosts_{kind.gpu_type}_{kind.num_gpus}"
