"""``phaseplan catalog``: what ships with phaseplan, and where its numbers come from."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusters.fields import InputError
from planner.cli.output import FormatOption, OutputOption, emit

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(
    name="catalog",
    help="List the shipped GPUs, instances, LLMs, clusters, workloads and connectors.",
    no_args_is_help=True,
)


class Kind(StrEnum):
    """What the catalogue holds."""

    GPUS = "gpus"
    INSTANCES = "instances"
    LLMS = "llms"
    CLUSTERS = "clusters"
    WORKLOADS = "workloads"
    CONNECTORS = "connectors"


@app.command("list")
def list_entries(
    kind: Annotated[Kind | None, typer.Argument(help="Only these.")] = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """List the entries of the catalogue with their main numbers."""
    from planner.cli.catalog_rows import rows_of

    kinds = [kind] if kind else list(Kind)
    data = {each.value: rows_of(each.value) for each in kinds}
    emit(data, fmt=fmt, table=lambda: _list_tables(data), output=output)


@app.command("show")
def show_entry(
    name: Annotated[str, typer.Argument(help="Its name, or KIND/NAME.")],
    fmt: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Show every number of an entry with its unit, source and date."""
    from clusters.serde import to_mapping
    from planner.cli.facts import facts_about

    kind, found = find_entry(name)
    facts = to_mapping(facts_about(kind.value, found))
    data = {"kind": kind.value, "name": found, "facts": facts}
    emit(data, fmt=fmt, table=lambda: _facts_tables(data), output=output)


def find_entry(name: str) -> tuple[Kind, str]:
    """The kind and name of an entry; ``clusters/x`` tells it from ``instances/x``.

    Raises
    ------
    InputError
        If there is none of that name, or several.
    """
    from clusters.mapping import nearest
    from planner.cli.catalog_rows import names_of

    known = {kind: names_of(kind.value) for kind in Kind}
    prefix, _, rest = name.partition("/")
    kinds = [kind for kind in Kind if kind == prefix and rest] or list(Kind)
    wanted = rest if len(kinds) == 1 else name
    found = [kind for kind in kinds if wanted in known[kind]]
    if len(found) > 1:
        choices = " or ".join(f"{kind}/{wanted}" for kind in found)
        raise InputError("", name, f"one of the two: {choices}")
    if not found:
        hint = nearest(wanted, [each for kind in kinds for each in known[kind]])
        raise InputError("", name, f"a name in the catalogue ({hint})")
    return found[0], wanted


def _list_tables(data: Mapping[str, list[dict[str, Any]]]) -> "RenderableType":
    from planner.cli.tables import sections

    titled = len(data) > 1
    parts = [(kind if titled else "", _list_table(rows)) for kind, rows in data.items()]
    return sections(*parts)


def _list_table(rows: list[dict[str, Any]]) -> "RenderableType":
    from planner.cli.catalog_rows import COLUMNS
    from planner.cli.tables import quantity, table_of

    keys = list(rows[0])
    columns = [COLUMNS.get(key, (key, "")) for key in keys]
    cells = [
        [quantity(row[k], unit) for k, (_, unit) in zip(keys, columns, strict=True)]
        for row in rows
    ]
    headings = [heading for heading, _ in columns]
    numeric = [heading for heading, unit in columns if unit]
    return table_of(headings, cells, numeric=numeric)


def _facts_tables(data: Mapping[str, Any]) -> "RenderableType":
    from planner.cli.tables import facts_table, sections, table_of

    marks: dict[tuple[str, str], str] = {}
    rows = []
    for fact in data["facts"]:
        source = fact["source"], fact["date"]
        mark = marks.setdefault(source, f"[{len(marks) + 1}]")
        value = _value(fact["value"], fact["unit"])
        rows.append([fact["name"], value, mark, fact["meaning"]])
    notes = [
        (mark, f"{source} ({date})" if date else source)
        for (source, date), mark in marks.items()
    ]
    table = table_of(["field", "value", "source", "meaning"], rows)
    title = f"{data['name']} ({data['kind']})"
    return sections((title, table), ("sources", facts_table(notes)))


def _value(value: Any, unit: str) -> str:
    from planner.cli.tables import quantity

    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_value(item, unit)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_value(item, unit) for item in value)
    return quantity(value, unit)
