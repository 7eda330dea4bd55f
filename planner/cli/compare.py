"""`phaseplan compare`: plans side by side on the same requests."""

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.output import FormatOption, OutputOption, QuietOption, emit
from planner.cli.progress import progress


def compare(
    plan_files: Annotated[
        list[Path], typer.Argument(help="Plans (JSON), or one problem (YAML).")
    ],
    rate: Annotated[
        float | None,
        typer.Option(help="Rate to compare at, requests/s; default: the first plan's."),
    ] = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Simulate several plans on the same requests; a problem: every method on it."""
    from clusters.mapping import to_mapping
    from planner.cli.compare_tables import compare_report
    from planner.compare import compare_plans, load_plans

    with progress(quiet=quiet) as show:
        plans = load_plans(plan_files, progress=show)
        show("simulating")
        rows = compare_plans(plans, rate_rps=rate)
    emit(to_mapping(rows), fmt=fmt, table=lambda: compare_report(rows), output=output)
