"""All units of a problem: operating points of every mesh, and their best knapsacks."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from models.latency.step_table import FloatArray
from planner.multiplexing.columns import NOISE, Column, Offer, Prices
from planner.multiplexing.knapsack import Packed, all_sets, best_set
from planner.multiplexing.llm_costs import CostBook, LlmCosts
from planner.multiplexing.loads import Loads, OperatingPoint, loads_at, most_rps
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.multiplexing.phase_units import PhaseUnits
from planner.multiplexing.space import UnitSpace
from planner.multiplexing.unit import LlmUnit, UnitMember
from planner.simulator.system import Phase


class UnitModel:
    """A `UnitSource` over the units of a problem, which run at one of its `points`.

    Units of whole requests, and those of one phase with several LLMs that `apart` has;
    of one LLM they are listed.
    """

    def __init__(
        self,
        book: CostBook,
        supply: MeshSupply,
        space: UnitSpace,
        apart: PhaseUnits | None = None,
    ) -> None:
        self.book, self.supply, self.space, self.apart = book, supply, space, apart
        self.points = tuple(self._points())
        self._loads: dict[MeshKind, tuple[Loads, ...]] = {}

    def best(self, prices: Prices) -> Offer:
        """The best unit of every mesh at every operating point that is worth it."""
        columns: list[Column] = []
        most: dict[MeshKind, float] = {}
        for mesh in self.supply.kinds:
            price = prices.mesh[mesh]
            most[mesh] = 0.0
            for loads in self._all_loads(mesh):
                earned = _earned(loads, prices, mesh)
                packed = best_set(loads, earned, least=price + NOISE)
                most[mesh] = max(most[mesh], packed.bound - price)
                columns += self._columns(mesh, loads, packed)
        return Offer(columns=tuple(dict.fromkeys(columns)), most_profit=most)

    def above(
        self, prices: Prices, profit: float, *, limit: int
    ) -> Sequence[Column] | None:
        """All units of at least this profit; None when they are more than `limit`."""
        columns: dict[Column, None] = {}
        for mesh in self.supply.kinds:
            least = prices.mesh[mesh] + profit
            for loads in self._all_loads(mesh):
                earned = _earned(loads, prices, mesh)
                packed = all_sets(loads, earned, least=least, limit=_MOST_WAYS)
                columns |= dict.fromkeys(self._columns(mesh, loads, packed))
                if not packed.is_complete or len(columns) > limit:
                    return None
        return tuple(columns)

    def loads(self, mesh: MeshKind) -> tuple[Loads, ...]:
        """Loads at every operating point of a mesh that has any."""
        if mesh not in self._loads:
            wanted = self._wanted(mesh)
            found = (loads_at(point, wanted) for point in self.points)
            self._loads[mesh] = tuple(loads for loads in found if len(loads))
        return self._loads[mesh]

    def _all_loads(self, mesh: MeshKind) -> tuple[Loads, ...]:
        """Loads of whole requests, then of one phase."""
        apart = () if self.apart is None else self.apart.loads(mesh)
        return self.loads(mesh) + apart

    def _columns(self, mesh: MeshKind, loads: Loads, packed: Packed) -> list[Column]:
        """Units of some sets; of one LLM and phase those at hand serve more."""
        least = 1 if loads.point.phase is Phase.AGGREGATED else 2
        return [self.column(mesh, loads, s) for s in packed.sets if len(s) >= least]

    def most_rps(self, llm: int, mesh: MeshKind) -> float:
        """The most of its load that an LLM alone can serve on a mesh."""
        cost = self.book.costs(llm, mesh)
        if cost is None:
            return 0.0
        return max((most_rps(point, cost) for point in self.points), default=0.0)

    def column(self, mesh: MeshKind, loads: Loads, rows: Sequence[int]) -> Column:
        """The unit of some loads at an operating point, as the search sees it."""
        chosen = list(rows)
        served = zip(
            loads.llm[chosen].tolist(), loads.served_rps[chosen].tolist(), strict=True
        )
        return Column(
            mesh=mesh,
            served=tuple(served),
            phase=loads.point.phase,
            origin=(loads, tuple(rows)),
        )

    def unit(self, column: Column) -> LlmUnit:
        """The unit behind a column of this model."""
        assert column.origin is not None, "a column of this model"
        loads, rows = column.origin
        assert isinstance(loads, Loads), "a column of this model"
        return LlmUnit(
            mesh=column.mesh,
            members=tuple(self._member(column.mesh, loads, row) for row in rows),
            phase=column.phase,
            prefill_share_frac=loads.point.prefill_share_frac,
            stretch=loads.point.stretch,
            cycle_ms=loads.point.cycle_ms,
        )

    def _points(self) -> Iterator[OperatingPoint]:
        """Every way a unit may run."""
        space = self.space
        if space.shares_space:
            grid = product(space.sm_shares, space.prefills, space.stretches)
            for share, (load, prompts), stretch in grid:
                if share + min(space.sm_shares) <= 1.0 + NOISE:
                    yield OperatingPoint(
                        prefill_share_frac=share,
                        prefill_load_frac=load,
                        prefill_prompts=prompts,
                        stretch=stretch,
                        max_llms=space.max_llms,
                    )
        if space.shares_time:
            # Prompts are taken up after every step, before many of them queue.
            loads = sorted({load for load, _ in space.prefills})
            cycles = space.cycles_ms([d.tpot_limit_ms for d in self.book.demands])
            for cycle_ms, load in product(cycles, loads):
                yield OperatingPoint(
                    prefill_share_frac=1.0,
                    prefill_load_frac=load,
                    cycle_ms=cycle_ms,
                    max_llms=space.max_llms,
                )

    def _wanted(self, mesh: MeshKind) -> list[tuple[int, LlmCosts, tuple[float, ...]]]:
        """Of each LLM that runs on a mesh the loads to consider."""
        found = []
        for llm, demand in enumerate(self.book.demands):
            cost, most = self.book.costs(llm, mesh), self.most_rps(llm, mesh)
            if cost is None or most <= 0:
                continue
            rates = {part * most for part in self.space.parts}
            rates.add(demand.rate_rps / math.ceil(demand.rate_rps / most - NOISE))
            found.append((llm, cost, tuple(sorted(rates, reverse=True))))
        return found

    def _member(self, mesh: MeshKind, loads: Loads, row: int) -> UnitMember:
        llm = int(loads.llm[row])
        demand = self.book.demands[llm]
        batch = math.ceil(loads.batch[row] - NOISE)
        tokens = batch * demand.context_tokens
        if loads.point.phase is not Phase.AGGREGATED:
            tokens = max(tokens, demand.longest_tokens)
        return UnitMember(
            service=demand.name,
            served_rps=float(loads.served_rps[row]),
            decode_share_frac=float(loads.sm_share_frac[row]),
            kv_quota_tokens=math.ceil(tokens),
            max_num_seqs=self._max_num_seqs(mesh, loads, row, batch),
            prefill_ms=float(loads.prefill_ms[row]),
            tpot_ms=float(loads.tpot_ms[row]),
        )

    def _max_num_seqs(self, mesh: MeshKind, loads: Loads, row: int, batch: int) -> int:
        """Largest batch whose step still meets the TPOT limit, at least the planned.

        A tighter limit would make requests wait that could be served in time.
        """
        llm = int(loads.llm[row])
        cost = self.book.costs(llm, mesh)
        assert cost is not None, "a load of an LLM that runs on the mesh"
        share = float(loads.sm_share_frac[row])
        stretched = (loads.point.stretch - 1.0) * cost.memory_ms
        step_ms = cost.decode_ms[share] + stretched
        limit_ms = cost.demand.tpot_limit_ms
        most = len(step_ms) - 1
        if limit_ms is not None:
            planned = step_ms[min(batch, most)] / float(loads.tpot_ms[row])
            most = int(np.searchsorted(step_ms, limit_ms * planned, side="right")) - 1
        return max(batch, min(most, len(step_ms) - 1))


_MOST_WAYS = 50_000
"""Most sets of loads at one operating point, many of which are the same unit."""


def _earned(loads: Loads, prices: Prices, mesh: MeshKind) -> FloatArray:
    """What each load earns at the prices, shape (num_loads,)."""
    llm = loads.llm
    load, presence = prices.of(loads.point.phase, mesh)
    earned: FloatArray = load[llm] * loads.served_rps + presence[llm]
    return earned
