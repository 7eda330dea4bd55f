"""Columns: units as the exact search sees them, and where it gets them from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from clusters.fields import check_fields, spec
from models.latency.step_table import FloatArray
from planner.multiplexing.meshes import MeshKind
from planner.simulator.system import Phase

APART = (Phase.PREFILL, Phase.DECODE)
"""Phases that may have units of their own."""
NOISE = 1e-9
"""Profit below which a unit is no better than what is known (solver's rounding)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A unit: LLMs on a mesh, with what it serves of each."""

    mesh: MeshKind = spec("Its GPUs.")
    served: tuple[tuple[int, float], ...] = spec(
        "Index of each of its LLMs, and the load it serves of it.", unit="load"
    )
    phase: Phase = spec("What it does of their requests.", default=Phase.AGGREGATED)
    origin: tuple[object, tuple[int, ...]] | None = field(
        default=None, compare=False, repr=False
    )
    """How its source knows it; two ways to serve the same load are one column."""

    @property
    def members(self) -> tuple[int, ...]:
        """Indices of its LLMs."""
        return tuple(index for index, _ in self.served)

    @property
    def shares_a_phase(self) -> bool:
        """Whether several LLMs have one phase on it."""
        return self.phase is not Phase.AGGREGATED and len(self.served) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What the relaxed placement would pay: per unit of load, per LLM, per mesh."""

    load: tuple[float, ...] = spec("A unit of load of each LLM.", unit="value/load")
    presence: tuple[float, ...] = spec("Having each LLM in a unit.", unit="value")
    mesh: Mapping[MeshKind, float] = spec("Using a mesh of a kind.", unit="value")
    apart_load: Mapping[tuple[int, Phase], float] = field(default_factory=dict)
    """A unit of load of one phase of an LLM, where phases may be apart."""
    apart_presence: Mapping[tuple[int, Phase, MeshKind], float] = field(
        default_factory=dict
    )
    """Having one phase of an LLM in a unit on a kind of mesh."""

    def profit(self, column: Column) -> float:
        """What a unit would add to the objective at these prices."""
        load, presence = self.of(column.phase, column.mesh)
        earned = (load[i] * served + presence[i] for i, served in column.served)
        return float(sum(earned)) - self.mesh[column.mesh]

    def of(self, phase: Phase, mesh: MeshKind) -> tuple[FloatArray, FloatArray]:
        """Prices of load and of presence in units of a phase, shape (num_llms,)."""
        if phase is Phase.AGGREGATED:
            return np.array(self.load), np.array(self.presence)
        llms = range(len(self.load))
        load = [self.apart_load.get((llm, phase), 0.0) for llm in llms]
        presence = [self.apart_presence.get((llm, phase, mesh), 0.0) for llm in llms]
        return np.array(load), np.array(presence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Units that are worth more than they cost."""

    columns: tuple[Column, ...] = spec("Some of them, the best included.")
    most_profit: Mapping[MeshKind, float] = spec(
        "By mesh kind what no unit's profit exceeds.", unit="value"
    )


class UnitSource(Protocol):
    """Knows all units there could be, without listing them."""

    def best(self, prices: Prices) -> Offer:
        """The most profitable units at these prices."""
        ...

    def above(
        self, prices: Prices, profit: float, *, limit: int
    ) -> Sequence[Column] | None:
        """All units of at least this profit; None when they are more than `limit`."""
        ...


class UnitPool:
    """A source whose units are listed."""

    def __init__(self, columns: Sequence[Column], *, num_llms: int) -> None:
        self._columns = tuple(columns)
        self._load = np.zeros((len(self._columns), num_llms))
        self._presence = np.zeros((len(self._columns), num_llms))
        for row, column in enumerate(self._columns):
            for index, load in column.served:
                self._load[row, index] += load
                self._presence[row, index] = 1.0
        self._kinds = tuple(dict.fromkeys(column.mesh for column in self._columns))
        position = {kind: i for i, kind in enumerate(self._kinds)}
        self._kind = np.array([position[c.mesh] for c in self._columns], dtype=np.int64)

    def best(self, prices: Prices) -> Offer:
        """The most profitable unit of each kind and each LLM that takes part in it."""
        profits = self._profits(prices)
        chosen: set[int] = set()
        most: dict[MeshKind, float] = {}
        for number, kind in enumerate(self._kinds):
            rows = np.flatnonzero((self._kind == number) & (profits > NOISE))
            most[kind] = float(profits[rows].max(initial=0.0))
            if len(rows) == 0:
                continue
            chosen.add(int(rows[np.argmax(profits[rows])]))
            for member in self._presence[rows].T:
                own = rows[member > 0]
                if len(own):
                    chosen.add(int(own[np.argmax(profits[own])]))
        columns = tuple(self._columns[row] for row in sorted(chosen))
        return Offer(columns=columns, most_profit=most)

    def above(
        self, prices: Prices, profit: float, *, limit: int
    ) -> Sequence[Column] | None:
        """All units of at least this profit; None when they are more than `limit`."""
        rows = np.flatnonzero(self._profits(prices) >= profit)
        if len(rows) > limit:
            return None
        return [self._columns[row] for row in rows]

    def _profits(self, prices: Prices) -> FloatArray:
        """Of units of whole requests: a listed unit of one phase is at hand anyway."""
        mesh = np.array([prices.mesh[kind] for kind in self._kinds])
        earned = self._load @ np.array(prices.load)
        earned += self._presence @ np.array(prices.presence)
        profits: FloatArray = earned - mesh[self._kind]
        return profits


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What the exact search maximises, and what it must keep to."""

    worth: tuple[float, ...] = spec("Value of a unit of load of each LLM.", unit="1")
    wanted: tuple[float, ...] = spec(
        "Load of each LLM; more is worthless.", unit="load"
    )
    has_replicas: bool = spec("Whether an LLM may be in several units.", default=True)
    must_serve_all: bool = spec("Whether all load must be served.", default=False)
    mesh_price: tuple[tuple[MeshKind, float], ...] = spec(
        "What using a mesh takes off the value.", unit="value", default=()
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_llms(self) -> int:
        """Number of LLMs."""
        return len(self.worth)
