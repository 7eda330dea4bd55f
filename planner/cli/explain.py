"""`phaseplan explain`: why this plan, what limits it, what it is sensitive to."""

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.output import FormatOption, OutputOption, QuietOption, emit
from planner.cli.progress import progress


def explain(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN", help="Plan (JSON or YAML).")
    ],
    fmt: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Tell a plan's bottleneck, margins, rejected candidates and sensitivity."""
    from clusters.mapping import to_mapping
    from planner.cli.explain_tables import explain_report
    from planner.explain import explain as explain_plan
    from planner.files import read_plan

    plan = read_plan(plan_file)
    with progress(quiet=quiet) as show:
        show("simulating around the operating point")
        found = explain_plan(plan)
    data = {
        "verdict": plan.verdict,
        "explanation": to_mapping(found),
        "counts": to_mapping(plan.counts),
        "evidence": to_mapping(plan.evidence),
    }
    emit(data, fmt=fmt, table=lambda: explain_report(plan, found), output=output)
