"""The command ``phaseplan``: its sub-commands, and how it ends.

Modules of sub-commands import typer and little else at the top, and what they work
with inside their functions, so that ``--help`` and completion answer at once.
"""

import sys
import warnings
from typing import Annotated

import typer

from planner.cli import (
    catalog,
    cluster,
    compare,
    explain,
    export,
    model,
    plan,
    profile_commands,
    schema,
    simulate,
    trace,
)
from planner.cli.failures import exit_code_of, show_bug, show_warning

app = typer.Typer(
    name="phaseplan",
    help="Plan where the prefill and decode phases of LLM serving run on a cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("plan")(plan.plan)
app.command("simulate")(simulate.simulate)
app.command("compare")(compare.compare)
app.command("explain")(explain.explain)
app.command("export")(export.export)
app.add_typer(catalog.app)
app.add_typer(cluster.app)
app.add_typer(model.app)
app.add_typer(trace.app, name="trace")
app.add_typer(profile_commands.app, name="profile")
app.command("schema")(schema.schema)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"phaseplan {version('phaseplan')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version and stop.",
        ),
    ] = False,
) -> None:
    """Options of ``phaseplan`` itself."""


def run() -> None:
    """The console script: run the command line and exit with its code."""
    sys.excepthook = show_bug
    command = typer.main.get_command(app)
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        code = exit_code_of(command)
    sys.exit(code)
