"""`phaseplan compare`: plans side by side on the same requests."""

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.failures import ExitCode
from planner.cli.output import FormatOption, OutputOption, QuietOption, emit, say
from planner.cli.problem_file import (
    SeedOption,
    SettingsOption,
    check_positive,
    check_supported,
    errors_name,
    read_problem,
)
from planner.cli.progress import progress


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Plans (JSON or YAML), or one problem: every method.",
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            callback=check_positive,
            help="Rate to compare at, requests/s; default: the first plan's.",
        ),
    ] = None,
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    fmt: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Simulate several plans on the same requests; a problem: every method on it.

    `--set` and `--seed` are for a problem. Exit code 3: no method has a plan.
    """
    from clusters.fields import InputError
    from clusters.mapping import to_mapping
    from planner.cli.compare_tables import compare_report
    from planner.compare import (
        compare_plans,
        is_plan_file,
        load_plans,
        plans_of_methods,
    )

    with errors_name(files[0]), progress(quiet=quiet) as show:
        if len(files) > 1 or is_plan_file(files[0]):
            if settings:
                raise InputError("--set", settings[0], "a problem, not plans")
            plans = load_plans(files)
        else:
            problem = read_problem(files[0], settings)
            check_supported(problem, "auto", files[0])
            plans, why_not = plans_of_methods(problem, seed=seed, progress=show)
            for name, reason in why_not.items():
                say(reason, label=f"no plan by {name}", quiet=quiet and bool(plans))
            if not plans:
                raise typer.Exit(ExitCode.NO_PLAN)
        show("simulating")
        rows = compare_plans(plans, rate_rps=rate)
    emit(to_mapping(rows), fmt=fmt, table=lambda: compare_report(rows), output=output)
