"""Replay: simulate a plan again, on its own workload or on another one."""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from models.latency.library import LatencyLibrary
from planner.evaluate import Evaluation, Evaluator
from planner.plan import Plan
from planner.serving import Planner
from planner.solve import library_for
from planner.workload.requests import Requests
from planner.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What to replay; by default exactly what the plan's evaluation replayed."""

    trace: str | None = spec("Trace file.", default=None)
    rate_rps: float | None = spec(
        "Mean rate to scale to.", unit="requests/s", gt=0, default=None
    )
    head: int | None = spec(
        "Only the first rows of the trace.", unit="requests", ge=1, default=None
    )
    seed: int | None = spec("Another seed.", unit="1", ge=0, default=None)

    def __post_init__(self) -> None:
        check_fields(self)


def replay(
    plan: Plan,
    options: ReplayOptions | None = None,
    *,
    latency: LatencyLibrary | None = None,
) -> Evaluation:
    """Simulate a plan's deployment and summarise.

    Without options this repeats the plan's own evaluation, number by number.
    """
    options = options or ReplayOptions()
    planner = Planner(problem=plan.problem, library=library_for(plan.problem, latency))
    seed = plan.seed if options.seed is None else options.seed
    evaluator = Evaluator(planner=planner, seed=seed)
    requests = replay_requests(plan, options)
    rate = options.rate_rps
    if options.trace is None:
        rate = rate or plan.evaluation.offered_rps
    return evaluator.evaluate(plan.deployment, requests, offered_rps=rate)


def replay_requests(plan: Plan, options: ReplayOptions) -> Requests:
    """The requests of a replay: those of the plan's evaluation, or of a trace."""
    seed = plan.seed if options.seed is None else options.seed
    if options.trace is not None:
        workload = Workload.from_trace(
            options.trace, head=options.head, rate_rps=options.rate_rps
        )
        num_requests = len(workload.trace or ()) or plan.evaluation.num_requests
        return workload.draw(num_requests, seed=seed)
    workload = plan.problem.service.workload
    rate = options.rate_rps or plan.evaluation.offered_rps
    num_requests = options.head or plan.evaluation.num_requests
    if workload.concurrency is not None:
        return workload.draw(num_requests, seed=seed)
    return workload.draw(num_requests, seed=seed, rate_rps=rate)
