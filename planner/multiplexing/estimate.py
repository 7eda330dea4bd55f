"""What MuxServe's greedy asks of a unit: SM shares decided beforehand, then the load.

Reference
    Duan et al., "MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM
    Serving", ICML 2024, arXiv 2404.02015, Algorithm 2 and section 3.3.

Idea
    The share of the SMs that an LLM decodes with is decided for the LLM alone on a
    mesh: the smallest that serves its rate. A unit is then worth the load it can serve
    with these shares, its KV cache and its time for prefills divided among its LLMs.

Steps
    1. Parallel candidates: the share of each LLM on each mesh, alone.
    2. A unit's prefills get the SMs that its decodes leave.
    3. The load that the unit serves within the SLOs: the best set of loads at an
       operating point with these shares.

Differences from the paper
    - memory-bound steps of colocated LLMs slow each other down, and TTFT and TPOT
      limits hold; the paper lets decodes overlap for free and has no limits
    - shares of one unit add up to all SMs; the paper lets decodes have 120 %

Assumes   the operating points of `UnitModel`
Cost      about 20 small knapsacks for each new set of LLMs
Guarantee heuristic; no unit here is worth more than `UnitModel` can make it
"""

from collections.abc import Sequence

import numpy as np

from planner.multiplexing.columns import NOISE, Column
from planner.multiplexing.knapsack import best_set
from planner.multiplexing.loads import IntArray, Loads, most_rps
from planner.multiplexing.meshes import MeshKind
from planner.multiplexing.unit_model import UnitModel


class StandaloneShares:
    """A `UnitEstimate` with the shares of Algorithm 2."""

    def __init__(self, model: UnitModel, worth: Sequence[float]) -> None:
        self._model, self._worth = model, np.array(worth)
        self._shares: dict[tuple[int, MeshKind], float | None] = {}
        self._units: dict[tuple[MeshKind, tuple[int, ...]], Column | None] = {}

    def value(self, mesh: MeshKind, members: tuple[int, ...]) -> float | None:
        """Worth of what LLMs serve together on a mesh; None when they do not fit."""
        column = self.column(mesh, members)
        if column is None:
            return None
        return float(sum(self._worth[llm] * load for llm, load in column.served))

    def column(self, mesh: MeshKind, members: tuple[int, ...]) -> Column | None:
        """The unit of LLMs on a mesh."""
        key = (mesh, tuple(sorted(members)))
        if key not in self._units:
            self._units[key] = self._best(*key)
        return self._units[key]

    def share(self, llm: int, mesh: MeshKind) -> float | None:
        """Step 1: the smallest share that serves an LLM's rate, or serves the most."""
        key = (llm, mesh)
        if key not in self._shares:
            cost = self._model.book.costs(llm, mesh)
            best: tuple[float, float | None] = (0.0, None)
            points = [p for p in self._model.points if p.cycle_ms is None]
            for share in self._model.space.sm_shares:
                rates = (most_rps(p, cost, share) for p in points if cost is not None)
                most = max(rates, default=0.0)
                if most > best[0] * (1.0 + NOISE):
                    best = (most, share)
            self._shares[key] = best[1]
        return self._shares[key]

    def _best(self, mesh: MeshKind, members: tuple[int, ...]) -> Column | None:
        """Steps 2 and 3."""
        shares = [self.share(llm, mesh) for llm in members]
        decodes = sum(share or 1.0 for share in shares)
        fitting = [s for s in self._model.space.sm_shares if s + decodes <= 1.0 + NOISE]
        found: tuple[float, Column] | None = None
        for loads in self._model.loads(mesh):
            point = loads.point
            if point.cycle_ms is None and point.prefill_share_frac not in fitting[-1:]:
                continue
            rows = self._rows(loads, members, shares)
            if rows is None:
                continue
            chosen = loads.only(rows)
            profit = self._worth[chosen.llm] * chosen.served_rps
            packed = best_set(chosen, profit, least=0.0, needs_all=True)
            if packed.sets and (found is None or packed.profits[0] > found[0]):
                unit = self._model.column(mesh, chosen, packed.sets[0])
                found = (packed.profits[0], unit)
        return None if found is None else found[1]

    @staticmethod
    def _rows(
        loads: Loads, members: Sequence[int], shares: Sequence[float | None]
    ) -> IntArray | None:
        """Loads of the LLMs with their shares; None when one of them has none."""
        in_turns = loads.point.cycle_ms is not None
        found = []
        for llm, share in zip(members, shares, strict=True):
            first, last = np.searchsorted(loads.llm, (llm, llm + 1))
            own = np.arange(first, last)
            if not in_turns:
                own = own[loads.sm_share_frac[own] == share]
            if len(own) == 0:
                return None
            found.append(own)
        return np.concatenate(found)
