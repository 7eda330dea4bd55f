"""`plan_services`: several services in, a simulated plan of units out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from clusters.fields import check_fields, spec
from models.latency.library import LatencyLibrary
from planner.multiplexing.exact import Settings
from planner.multiplexing.file_kinds import SHARED_PLAN_VERSION
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.placed import PlacedUnit, PlacedUnits
from planner.multiplexing.problem import SharedGoal, SharedProblem
from planner.multiplexing.serve import SharedEvaluation, serve
from planner.multiplexing.shared_evidence import evidence_of_units, warnings_of_units
from planner.multiplexing.solve import (
    GAP_FRAC,
    SharedResult,
    SharingMethod,
    book_of,
    place_services,
)
from planner.multiplexing.space import UnitSpace
from planner.plan import ShapeEvidence, Status
from planner.simulator.system import Phase
from planner.solve import library_for
from planner.version import __version__

METHODS = {
    "auto": (SharingMethod.EXACT, SharingMethod.SPATIAL, SharingMethod.TEMPORAL),
    **{str(method): (method,) for method in SharingMethod},
}
"""Search methods behind each name."""

LESS_FRAC = 0.9
"""What an LLM that misses its SLO keeps of its load, each time it is simulated."""
MORE_RATE = 1.15
"""What units are to carry more of such an LLM, where all is to be served."""
MAX_ROUNDS = 8
TIE_FRAC = 0.01
"""Loads this close count as equal in the verdict, and sizes are compared."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAlternative:
    """The plan of another method, simulated alike."""

    method: SharingMethod = spec("Search method.")
    num_gpus: int = spec("GPUs.", unit="GPUs", ge=1)
    within_slo_rps: float = spec("Served within the SLOs.", unit="requests/s", ge=0)
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPlan:
    """Units for several services with the evidence for them."""

    api_version: str = spec("Format of the file.", default=SHARED_PLAN_VERSION)
    tool_version: str = spec("Version that made it.")
    status: Status = spec("How good it is known to be.")
    reasons: tuple[str, ...] = spec("Why the status is what it is.", default=())
    seed: int = spec("Seed of the traffic.", unit="1", ge=0)
    method: SharingMethod = spec("Search method.")
    verdict: str = spec("What sharing gains here.")
    placed: PlacedUnits = spec("Units with GPUs, SM shares and KV quotas.")
    promised_rps: float = spec("Load they are to serve.", unit="requests/s", ge=0)
    wanted_rps: float = spec("Load asked for.", unit="requests/s", ge=0)
    evaluation: SharedEvaluation = spec("What the simulation says.")
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    bound: float | None = spec(
        "No placement is better by the same estimate.", unit="of the goal", default=None
    )
    gap_frac: float | None = spec("Distance to it.", unit="1", ge=0, default=None)
    alternatives: tuple[SharedAlternative, ...] = spec(
        "Other methods, simulated alike.", default=()
    )
    evidence: tuple[ShapeEvidence, ...] = spec(
        "Provenance by service and mesh.", default=()
    )
    warnings: tuple[str, ...] = spec("What to be careful about.", default=())
    inputs_sha256: tuple[tuple[str, str], ...] = spec(
        "Hashes of the files it was made from.", default=()
    )
    problem: SharedProblem = spec("What was asked.")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A placement whose promises the simulation has held it to."""

    found: SharedResult = spec("What the search found.")
    placed: PlacedUnits = spec("Its units, with promises that may be lower.")
    evaluation: SharedEvaluation = spec("What the simulation says of them.")

    @property
    def usd_per_hour(self) -> float | None:
        """Price; None: unknown."""
        return self.found.usd_per_hour


def plan_services(
    problem: SharedProblem,
    latency: LatencyLibrary | None = None,
    *,
    method: str = "auto",
    seed: int = 0,
    time_limit_s: float | None = None,
    progress: Progress = lambda _: None,
) -> SharedPlan | SharedResult:
    """Find units for all services and hold them to their promises by simulation.

    Parameters
    ----------
    problem
        Cluster, services and goal.
    latency
        Where step latencies come from; None: the shipped library.
    method
        One of `METHODS`; ``auto``: units of any kind, dedicated GPUs and turns, of
        which the simulation decides.
    seed
        Seed of the traffic.
    time_limit_s
        Limit on each exact search, in s, after which it gives its best with its gap.
    progress
        Called with a line of text at every step.

    Returns
    -------
    SharedPlan or SharedResult
        The plan; or the result of the search that found none, with its reasons.

    Raises
    ------
    InputError
        When a service fits no mesh of the cluster at all.
    """
    library = library_for(problem, latency)
    book = book_of(problem, library)
    settings = Settings(gap_frac=GAP_FRAC)
    if time_limit_s is not None:
        settings = replace(settings, time_limit_s=time_limit_s)
    results: list[SharedResult] = []
    served: list[Served] = []
    simpler = replace(problem.search, shares_phases=False)
    for each in METHODS[method]:

        def searched(
            headroom: Mapping[str, float],
            method: SharingMethod = each,
            space: UnitSpace | None = None,
        ) -> SharedResult:
            what = f"searching: {method}"
            progress(what if space is None else f"{what}, no phase shared")
            return place_services(
                problem,
                library,
                method=method,
                settings=settings,
                space=space,
                headroom=headroom,
            )

        def simulated(found: SharedResult, method: SharingMethod = each) -> Served:
            progress(f"simulating: {method}")
            return hold(problem, book, found, seed=seed)

        result, confirmed = search_and_confirm(problem, searched, simulated)
        results.append(result)
        served += confirmed
        if any(falls_short(one) for one in confirmed):
            # What shared phases promise and do not keep, simpler units may serve.
            without = partial(searched, space=simpler)
            served += search_and_confirm(problem, without, simulated)[1]
    if not served:
        return results[0]
    ordered = sorted(served, key=lambda each: _rank(problem, each))
    return _plan_of(problem, book, ordered, seed)


def search_and_confirm(
    problem: SharedProblem,
    searched: Callable[[Mapping[str, float]], SharedResult],
    simulated: Callable[[SharedResult], Served],
) -> tuple[SharedResult, list[Served]]:
    """The result of a search, and its placement as simulated, if it has one.

    Where everything is to be served, LLMs that miss their SLO are planned with more
    headroom, and again: bursts shorter than the windows of a trace are in no estimate.
    """
    first = searched({})
    if first.placed is None:
        return first, []
    best = simulated(first)
    headroom: dict[str, float] = {}
    for _ in range(MAX_ROUNDS):
        missed = best.evaluation.missed
        if not missed or problem.goal is not SharedGoal.MIN_COST:
            break
        headroom |= {name: headroom.get(name, 1.0) * MORE_RATE for name in missed}
        found = searched(headroom)
        if found.placed is None:
            break
        best = simulated(found)
    if first.bound is not None:  # without headroom: the one that holds
        own = replace(best.found, bound=first.bound)
        best = replace(best, found=own.with_gap())
    return first, [best]


def falls_short(served: Served) -> bool:
    """Whether units of one phase that LLMs share serve less than they promised."""
    first = served.found.placed
    shares = first is not None and any(
        each.unit.is_shared and each.unit.phase is not Phase.AGGREGATED
        for each in first.units
    )
    promised = served.found.served_rps
    kept = served.evaluation.within_slo_rps >= (1.0 - TIE_FRAC) * promised
    return shares and not (served.evaluation.is_met and kept)


def hold(
    problem: SharedProblem, book: CostBook, found: SharedResult, *, seed: int
) -> Served:
    """Simulate a placement; LLMs that miss their SLO are to serve less, and again."""
    assert found.placed is not None, "a placement was found"
    placed = found.placed
    evaluation = serve(problem, book, placed, seed=seed)
    for _ in range(MAX_ROUNDS):
        # Where everything is to be served, less is no answer.
        if evaluation.is_met or problem.goal is SharedGoal.MIN_COST:
            break
        placed = promising_less(placed, set(evaluation.missed))
        evaluation = serve(problem, book, placed, seed=seed)
    return Served(found=found, placed=placed, evaluation=evaluation)


def promising_less(placed: PlacedUnits, services: set[str]) -> PlacedUnits:
    """The same units, with less of some services."""
    units = []
    for each in placed.units:
        members = tuple(
            replace(member, served_rps=member.served_rps * LESS_FRAC)
            if member.service in services
            else member
            for member in each.unit.members
        )
        unit = replace(each.unit, members=members)
        units.append(PlacedUnit(unit=unit, gpu_indices=each.gpu_indices))
    return PlacedUnits(units=tuple(units))


def _rank(problem: SharedProblem, each: Served) -> tuple[float, ...]:
    """The best first: what is met, then the goal, then fewer GPUs."""
    is_missed = 0.0 if each.evaluation.is_met else 1.0
    cost = each.usd_per_hour if each.usd_per_hour is not None else float("inf")
    if problem.goal is SharedGoal.MIN_COST:
        return is_missed, cost, float(each.placed.num_gpus)
    # Rates differ by a request or so where one service draws a little more or less.
    worth = round(worth_rps(problem, each.evaluation), 3)
    return -worth, float(each.placed.num_gpus), cost


def worth_rps(problem: SharedProblem, evaluation: SharedEvaluation) -> float:
    """Load served, as the goal counts it."""
    services = evaluation.services
    if problem.goal is not SharedGoal.RATE_WEIGHTED:
        return sum(each.goodput_rps for each in services)
    total = sum(each.wanted_rps for each in services)
    return sum(each.wanted_rps / total * each.goodput_rps for each in services)


def _plan_of(
    problem: SharedProblem, book: CostBook, ordered: Sequence[Served], seed: int
) -> SharedPlan:
    best = ordered[0]
    found, evaluation = best.found, best.evaluation
    reasons = list(found.reasons)
    status = found.status
    if not evaluation.is_met:
        status = Status.NOT_FOUND
        missed = ", ".join(evaluation.missed)
        reasons.append(f"the simulation misses the SLO of {missed}")
    elif status is Status.OPTIMAL:
        # Proven of the estimate; the simulation is what counts.
        status = Status.FEASIBLE
    demands = problem.demands
    promised = sum(
        min(best.placed.served_rps(demand.name), demand.rate_rps) for demand in demands
    )
    evidence = evidence_of_units(book, best.placed)
    return SharedPlan(
        evidence=evidence,
        warnings=(
            *warnings_of_units(book, best.placed, evidence),
            *warnings_of_windows(problem, evaluation),
        ),
        tool_version=__version__,
        status=status,
        reasons=tuple(reasons),
        seed=seed,
        method=found.method,
        verdict=verdict_of(ordered),
        placed=best.placed,
        promised_rps=promised,
        wanted_rps=found.wanted_rps,
        evaluation=evaluation,
        usd_per_hour=best.usd_per_hour,
        bound=found.bound,
        gap_frac=found.gap_frac,
        alternatives=tuple(
            SharedAlternative(
                method=each.found.method,
                num_gpus=each.placed.num_gpus,
                within_slo_rps=each.evaluation.within_slo_rps,
                usd_per_hour=each.usd_per_hour,
            )
            for each in ordered[1:]
        ),
        problem=problem,
    )


def warnings_of_windows(
    problem: SharedProblem, evaluation: SharedEvaluation
) -> tuple[str, ...]:
    """Services that meet their SLO on the whole, but not in every part of the time."""
    slos = {service.name: service.slo for service in problem.services}
    found = []
    for each in evaluation.services:
        wanted = slos[each.service].attainment_frac
        if each.worst is not None and each.worst.attained_frac < wanted:
            found.append(
                f"{each.service}: {each.worst} of the simulation, where {wanted:.0%} "
                "are asked for"
            )
    return tuple(found)


def verdict_of(ordered: Sequence[Served]) -> str:
    """What sharing gains over GPUs for each LLM alone, as simulated."""
    best = ordered[0]
    is_shared = any(each.unit.is_shared for each in best.placed.units)
    spatial = next(
        (e for e in ordered if e.found.method is SharingMethod.SPATIAL), None
    )
    what = "share GPUs" if is_shared else "do not share: each LLM has GPUs of its own"
    apart = best.placed.disaggregated
    if apart:
        what += f"; phases apart for {', '.join(apart)}"
    if spatial is None or spatial is best or not is_shared:
        return what
    own, other = best.evaluation.within_slo_rps, spatial.evaluation.within_slo_rps
    if own > other * (1.0 + TIE_FRAC):
        return f"{what}: {own:.4g} requests/s within SLO, {other:.4g} without sharing"
    sizes = best.placed.num_gpus, spatial.placed.num_gpus
    return f"{what}: {sizes[0]} GPUs, {sizes[1]} without sharing"
