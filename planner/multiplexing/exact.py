"""Exact units: the best set of units by column generation, with a bound.

Reference
    Set partitioning and column generation: Barnhart, Johnson, Nemhauser, Savelsbergh,
    Vance, "Branch-and-Price: Column Generation for Solving Huge Integer Programs",
    Operations Research 46(3), 1998. Units of LLMs: Duan et al., "MuxServe", ICML 2024,
    arXiv 2404.02015, whose greedy this replaces.

Idea
    A placement is a choice among units, each a set of LLMs on a mesh with their SM
    shares. There are too many units to list. The relaxed choice among a few of them
    prices load, places and GPUs; only a unit worth more than it costs at these prices
    can improve it. When there is none, the relaxed value bounds every placement.

Steps
    1. Relax the choice among the units at hand, and read its prices.
    2. Add the most profitable units; repeat until there is none.
    3. Choose whole units among those at hand: a placement.
    4. If its value is below the bound, add the units whose loss at the last prices is
       within the gap, and choose again: no other unit is in a better placement. Not
       where step 3 ran out of time: with more units it would again.

Differences from the paper
    - branching is replaced by step 4, which lists what a better placement may use; when
      that is too much, the placement stands with its gap

Assumes   a `UnitSource` that finds the most profitable units at given prices
Cost      some tens of relaxations and calls of the source, and one or two programmes
Guarantee exact if step 4 fits its limit; a bound in any case
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clusters.fields import check_fields, spec
from planner.multiplexing.columns import (
    NOISE,
    Column,
    Goals,
    Offer,
    Prices,
    UnitSource,
)
from planner.multiplexing.meshes import MeshSupply
from planner.multiplexing.program import PlacementProgram
from planner.plan import Status
from planner.search.milp import (
    relative_gap,
    solve_milp,
    solve_relaxation,
    whole_value,
)
from planner.stop import Never, StoppingCriterion

PROVEN_FRAC = 1e-6
"""Gap that counts as none: rounding of the solver."""
FIRST_SHARE = 1 / 16
"""Share of the gap that the first turn of step 4 lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How far the search goes."""

    max_rounds: int = spec("Most relaxations.", unit="1", ge=1, default=200)
    max_listed: int = spec(
        "Most units that step 4 may list.", unit="units", ge=0, default=20_000
    )
    time_limit_s: float = spec(
        "Time for each integer programme.", unit="s", gt=0, default=10.0
    )
    gap_frac: float = spec("Gap that is good enough.", unit="1", ge=0, default=0.0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenUnits:
    """The best placement found, and how much better another could be."""

    status: Status = spec("How good it is known to be.")
    units: tuple[Column, ...] = spec("The units, replicas repeated.")
    homeless: tuple[int, ...] = spec("LLMs without a place.")
    value: float | None = spec("Of the objective.", unit="value")
    bound: float | None = spec("No placement is worth more.", unit="value")
    num_rounds: int = spec("Relaxations solved.", unit="1", ge=0)
    num_columns: int = spec("Units that were considered one by one.", unit="1", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def gap_frac(self) -> float | None:
        """Distance to the bound, relative to it."""
        return relative_gap(self.value, self.bound)


def choose_units(
    goals: Goals,
    supply: MeshSupply,
    source: UnitSource,
    *,
    start: Sequence[Column] = (),
    settings: Settings | None = None,
    stop: StoppingCriterion | None = None,
) -> ChosenUnits:
    """Find the best units.

    Parameters
    ----------
    goals
        What load is worth, and how much of it there is.
    supply
        The hosts.
    source
        Where units come from.
    start
        Units to begin with, such as the greedy's.
    settings, stop
        How far to go.
    """
    settings = settings or Settings()
    # 1 and 2. Prices and new units, until none is worth its price.
    relaxed = _generate(
        goals, supply, source, start, settings=settings, stop=stop or Never()
    )
    # 3. Whole units.
    found = _choose_any(goals, supply, relaxed.columns, settings)
    bound = relaxed.bound
    # 4. Whatever a better placement may use: first a part of it, because a better
    # placement leaves less to list.
    for share in (FIRST_SHARE, 1.0):
        if _gap(found.value, bound) <= settings.gap_frac or not found.is_proven:
            break
        width = share * (relaxed.bound - found.value)
        profit = -width - _noise(bound)
        listed = source.above(relaxed.prices, profit, limit=settings.max_listed)
        if listed is None:
            break
        columns = tuple(dict.fromkeys((*found.program.columns, *listed)))
        again = _choose(goals, supply, columns, settings)
        found = max(again, found, key=lambda each: each.value)
        if width >= relaxed.bound - found.value - _noise(bound):
            # What is not listed is in no better placement than this.
            bound = min(bound, max(found.value, again.bound or bound))
    return _outcome(found, bound, relaxed.num_rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relaxed:
    """The end of column generation."""

    columns: tuple[Column, ...] = spec("Columns found.")
    prices: Prices = spec("Those with the best bound.")
    bound: float = spec("No placement is better.", unit="of the objective")
    num_rounds: int = spec("Rounds of column generation.", unit="1")


def _generate(
    goals: Goals,
    supply: MeshSupply,
    source: UnitSource,
    start: Sequence[Column],
    *,
    settings: Settings,
    stop: StoppingCriterion,
) -> _Relaxed:
    """Steps 1 and 2; the prices kept are those with the best bound."""
    columns = list(dict.fromkeys(start))
    best: tuple[float, Prices] | None = None
    for done in range(1, settings.max_rounds + 1):
        program = PlacementProgram(goals, supply, columns)
        relaxation = solve_relaxation(program.model)
        prices = program.prices(relaxation.prices)
        offer = source.best(prices)
        bound = relaxation.value + _most_gained(supply, offer)
        if best is None or bound < best[0]:
            best = (bound, prices)
        known = set(columns)
        columns += [column for column in offer.columns if column not in known]
        is_closed = _gap(relaxation.value, best[0]) <= settings.gap_frac / 10
        if len(columns) == len(known) or is_closed or stop.is_met(done, None):
            break
    assert best is not None, "at least one round"
    return _Relaxed(
        columns=tuple(columns), bound=best[0], prices=best[1], num_rounds=done
    )


def _most_gained(supply: MeshSupply, offer: Offer) -> float:
    """What units could add to the relaxation at most: the best profit on every GPU."""
    per_gpu: dict[str, float] = {}
    for mesh, profit in offer.most_profit.items():
        known = per_gpu.get(mesh.gpu_type, 0.0)
        per_gpu[mesh.gpu_type] = max(known, profit / mesh.num_gpus)
    return sum(
        num * per_gpu.get(kind.gpu_type, 0.0)
        for kind, num in supply.blocks
        if kind.num_gpus == 1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """A solved programme over some units."""

    program: PlacementProgram = spec("The programme.")
    value: float = spec("Of its solution.", unit="of the objective")
    bound: float | None = spec("No solution is better.", unit="of the objective")
    is_proven: bool = spec("Whether it is the best of these units.")


def _choose_any(
    goals: Goals, supply: MeshSupply, columns: Sequence[Column], settings: Settings
) -> _Whole:
    """The best placement with these units, and no worse than without shared phases.

    With them the programme is hard, and may end at its limit of time.
    """
    found = _choose(goals, supply, columns, settings)
    if found.is_proven:
        return found
    simple = [column for column in columns if not column.shares_a_phase]
    again = _choose(goals, supply, simple, settings)
    return replace(again, is_proven=False) if again.value > found.value else found


def _choose(
    goals: Goals, supply: MeshSupply, columns: Sequence[Column], settings: Settings
) -> _Whole:
    """The best placement with these units."""
    program = PlacementProgram(goals, supply, columns)
    outcome = solve_milp(
        program.model,
        time_limit_s=settings.time_limit_s,
        gap_frac=settings.gap_frac / 2.0,
    )
    value = -math.inf if outcome.value is None else outcome.value
    return _Whole(
        program=program,
        value=value,
        bound=outcome.bound,
        is_proven=outcome.status is Status.OPTIMAL,
    )


def _gap(value: float, bound: float) -> float:
    """Distance of a value to its bound, relative; 0 within the solver's rounding."""
    if not math.isfinite(value):
        return math.inf
    if bound - value <= _noise(bound):
        return 0.0
    return (bound - value) / max(abs(bound), abs(value))


def _noise(value: float) -> float:
    return NOISE * max(1.0, abs(value))


def _outcome(found: _Whole, bound: float, num_rounds: int) -> ChosenUnits:
    program = found.program
    if not math.isfinite(found.value):
        return ChosenUnits(
            status=Status.NOT_FOUND,
            units=(),
            homeless=(),
            value=None,
            bound=None,
            num_rounds=num_rounds,
            num_columns=len(program.columns),
        )
    is_proven = _gap(found.value, bound) <= PROVEN_FRAC
    homeless = tuple(
        index for index, z in enumerate(program.homeless) if whole_value(z) > 0
    )
    if homeless:
        status = Status.INFEASIBLE if is_proven else Status.NOT_FOUND
    else:
        status = Status.OPTIMAL if is_proven else Status.FEASIBLE
    return ChosenUnits(
        status=status,
        units=tuple(
            column
            for column, unit in zip(program.columns, program.units, strict=True)
            for _ in range(whole_value(unit))
        ),
        homeless=homeless,
        value=None if homeless else found.value,
        bound=None if homeless else max(bound, found.value),
        num_rounds=num_rounds,
        num_columns=len(program.columns),
    )
