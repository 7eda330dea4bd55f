"""`phaseplan profile links`: links measured between hosts, for a cluster file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clusters.fields import InputError
from planner.cli.output import FormatOption, OutputFormat, OutputOption, emit, say
from planner.cli.profile import app
from planner.cli.tables import quantity, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from models.measured_links import MeasuredLink


@app.command()
def links(
    records: Annotated[Path, typer.Argument(help="Records (JSON lines).")],
    cluster: Annotated[
        str | None,
        typer.Option(help="Cluster file to put the links into; default: them alone."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="HOST=NODE where the cluster names a host otherwise."),
    ] = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Turn messages measured between hosts into the links of a cluster file.

    Measure them with ``torchrun ... -m profiler.collectives --links`` on every host.
    """
    from clusters.cluster import Cluster
    from clusters.mapping import to_mapping
    from models.measured_links import (
        fabric_of,
        fit_links,
        narrower_nodes,
        with_measured_links,
    )
    from models.profile_table import read_profile_table

    table = read_profile_table(records)
    for problem in table.problems:
        say(problem, label="warning", style="yellow")
    found = fit_links(table.links)
    fabric = fabric_of(found, _names(name or []))
    data = {"fabric": to_mapping(fabric)}
    if cluster is not None:
        whole = with_measured_links(Cluster.load(cluster), fabric)
        data = to_mapping(whole)
        for line in narrower_nodes(whole):
            say(line, label="warning", style="yellow")
    say(
        "measured rates hold what software leaves of a link already: plan with "
        "engine.kv_link_efficiency_frac: 1"
    )
    if output is not None and fmt is None and output.suffix.lower() != ".json":
        fmt = OutputFormat.YAML
    emit(data, fmt=fmt, table=lambda: _links_table(found), output=output)


def _names(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        host, _, node = pair.partition("=")
        if not host or not node:
            raise InputError("--name", pair, "HOST=NODE")
        found[host] = node
    return found


def _links_table(found: "Sequence[MeasuredLink]") -> "Table":
    rows = [
        [
            " - ".join(link.hosts),
            quantity(link.bytes_per_s, "bytes/s"),
            f"{link.latency_ms:.4g} ms",
            f"{link.error_frac:.1%}",
        ]
        for link in found
    ]
    headers = ["hosts", "rate", "latency", "largest error"]
    return table_of(headers, rows, numeric=headers[1:])
