"""Compare: several plans on the very same requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import to_mapping
from clusters.serde import read_mapping
from models.latency.library import LatencyLibrary
from planner.evaluate import Evaluator
from planner.evaluation import Evaluation
from planner.files import read_plan
from planner.goodput import FINAL
from planner.plan import PLAN_VERSION, Plan
from planner.problem import Problem
from planner.replay import ReplayOptions, replay
from planner.search.registry import method_names, methods_of
from planner.serving import Planner
from planner.solve import library_for, solve


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One plan of a comparison."""

    name: str = spec("File or method.")
    deployment: str = spec("What it deploys.")
    num_gpus: int = spec("GPUs.", unit="GPUs", ge=1)
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    goodput_rps: float = spec(
        "Its goodput on the common workload.", unit="requests/s", ge=0
    )
    evaluation: Evaluation = spec("Simulation of the common requests.")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def goodput_per_gpu_rps(self) -> float:
        """Goodput for each GPU."""
        return self.goodput_rps / self.num_gpus


def is_plan_file(path: str | Path) -> bool:
    """Whether a file says that it is a plan (of any version)."""
    version = str(read_mapping(path).get("api_version", ""))
    return version.partition("-v")[0] == PLAN_VERSION.partition("-v")[0]


def plans_of_methods(
    problem: Problem,
    *,
    latency: LatencyLibrary | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Plan], dict[str, str]]:
    """The best plan of every single method on a problem.

    Returns
    -------
    tuple
        Plans by the method's name, and for the other methods why they have none.
    """
    plans: dict[str, Plan] = {}
    why_not: dict[str, str] = {}
    for name in method_names():
        group = methods_of(name)
        if len(group) > 1:
            continue
        reason = group[0].supports(problem)
        if reason:
            why_not[name] = reason
            continue
        progress(f"searching: {name}")
        result = solve(problem, latency, method=name, seed=seed)
        if result.best is None:
            why_not[name] = "; ".join(result.reasons)
        else:
            plans[name] = result.best
    return plans, why_not


def load_plans(paths: Sequence[str | Path]) -> dict[str, Plan]:
    """Plans by the names of their files.

    Raises
    ------
    InputError
        If a file is not a plan, or is given twice.
    """
    plans: dict[str, Plan] = {}
    for path in paths:
        if str(path) in plans:
            raise InputError("plans", str(path), "each file once")
        plans[str(path)] = read_plan(path)
    return plans


def compare_plans(
    plans: Mapping[str, Plan],
    *,
    rate_rps: float | None = None,
    latency: LatencyLibrary | None = None,
) -> tuple[Comparison, ...]:
    """Simulate every plan on the requests of the first one's workload and rate.

    Raises
    ------
    InputError
        If the plans serve different models.
    """
    first = next(iter(plans.values()))
    options = ReplayOptions(
        rate_rps=rate_rps or first.evaluation.offered_rps,
        head=first.evaluation.num_requests,
        seed=first.seed,
    )
    rows = []
    for name, plan in plans.items():
        if plan.problem.service.llm != first.problem.service.llm:
            found = plan.problem.service.llm.name
            expected = f"the model of the others ({first.problem.service.llm.name})"
            raise InputError("llm", found, expected, file=name)
        shared = _with_services_of(first, plan)
        rows.append(
            Comparison(
                name=name,
                deployment=plan.deployment.describe(),
                num_gpus=plan.deployment.num_gpus,
                usd_per_hour=plan.usd_per_hour,
                goodput_rps=_goodput_rps(shared, plan, latency),
                evaluation=replay(shared, options, latency=latency),
            )
        )
    return tuple(rows)


def _with_services_of(first: Plan, plan: Plan) -> Plan:
    """The plan, asked to serve the first plan's requests under the first's SLO."""
    problem = replace(
        plan.problem, services=first.problem.services, objective=first.problem.objective
    )
    return replace(plan, problem=problem)


def _goodput_rps(shared: Plan, plan: Plan, latency: LatencyLibrary | None) -> float:
    """The plan's goodput; searched again if it was made for other requests."""
    problem, own = shared.problem, plan.problem.services
    if problem.services is own or to_mapping(problem.services) == to_mapping(own):
        return plan.goodput.rate_rps
    planner = Planner(problem=problem, library=library_for(problem, latency))
    evaluator = Evaluator(planner=planner, seed=shared.seed)
    return evaluator.goodput(plan.deployment, effort=FINAL).rate_rps
