"""``phaseplan schema``: the data dictionary of the files, and their JSON Schema."""

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusters.fields import InputError
from planner.cli.output import OutputFormat, OutputOption, emit

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clusters.dictionary import ClassEntry

DOCUMENTED = {
    "cluster": "clusters.cluster:ClusterFile",
    "gpu": "clusters.gpu:GpuType",
    "instance": "clusters.node:NodeType",
    "llm": "models.llm:LlmSpec",
    "step-table": "models.latency.step_table:StepTable",
    "problem": "planner.problem:Problem",
    "plan": "planner.plan:Plan",
    "events": "planner.simulator.outside_schedule:OutsideSchedule",
    "shared-problem": "planner.multiplexing.problem:SharedProblem",
    "shared-plan": "planner.multiplexing.shared_plan:SharedPlan",
    "workload": "planner.workload.workload_file:WorkloadFile",
}
"""The classes of files by the name of their schema; imported when asked for."""


class SchemaFormat(StrEnum):
    """Forms of the data dictionary."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    JSONSCHEMA = "jsonschema"


def schema(
    name: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(DOCUMENTED)}; or all.")
    ] = None,
    fmt: Annotated[
        SchemaFormat | None,
        typer.Option(
            "--format", help="Default: by the suffix of --output, otherwise table."
        ),
    ] = None,
    output: OutputOption = None,
) -> None:
    """Describe every key of a file: form, unit, default, range and meaning."""
    from clusters.dictionary import dictionary_of, json_schema_of
    from clusters.serde import to_mapping

    classes = {
        each: documented_class(each) for each in ([name] if name else DOCUMENTED)
    }
    data: dict[str, Any]
    if fmt is SchemaFormat.JSONSCHEMA:
        data = {each: json_schema_of(cls) for each, cls in classes.items()}
        only = data[name] if name else data
        emit(only, fmt=OutputFormat.JSON, table=str, output=output)
        return
    entries = {each: dictionary_of(cls) for each, cls in classes.items()}
    emit(
        {each: to_mapping(found) for each, found in entries.items()},
        fmt=OutputFormat(fmt) if fmt else None,
        table=lambda: _tables(entries),
        output=output,
    )


def documented_class(name: str) -> type:
    """The dataclass that a kind of file is read into.

    Raises
    ------
    InputError
        Naming the nearest one, if there is none of that name.
    """
    from clusters.mapping import nearest

    if name not in DOCUMENTED:
        raise InputError("", name, f"a documented file ({nearest(name, DOCUMENTED)})")
    module, _, attribute = DOCUMENTED[name].partition(":")
    found: type = getattr(import_module(module), attribute)
    return found


def _tables(entries: "dict[str, tuple[ClassEntry, ...]]") -> "RenderableType":
    from planner.cli.tables import sections

    # A class that several files hold is shown once.
    classes = {entry.name: entry for found in entries.values() for entry in found}
    parts = [(f"{c.name}: {c.meaning}", _table(c)) for c in classes.values()]
    return sections(*parts)


def _table(entry: "ClassEntry") -> "RenderableType":
    from planner.cli.tables import table_of

    rows = []
    for field in entry.fields:
        keys = "\n".join([field.name, *field.also])
        default = "required" if field.required else _shown(field.default, field.unit)
        rows.append([keys, field.type, field.unit, default, field.range, field.meaning])
    headers = ["key", "form", "unit", "default", "range", "meaning"]
    return table_of(headers, rows)


def _shown(default: object, unit: str) -> str:
    from planner.cli.tables import quantity

    if default is None:
        return "null"
    return "its defaults" if isinstance(default, dict) else quantity(default, unit)
