"""Compare: several plans on the very same requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clusters.fields import InputError, check_fields, spec
from clusters.serde import read_mapping
from planner.evaluate import Evaluation
from planner.files import read_plan
from planner.plan import PLAN_VERSION, Plan
from planner.problem import Problem
from planner.replay import ReplayOptions, replay
from planner.search.registry import method_names, methods_of
from planner.solve import solve


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One plan of a comparison."""

    name: str = spec("File or method.")
    deployment: str = spec("What it deploys.")
    num_gpus: int = spec("GPUs.", unit="GPUs", ge=1)
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    goodput_rps: float = spec("Its goodput.", unit="requests/s", ge=0)
    evaluation: Evaluation = spec("Simulation of the common requests.")

    def __post_init__(self) -> None:
        check_fields(self)


def load_plans(
    paths: Sequence[Path], *, progress: Callable[[str], None] = lambda _: None
) -> Mapping[str, Plan]:
    """Plans by name: of plan files, or of every method on one problem file.

    Raises
    ------
    InputError
        If a file is neither, or a problem is not alone.
    """
    plans: dict[str, Plan] = {}
    for path in paths:
        if read_mapping(path).get("api_version") == PLAN_VERSION:
            plans[str(path)] = read_plan(path)
            continue
        if len(paths) > 1:
            raise InputError("files", len(paths), "plans, or one problem alone")
        problem = Problem.load(path)
        for name in method_names():
            group = methods_of(name)
            if len(group) > 1 or group[0].supports(problem):
                continue
            progress(f"searching: {name}")
            best = solve(problem, method=name).best
            if best is not None:
                plans[name] = best
    if not plans:
        raise InputError("files", [str(p) for p in paths], "at least one plan")
    return plans


def compare_plans(
    plans: Mapping[str, Plan], *, rate_rps: float | None = None
) -> tuple[Comparison, ...]:
    """Simulate every plan on the requests of the first one's workload and rate.

    Raises
    ------
    InputError
        If the plans serve different models.
    """
    first = next(iter(plans.values()))
    rate = rate_rps or first.evaluation.offered_rps
    rows = []
    for name, plan in plans.items():
        if plan.problem.service.llm != first.problem.service.llm:
            found = plan.problem.service.llm.name
            expected = f"the model of the others ({first.problem.service.llm.name})"
            raise InputError("llm", found, expected, file=name)
        options = ReplayOptions(
            rate_rps=rate, head=first.evaluation.num_requests, seed=first.seed
        )
        rows.append(
            Comparison(
                name=name,
                deployment=plan.deployment.describe(),
                num_gpus=plan.deployment.num_gpus,
                usd_per_hour=plan.usd_per_hour,
                goodput_rps=plan.goodput.rate_rps,
                evaluation=replay(_with_workload(plan, first), options),
            )
        )
    return tuple(rows)


def _with_workload(plan: Plan, first: Plan) -> Plan:
    """The plan, asked to serve the first plan's requests under the first's SLO."""
    problem = replace(plan.problem, services=first.problem.services)
    return replace(plan, problem=problem)
