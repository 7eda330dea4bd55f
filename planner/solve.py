"""`solve`: problem in, result out."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from models.latency.library import LatencyLibrary
from models.latency.measured import MeasuredSource
from planner.bound import gpu_rates, rate_bound, shape_rates
from planner.cells import is_of_cells
from planner.check import check_deployment
from planner.engines import engine_sources
from planner.errors import UnsupportedProblemError
from planner.evaluate import Evaluator
from planner.evaluation import Evaluation
from planner.evidence import evidence_of, warnings_of
from planner.finalists import verify
from planner.goodput import FINAL, Effort
from planner.max_kv_flow import kv_flow_of
from planner.nearest_slo import nearest_slo
from planner.plan import (
    AllocationBound,
    Alternative,
    MethodCounts,
    Plan,
)
from planner.problem import EngineSettings, Problem
from planner.result import Result, Status, gap_to
from planner.search.contract import Candidate, SearchContext, SearchOutcome
from planner.search.registry import methods_of
from planner.serving import Planner
from planner.stop import Never, StoppingCriterion
from planner.verdict import verdict
from planner.version import __version__
from planner.whole_bound import whole_bound

HEADROOM_FRAC = 0.05
"""Where no rate is asked for, the workload is shown this far below the goodput."""

_LARGE_SPAN_S = 60.0
"""Arrivals that the workload of a large deployment spans at least."""

Progress = Callable[[str], None]


def solve(
    problem: Problem,
    latency: LatencyLibrary | None = None,
    *,
    method: str = "auto",
    stop: StoppingCriterion | None = None,
    seed: int = 0,
    effort: Effort = FINAL,
    progress: Progress = lambda _: None,
) -> Result:
    """Find the best deployment for `problem` and prove it by simulation.

    Parameters
    ----------
    problem
        Cluster, service and goal.
    latency
        Where step latencies come from; None: the shipped library.
    method
        Name of a search method, or of a group of them (`method_names()`).
    stop
        When to end the search; None: when it is through.
    seed
        Seed of every random draw.
    effort
        How long and on how many seeds the finalists are simulated.
    progress
        Called with a line of text at every step.

    Returns
    -------
    Result
        Status, the best plan (or best effort), bound, gap and counts.

    Raises
    ------
    UnknownMethodError, UnsupportedProblemError
        When no such method exists, or none that the name stands for applies.
    """
    started = time.monotonic()
    planner = Planner(problem=problem, library=library_for(problem, latency))
    evaluator = Evaluator(planner=planner, seed=seed)
    context = SearchContext(evaluator, stop or Never())
    outcomes, counts = run_methods(context, method, progress)
    progress("simulating the finalists")
    finalists = verify(evaluator, outcomes, effort)
    has_unlike = any(outcome.has_unlike for outcome in outcomes)
    shapes = shape_rates(planner, seed=seed)
    rates = gpu_rates(planner, seed=seed, has_unlike=has_unlike, shapes=shapes)
    bound = finite(whole_bound(problem, rates, () if has_unlike else shapes))
    status, reasons = judge(problem, finalists, outcomes, rate_bound(problem, rates))
    best = None
    if finalists:
        nearest = None
        if status is Status.NOT_FOUND:
            progress("looking for the nearest SLO that is met")
            rate = problem.service.workload.rate_rps
            target = rate if problem.objective.needs_rate else None
            nearest = nearest_slo(evaluator, finalists, target)
            reasons += () if nearest is None else (nearest.describe(),)
        progress("simulating the workload on the plan")
        best = replace(
            make_plan(evaluator, finalists, status, reasons, bound),
            counts=counts,
            nearest_slo=None if nearest is None else nearest.slo,
            allocation=allocation_of(problem, outcomes, finalists[0]),
        )
    return Result(
        status=status,
        reasons=reasons,
        best=best,
        bound=bound,
        gap_frac=best.gap_frac if best else None,
        allocation=best.allocation if best else None,
        counts=counts,
        runtime_s=time.monotonic() - started,
        num_evaluations=evaluator.num_evaluations,
    )


class HasEngine(Protocol):
    """A problem of one service or of several."""

    @property
    def engine(self) -> EngineSettings:
        """Its engine settings."""
        ...


def library_for(problem: HasEngine, latency: LatencyLibrary | None) -> LatencyLibrary:
    """The library with the sources that the problem asks for."""
    library = latency or LatencyLibrary.default()
    profile = problem.engine.latency_profile
    if profile is not None:
        measured = MeasuredSource(profile=profile)
        library = LatencyLibrary(sources=(measured, *library.sources))
    wanted = problem.engine.latency_sources
    if not wanted:
        return library
    known = LatencyLibrary(sources=(*library.sources, *engine_sources()))
    return known.with_sources(*wanted)


def run_methods(
    context: SearchContext, name: str, progress: Progress
) -> tuple[tuple[SearchOutcome, ...], tuple[MethodCounts, ...]]:
    """Run every method behind a name that supports the problem."""
    outcomes, counts = [], []
    for method in methods_of(name):
        why_not = method.supports(context.problem)
        if why_not is None:
            progress(f"searching: {method.name}")
            outcome = method.search(context)
            outcomes.append(outcome)
        counts.append(
            MethodCounts(
                method=method.name,
                num_enumerated=0 if why_not else outcome.ledger.enumerated,
                num_evaluated=0 if why_not else outcome.ledger.evaluated,
                rejected={} if why_not else dict(outcome.ledger.rejected),
                is_stopped=False if why_not else outcome.is_stopped,
                why_skipped=why_not,
            )
        )
    if not outcomes:
        reason = "; ".join(f"{c.method}: {c.why_skipped}" for c in counts)
        raise UnsupportedProblemError(name, reason)
    return tuple(outcomes), tuple(counts)


def judge(
    problem: Problem,
    finalists: tuple[Candidate, ...],
    outcomes: tuple[SearchOutcome, ...],
    most_rps: float,
) -> tuple[Status, tuple[str, ...]]:
    """Status of the search and the reasons for it.

    No plan exceeds `most_rps`, in requests/s.
    """
    if not finalists and any(outcome.is_stopped for outcome in outcomes):
        return Status.NOT_FOUND, ("stopped before any deployment was simulated",)
    if not finalists:
        reasons: dict[str, int] = {}
        for outcome in outcomes:
            for why, number in outcome.ledger.rejected.items():
                reasons[why] = reasons.get(why, 0) + number
        told = tuple(f"{n} x {why}" for why, n in reasons.items() if n)
        is_usable = any(outcome.ledger.evaluated for outcome in outcomes)
        what = (
            "no deployment fits the GPUs" if is_usable else "no replica runs the model"
        )
        return Status.INFEASIBLE, (what, *told)
    best = finalists[0]
    rate = best.goodput.rate_rps
    target = problem.service.workload.rate_rps if problem.objective.needs_rate else None
    slo = problem.service.slo.describe()
    if target is not None and target > most_rps:
        why = (
            f"{target:g} requests/s is beyond the {most_rps:.3f} requests/s that all "
            "GPUs together could serve"
        )
        return Status.INFEASIBLE, (why,)
    if target is not None and rate < target:
        return Status.NOT_FOUND, (f"best {rate:.3f} of {target:g} requests/s at {slo}",)
    if rate <= 0:
        return Status.NOT_FOUND, (f"no deployment meets {slo} at any rate",)
    if all(outcome.is_exact for outcome in outcomes):
        return Status.OPTIMAL, ()
    left_out = dict.fromkeys(what for each in outcomes for what in each.left_out)
    return Status.FEASIBLE, tuple(f"not tried: {what}" for what in left_out)


def make_plan(
    evaluator: Evaluator,
    finalists: tuple[Candidate, ...],
    status: Status,
    reasons: tuple[str, ...],
    bound: float | None,
) -> Plan:
    """The best finalist with the evidence for it."""
    planner = evaluator.planner
    problem = planner.problem
    best = finalists[0]
    check_deployment(problem, best.deployment)
    goal = problem.objective.goal
    value = best.amounts.value(goal)
    return Plan(
        tool_version=__version__,
        status=status,
        reasons=reasons,
        seed=evaluator.seed,
        method=best.method,
        verdict=verdict(problem, finalists),
        deployment=best.deployment,
        goodput=best.goodput,
        evaluation=evaluate_workload(evaluator, best),
        usd_per_hour=best.usd_per_hour,
        power_w=best.power_w,
        bound=bound,
        gap_frac=gap_to(goal, value, bound) if status.is_success else None,
        kv_flow=kv_flow_of(evaluator, best.deployment),
        alternatives=tuple(
            Alternative(
                method=c.method,
                deployment=c.deployment.describe(),
                routing=c.deployment.routing,
                is_disaggregated=c.deployment.is_disaggregated,
                num_gpus=c.deployment.num_gpus,
                goodput=c.goodput,
                usd_per_hour=c.usd_per_hour,
                power_w=c.power_w,
            )
            for c in finalists[1:]
        ),
        evidence=evidence_of(planner, best.deployment),
        warnings=warnings_of(planner, best.deployment),
        problem=problem,
    )


def allocation_of(
    problem: Problem, outcomes: tuple[SearchOutcome, ...], best: Candidate
) -> AllocationBound | None:
    """The allocation bound of the search, and the distance of the best to it.

    None where the best has replicas of unlike stages, which it does not cover.
    """
    bound = next((o.allocation for o in outcomes if o.allocation is not None), None)
    if any(replica.shape.has_unlike_stages for replica in best.deployment.replicas):
        return None  # it is on uniform replicas
    if bound is None or best.score(problem) is None:
        return bound
    goal = problem.objective.goal
    value = best.amounts.value(goal)
    if value is None:
        return bound
    # A large pool may do better than pools of the size that rates are simulated in.
    reached = max(bound.value, value) if goal.is_upper else min(bound.value, value)
    return replace(bound, value=reached, gap_frac=gap_to(goal, value, reached))


def finite(value: float | None) -> float | None:
    """The value, or None where it is unlimited."""
    return None if value is None or math.isinf(value) else value


def evaluate_workload(evaluator: Evaluator, best: Candidate) -> Evaluation:
    """Simulate the workload itself: at its own rate, or with headroom at the goodput.

    A trace is replayed from its first to its last request.
    """
    workload = evaluator.planner.problem.service.workload
    wanted = workload.mean_rate_rps
    needs_rate = evaluator.planner.problem.objective.needs_rate
    sustained = best.goodput.rate_rps * (1.0 - HEADROOM_FRAC)
    rate = wanted if needs_rate or not sustained else sustained
    if workload.trace is not None:
        num_requests = len(workload.trace)
    else:
        num_requests = FINAL.num_requests(rate or 1.0)
    if workload.trace is None and is_of_cells(len(best.deployment.replicas)):
        # So many replicas would see but a few requests each.
        num_requests = max(num_requests, math.ceil(_LARGE_SPAN_S * (rate or 1.0)))
    requests = workload.draw(num_requests, seed=evaluator.seed, rate_rps=rate)
    return evaluator.evaluate(best.deployment, requests, offered_rps=rate)
