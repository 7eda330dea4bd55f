"""`phaseplan plan`: from a problem file to a checked plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clusters.mapping import from_mapping
from planner.cli.failures import ExitCode
from planner.cli.output import (
    OutputFormat,
    QuietOption,
    check_output,
    emit,
    say,
)
from planner.cli.problem_file import (
    MethodOption,
    SeedOption,
    SettingsOption,
    check_one_service,
    check_positive,
    check_supported,
    errors_name,
    files_of,
    read_data,
)
from planner.cli.progress import progress
from planner.cli.shared_plan import plan_shared

if TYPE_CHECKING:
    from planner.plan import Plan
    from planner.problem import Problem

TimeLimitOption = Annotated[
    float | None,
    typer.Option(
        callback=check_positive,
        help="Seconds after which the search ends with its best.",
    ),
]
PlanFormatOption = Annotated[
    OutputFormat | None,
    typer.Option("--format", help="What to print; default: table."),
]
PlanOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        callback=check_output,
        help="Write the plan to this file too (JSON, or YAML by its suffix).",
    ),
]

ProfileOption = Annotated[
    Path | None,
    typer.Option(help="Measured latencies (`phaseplan profile fit`)."),
]


def plan(
    problem_file: Annotated[
        Path, typer.Argument(metavar="PROBLEM", help="Problem (YAML or JSON).")
    ],
    settings: SettingsOption = None,
    method: MethodOption = "auto",
    seed: SeedOption = 0,
    time_limit: TimeLimitOption = None,
    profile: ProfileOption = None,
    fmt: PlanFormatOption = None,
    output: PlanOutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Find the best deployment for a problem.

    Exit code 3: no plan meets the SLO, and the best effort is given; or nothing can run
    the model, and no file is written.
    """
    from dataclasses import replace

    from planner.files import input_hashes, write_plan
    from planner.multiplexing.file_kinds import is_shared_problem
    from planner.problem import Problem
    from planner.solve import solve
    from planner.stop import MaxRuntime, Never

    data = read_data(problem_file, settings)
    if is_shared_problem(data):
        plan_shared(
            problem_file,
            data,
            method=method,
            seed=seed,
            time_limit_s=time_limit,
            profile=profile,
            fmt=fmt,
            output=output,
            quiet=quiet,
        )
        return
    check_one_service(method)
    problem = from_mapping(Problem, data, file=str(problem_file))
    if profile is not None:
        problem = with_profile(problem, profile)
    check_supported(problem, method, problem_file)
    stop = Never() if time_limit is None else MaxRuntime(time_limit)
    with errors_name(problem_file), progress(quiet=quiet) as show:
        result = solve(problem, method=method, stop=stop, seed=seed, progress=show)
    why_not = f"{problem_file}: {'; '.join(result.reasons)}"
    if result.best is None:
        kept = f"; {output} is not written" if output else ""
        say(f"{why_not}{kept}", label="no plan", style="bold red")
        raise typer.Exit(ExitCode.NO_PLAN)
    hashes = input_hashes(files_of(problem_file, result.best))
    best = replace(result.best, inputs_sha256=hashes)
    if output is not None:
        write_plan(best, output)
    emit_plan(best, fmt)
    if not result.status.is_success:
        say(f"{why_not}; this is the best effort", label="no plan", quiet=quiet)
        raise typer.Exit(ExitCode.NO_PLAN)


def with_profile(problem: "Problem", path: Path) -> "Problem":
    """The problem with the measured latencies of its model before all others.

    Raises
    ------
    InputError
        When the profile does not hold the model.
    """
    from dataclasses import replace

    from models.latency.profile import Profile

    profile = Profile.load(path).only_of(problem.service.llm)
    return replace(problem, engine=replace(problem.engine, latency_profile=profile))


def emit_plan(best: "Plan", fmt: OutputFormat | None) -> None:
    """Print a plan: as tables, or as its file would be."""
    from planner.cli.plan_tables import plan_report
    from planner.files import plan_to_mapping

    emit(plan_to_mapping(best), fmt=fmt, table=lambda: plan_report(best))
