"""`phaseplan plan`: from a problem file to a checked plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.failures import ExitCode
from planner.cli.output import (
    FormatOption,
    OutputFormat,
    OutputOption,
    QuietOption,
    emit,
)
from planner.cli.progress import progress

if TYPE_CHECKING:
    from planner.plan import Plan

MethodOption = Annotated[
    str,
    typer.Option(
        help="auto, distserve, distserve-high, distserve-low, aggregated, exhaustive."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
TimeLimitOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Seconds after which the search ends with its best."),
]


def plan(
    problem_file: Annotated[Path, typer.Argument(help="Problem (YAML or JSON).")],
    method: MethodOption = "auto",
    seed: SeedOption = 0,
    time_limit: TimeLimitOption = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Find the best deployment for a problem; `-o` writes the plan as JSON.

    Exit code 3: no plan meets the SLO (the best effort is still written).
    """
    from dataclasses import replace

    from planner.files import input_hashes, write_plan
    from planner.problem import Problem
    from planner.solve import solve
    from planner.stop import MaxRuntime, Never

    problem = Problem.load(problem_file)
    stop = Never() if time_limit is None else MaxRuntime(time_limit)
    with progress(quiet=quiet) as show:
        result = solve(problem, method=method, stop=stop, seed=seed, progress=show)
    if result.best is None:
        tell_why_not(result.reasons)
        raise typer.Exit(ExitCode.NO_PLAN)
    best = replace(
        result.best, inputs_sha256=input_hashes(files_of(problem_file, result.best))
    )
    if output is not None:
        write_plan(best, output)
    emit_plan(best, fmt if output is None else fmt or OutputFormat.TABLE)
    if not result.status.is_success:
        raise typer.Exit(ExitCode.NO_PLAN)


def emit_plan(best: "Plan", fmt: OutputFormat | None) -> None:
    """Print a plan: as tables, or as its file would be."""
    from planner.cli.plan_tables import plan_report
    from planner.files import plan_to_mapping

    emit(plan_to_mapping(best), fmt=fmt, table=lambda: plan_report(best))


def tell_why_not(reasons: tuple[str, ...]) -> None:
    """Tell why nothing can run."""
    from planner.cli.output import say

    for reason in reasons:
        say(reason, label="no plan", style="bold red")


def files_of(problem_file: Path, best: "Plan") -> tuple[Path, ...]:
    """Files that a plan was made from."""
    source = best.problem.service.workload.source
    return (problem_file,) if source is None else (problem_file, Path(source.path))
