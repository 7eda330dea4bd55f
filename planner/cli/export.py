"""``phaseplan export``: launch files of a plan for a serving system."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from clusters.fields import InputError
from planner.cli.output import say

SCRIPT_MODE = 0o755


def export(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A plan of `phaseplan plan`.")
    ],
    to: Annotated[str, typer.Option(help="Serving system to write for.")] = "vllm",
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "-o", help="Folder to write; default: <plan>-<target>."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace files that are there, filled in or not."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files, write none.")
    ] = False,
) -> None:
    """Write scripts that start a plan on its cluster; list them on stdout."""
    files, told = exported(plan_file, to)
    folder = output_dir or Path(f"{plan_file.stem}-{to}")
    others = check_folder(folder, files, overwrite=overwrite)
    if not dry_run:
        write_files(folder, files)
    for name in files:
        typer.echo(folder / name)
    for caveat in told:
        say(caveat, label="note")
    if others:
        say(f"not of this plan, and left in {folder}: {', '.join(others)}")


def exported(plan_file: Path, to: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Files of a plan of one service or of several, and what users should know.

    Raises
    ------
    InputError
        If the plan does not hold, or there is no such target for it.
    """
    from clusters.serde import read_mapping
    from planner.export import registry, vllm_shared
    from planner.files import plan_of_mapping
    from planner.multiplexing.file_kinds import is_shared_plan
    from planner.multiplexing.shared_files import shared_plan_of_mapping

    data = read_mapping(plan_file)
    if is_shared_plan(data):
        if to != "vllm":
            raise InputError("--to", to, "vllm, for a plan of several services")
        shared = shared_plan_of_mapping(data, plan_file)
        return vllm_shared.export_shared(shared), vllm_shared.caveats(shared)
    plan = plan_of_mapping(data, plan_file)
    files = registry.export(plan, to)
    return files, registry.exporter_for(to).caveats(plan)


def check_folder(
    folder: Path, names: Iterable[str], *, overwrite: bool
) -> tuple[str, ...]:
    """Names of other files in a folder that may be written.

    Raises
    ------
    InputError
        If it is a file, or not empty without `overwrite`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("--output-dir", str(folder), "a folder")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if found and not overwrite:
        form = "a new or empty folder (or --overwrite)"
        raise InputError("--output-dir", str(folder), form)
    written = {name.partition("/")[0] for name in names}
    return tuple(sorted(found - written))


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write each file whole; those that begin with ``#!`` become executable."""
    from clusters.serde import write_text_atomic

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_text_atomic(folder / name, text)
        if text.startswith("#!"):
            (folder / name).chmod(SCRIPT_MODE)
