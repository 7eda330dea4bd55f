"""``phaseplan plan`` and ``simulate`` where several services share the cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clusters.fields import InputError
from clusters.mapping import nearest
from planner.cli.failures import ExitCode
from planner.cli.output import OutputFormat, emit, say
from planner.cli.problem_file import errors_name
from planner.cli.progress import progress

if TYPE_CHECKING:
    from planner.multiplexing.problem import SharedProblem


def plan_shared(
    problem_file: Path,
    data: Mapping[str, Any],
    *,
    method: str,
    seed: int,
    time_limit_s: float | None,
    profile: Path | None,
    fmt: OutputFormat | None,
    output: Path | None,
    quiet: bool,
) -> None:
    """Plan a problem of several services; as `planner.cli.plan.plan` otherwise."""
    from dataclasses import replace

    from planner.cli.shared_tables import shared_plan_report
    from planner.files import input_hashes
    from planner.multiplexing.problem import SharedProblem
    from planner.multiplexing.shared_files import (
        shared_plan_to_mapping,
        write_shared_plan,
    )
    from planner.multiplexing.shared_plan import METHODS, SharedPlan, plan_services

    problem = SharedProblem.of_mapping(data, file=str(problem_file))
    if profile is not None:
        problem = with_profile(problem, profile)
    if method not in METHODS:
        form = f"a method for several services ({nearest(method, tuple(METHODS))})"
        raise InputError("--method", method, form)
    with errors_name(problem_file), progress(quiet=quiet) as show:
        found = plan_services(
            problem,
            method=method,
            seed=seed,
            time_limit_s=time_limit_s,
            progress=show,
        )
    why_not = f"{problem_file}: {'; '.join(found.reasons)}"
    if not isinstance(found, SharedPlan):
        kept = f"; {output} is not written" if output else ""
        say(f"{why_not}{kept}", label="no plan", style="bold red")
        raise typer.Exit(ExitCode.NO_PLAN)
    best = replace(found, inputs_sha256=input_hashes(files_of(problem_file, data)))
    if output is not None:
        write_shared_plan(best, output)
    emit(shared_plan_to_mapping(best), fmt=fmt, table=lambda: shared_plan_report(best))
    if not best.status.is_success:
        say(f"{why_not}; this is the best effort", label="no plan", quiet=quiet)
        raise typer.Exit(ExitCode.NO_PLAN)


def with_profile(problem: "SharedProblem", path: Path) -> "SharedProblem":
    """The problem with the measured latencies of its models before all others.

    Raises
    ------
    InputError
        When the profile holds none of the models.
    """
    from dataclasses import replace

    from models.latency.profile import Profile

    llms = list(dict.fromkeys(service.llm for service in problem.services))
    profile = Profile.load(path).only_of(*llms)
    return replace(problem, engine=replace(problem.engine, latency_profile=profile))


def simulate_shared(
    plan_file: Path,
    data: Mapping[str, Any],
    *,
    rate_rps: float | None,
    seed: int | None,
    fmt: OutputFormat | None,
    output: Path | None,
    quiet: bool,
) -> None:
    """Simulate a plan of several services; `rate_rps` is of all of them together."""
    from clusters.mapping import to_mapping
    from planner.cli.shared_tables import shared_simulation_report
    from planner.multiplexing.serve import serve
    from planner.multiplexing.shared_files import shared_plan_of_mapping
    from planner.multiplexing.solve import book_of
    from planner.solve import library_for

    plan = shared_plan_of_mapping(data, plan_file)
    with errors_name(plan_file), progress(quiet=quiet) as show:
        show("simulating")
        evaluation = serve(
            plan.problem,
            book_of(plan.problem, library_for(plan.problem, None)),
            plan.placed,
            span_s=plan.evaluation.span_s,
            seed=plan.seed if seed is None else seed,
            rate_scale=1.0 if rate_rps is None else rate_rps / plan.wanted_rps,
            scheduling=plan.evaluation.scheduling,
        )
    emit(
        to_mapping(evaluation),
        fmt=fmt,
        table=lambda: shared_simulation_report(plan, evaluation),
        output=output,
    )
    if not evaluation.is_met:
        raise typer.Exit(ExitCode.NO_PLAN)


def check_not_given(options: Mapping[str, object]) -> None:
    """Refuse what a simulation of several services has no use for.

    Raises
    ------
    InputError
        Naming the first that was given.
    """
    for name, value in options.items():
        if value is not None:
            form = "nothing here: a plan for several services takes --rate and --seed"
            raise InputError(name, str(value), form)


def files_of(path: Path, data: Mapping[str, Any]) -> tuple[Path, ...]:
    """Files that a plan was made from: the problem, and those that it names."""
    services = data.get("services") or []
    named: list[Any] = [data.get("cluster")]
    for service in services:
        workload = service.get("workload") or {}
        named += [service.get("llm"), workload.get("trace")]
    beside = [path.parent / name for name in named if isinstance(name, str)]
    return (path, *dict.fromkeys(each for each in beside if each.is_file()))
