"""`place_services`: several services on one cluster in, units on GPUs out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from clusters.fields import InputError, check_fields, spec
from models.flops import num_active_parameters
from models.latency.contention import SmSharing
from models.latency.library import LatencyLibrary
from planner.deployment import gpu_ranges
from planner.multiplexing.columns import Column, Goals
from planner.multiplexing.estimate import StandaloneShares
from planner.multiplexing.exact import ChosenUnits, Settings, choose_units
from planner.multiplexing.greedy import place_greedily
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.meshes import MeshSupply
from planner.multiplexing.phase_units import PhaseUnits, balanced
from planner.multiplexing.placed import PlacedUnits, place_units
from planner.multiplexing.problem import LlmDemand, SharedGoal, SharedProblem
from planner.multiplexing.space import UnitSpace
from planner.multiplexing.unit import LlmUnit
from planner.multiplexing.unit_model import UnitModel
from planner.plan import Status
from planner.search.milp import relative_gap
from planner.stop import MaxEvaluations

GREEDY_START_GROUPS = 300
"""Mesh groups the greedy tries when it only gives the exact search a start: all of a
cluster of four nodes of eight, and a count, so that nothing depends on the clock."""
ROUNDING_FRAC = 1e-6
GAP_FRAC = 1e-4
"""Gap at which the exact search ends unless told otherwise: what a tie is worth."""
TIE_FRAC = 1e-4
"""Part of all load that all GPUs are worth: of equal placements the smaller one."""


class SharingMethod(StrEnum):
    """Ways to place several services."""

    EXACT = "exact"
    """The best units, with a bound."""
    MUXSERVE = "muxserve"
    """The published greedy."""
    SPATIAL = "spatial"
    """The best without sharing: every replica has GPUs of its own."""
    TEMPORAL = "temporal"
    """The best where the LLMs of a mesh take turns with all of its SMs."""
    DISAGGREGATED = "disaggregated"
    """The best where every LLM has prefill-only and decode-only units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedResult:
    """What a search found: units on GPUs, and how good they are known to be."""

    method: SharingMethod = spec("How they were found.")
    status: Status = spec("How good they are known to be.")
    reasons: tuple[str, ...] = spec("Why the status is what it is.", default=())
    placed: PlacedUnits | None = spec("Units with GPUs and KV quotas.", default=None)
    served_rps: float = spec("Load within the SLOs.", unit="requests/s", ge=0)
    wanted_rps: float = spec("Load asked for.", unit="requests/s", ge=0)
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    value: float | None = spec("Of the goal.", unit="of the goal", default=None)
    bound: float | None = spec(
        "No placement is better.", unit="of the goal", default=None
    )
    gap_frac: float | None = spec("Distance to it.", unit="1", ge=0, default=None)
    runtime_s: float = spec("Wall time of the search.", unit="s", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def with_gap(self) -> "SharedResult":
        """The same with the distance of its value to its bound."""
        return replace(self, gap_frac=relative_gap(self.value, self.bound))

    def __str__(self) -> str:
        lines = [f"{self.status}: {'; '.join(self.reasons)}" if self.reasons else ""]
        lines[0] = lines[0] or str(self.status)
        if self.placed is not None:
            for each in self.placed.units:
                lines.append(f"  GPUs {gpu_ranges(each.gpu_indices)}: ")
                lines[-1] += each.unit.describe()
            share = self.served_rps / self.wanted_rps
            lines.append(
                f"serves {self.served_rps:.4g} of {self.wanted_rps:.4g} requests/s "
                f"({share:.1%}) on {self.placed.num_gpus} GPUs"
            )
        if self.bound is not None and self.gap_frac is not None:
            lines.append(f"bound {self.bound:.4g}, gap {self.gap_frac:.2%}")
        lines.append(f"searched for {self.runtime_s:.1f} s")
        return "\n".join(lines)


def place_services(
    problem: SharedProblem,
    latency: LatencyLibrary | None = None,
    *,
    method: SharingMethod = SharingMethod.EXACT,
    space: UnitSpace | None = None,
    settings: Settings | None = None,
    headroom: Mapping[str, float] | None = None,
) -> SharedResult:
    """Find units for all services.

    Parameters
    ----------
    problem
        Cluster, services and goal.
    latency
        Where step latencies come from; None: the shipped library.
    method
        How to search.
    space, settings
        Which units are considered (None: as the problem says), and how far the exact
        search goes.
    headroom
        By service how many times its rates units are to carry; 1 where not named.

    Raises
    ------
    InputError
        When a service fits no mesh of the cluster at all, with the reasons.
    """
    started = time.monotonic()
    book = book_of(problem, latency, space, headroom=headroom)
    whole = space or problem.search
    space = space_of(method, whole)
    settings = settings or Settings(gap_frac=GAP_FRAC)
    supply = MeshSupply.of(problem.cluster)
    apart = PhaseUnits(book, supply, space, problem.engine)
    model = UnitModel(book, supply, space, apart)
    check_fits(
        UnitModel(book, supply, whole),
        PhaseUnits(book, supply, whole, problem.engine),
    )
    goals = goals_of(problem, supply)
    if method is SharingMethod.MUXSERVE:
        chosen = greedy_units(model, goals)
    elif method is SharingMethod.DISAGGREGATED:
        nothing_else = replace(space, shares_space=False, shares_time=False)
        chosen = choose_units(
            goals,
            supply,
            UnitModel(book, supply, nothing_else, apart),
            start=apart.columns,
            settings=settings,
        )
    else:
        start = apart.columns
        if method is SharingMethod.EXACT:
            start += greedy_units(model, goals, max_groups=GREEDY_START_GROUPS).units
        chosen = choose_units(goals, supply, model, start=start, settings=settings)
    units = [
        apart.unit(column) if column.origin is None else model.unit(column)
        for column in chosen.units
    ]
    return plan_of(problem, book, method, chosen, units, time.monotonic() - started)


def book_of(
    problem: SharedProblem,
    latency: LatencyLibrary | None = None,
    space: UnitSpace | None = None,
    *,
    headroom: Mapping[str, float] | None = None,
) -> CostBook:
    """Costs of a problem's LLMs at the SM shares of its units."""
    space = space or problem.search
    return CostBook(
        problem,
        latency or LatencyLibrary.default(),
        sharing=SmSharing.published(),
        shares=sorted({*space.sm_shares, 1.0}),
        prompts=sorted({1, *(prompts for _, prompts in space.prefills)}),
        headroom=headroom,
    )


def space_of(method: SharingMethod, space: UnitSpace) -> UnitSpace:
    """The units that a method considers."""
    if method is SharingMethod.SPATIAL:
        return replace(space, max_llms=1, splits_phases=False)
    if method is SharingMethod.TEMPORAL:
        return replace(space, shares_space=False, shares_time=True, splits_phases=False)
    if method is SharingMethod.DISAGGREGATED:
        return replace(space, splits_phases=True)
    return space


def goals_of(problem: SharedProblem, supply: MeshSupply) -> Goals:
    """What load is worth and what GPUs cost, for the goal of a problem."""
    rates = [demand.rate_rps for demand in problem.demands]
    total, num_gpus = sum(rates), problem.cluster.num_gpus
    if problem.goal is SharedGoal.MIN_COST:
        prices = {name: usd_per_gpu_hour(problem, name) for name in _types(supply)}
        worth = [0.0] * len(rates)
    else:
        is_weighted = problem.goal is SharedGoal.RATE_WEIGHTED
        worth = [rate / total if is_weighted else 1.0 for rate in rates]
        most = sum(w * rate for w, rate in zip(worth, rates, strict=True))
        prices = dict.fromkeys(_types(supply), TIE_FRAC * most / num_gpus)
    return Goals(
        worth=tuple(worth),
        wanted=tuple(rates),
        must_serve_all=problem.goal is SharedGoal.MIN_COST,
        mesh_price=tuple(
            (mesh, prices[mesh.gpu_type] * mesh.num_gpus) for mesh in supply.kinds
        ),
    )


def usd_per_gpu_hour(problem: SharedProblem, gpu_type: str) -> float:
    """Price of a GPU of a type, the dearest where nodes differ.

    Raises
    ------
    InputError
        When a price is not known.
    """
    cluster = problem.cluster
    prices = []
    for gpu in cluster.topology.gpus:
        if gpu.type.name == gpu_type:
            price = cluster.usd_per_hour([gpu.index])
            if price is None:
                form = "a price of every node, for the goal min_cost"
                raise InputError(f"cluster.nodes[{gpu.node}].usd_per_hour", None, form)
            prices.append(price)
    return max(prices)


def check_fits(model: UnitModel, apart: PhaseUnits) -> None:
    """Refuse services that no unit can hold.

    Raises
    ------
    InputError
        Naming the first, with the reason on the largest mesh of each GPU type.
    """
    for llm, demand in enumerate(model.book.demands):
        is_whole = any(model.most_rps(llm, mesh) > 0 for mesh in model.supply.kinds)
        if is_whole or apart.serves(llm):
            continue
        why: list[tuple[str, str]] = []
        for mesh in model.supply.kinds:
            if not any(mesh.gpu_type == known for known, _ in why):
                reason = model.book.why_not(llm, mesh) or "its SLO cannot be met"
                why.append((mesh.gpu_type, f"{mesh}: {reason}"))
        form = f"an LLM that fits a mesh ({'; '.join(text for _, text in why)})"
        raise InputError(f"services[{llm}]", demand.name, form)


def greedy_units(
    model: UnitModel, goals: Goals, *, max_groups: int | None = None
) -> ChosenUnits:
    """The placement of MuxServe's greedy."""
    # Where only the price counts, the greedy still places by load.
    worth = goals.worth if any(goals.worth) else (1.0,) * goals.num_llms
    estimate = StandaloneShares(model, worth)
    placement = place_greedily(
        model.supply,
        estimate,
        by_demand=by_demand(model),
        stop=None if max_groups is None else MaxEvaluations(num=max_groups),
    )
    columns = []
    for unit in placement.units if placement is not None else ():
        column = estimate.column(unit.mesh, unit.members)
        assert column is not None, "the greedy places units that have a value"
        columns.append(column)
    return as_placement(goals, columns)


def by_demand(model: UnitModel) -> list[int]:
    """LLMs by computation: rate times FLOPs of a request, the largest first."""

    def flops(demand: LlmDemand) -> float:
        tokens = demand.input_tokens + demand.decode_steps
        return demand.rate_rps * num_active_parameters(demand.llm) * tokens

    demands = model.book.demands
    return sorted(range(len(demands)), key=lambda i: (-flops(demands[i]), i))


def as_placement(goals: Goals, units: Sequence[Column]) -> ChosenUnits:
    """Units that a heuristic chose, valued as the exact search values them."""
    served = [0.0] * goals.num_llms
    for column in units:
        for llm, load in column.served:
            served[llm] += load
    counted = [min(s, wanted) for s, wanted in zip(served, goals.wanted, strict=True)]
    price = dict(goals.mesh_price)
    value = sum(w * load for w, load in zip(goals.worth, counted, strict=True))
    value -= sum(price[column.mesh] for column in units)
    is_short = any(
        load < wanted * (1.0 - ROUNDING_FRAC)
        for load, wanted in zip(counted, goals.wanted, strict=True)
    )
    homeless = tuple(llm for llm, load in enumerate(served) if load <= 0)
    is_found = not homeless and not (goals.must_serve_all and is_short)
    return ChosenUnits(
        status=Status.FEASIBLE if is_found else Status.NOT_FOUND,
        units=tuple(units),
        homeless=homeless,
        value=value if is_found else None,
        bound=None,
        num_rounds=0,
        num_columns=len(units),
    )


def plan_of(
    problem: SharedProblem,
    book: CostBook,
    method: SharingMethod,
    chosen: ChosenUnits,
    units: Sequence[LlmUnit],
    runtime_s: float,
) -> SharedResult:
    """Units on GPUs, with what they serve."""
    names = [problem.services[llm].name for llm in chosen.homeless]
    reasons = (f"no room for {', '.join(names)}",) if names else ()
    demands = problem.demands
    wanted = {demand.name: demand.rate_rps for demand in demands}
    kept = balanced(units, wanted)
    placed = place_units(problem, book, kept) if kept and not names else None
    served = 0.0
    if placed is not None:
        served = sum(min(placed.served_rps(d.name), d.rate_rps) for d in demands)
    return SharedResult(
        method=method,
        status=chosen.status,
        reasons=reasons,
        placed=placed,
        served_rps=served,
        wanted_rps=sum(demand.rate_rps for demand in demands),
        usd_per_hour=(
            None if placed is None else problem.cluster.usd_per_hour(placed.gpu_indices)
        ),
        value=chosen.value,
        bound=chosen.bound,
        gap_frac=chosen.gap_frac,
        runtime_s=runtime_s,
    )


def _types(supply: MeshSupply) -> list[str]:
    return sorted({kind.gpu_type for kind in supply.kinds})
