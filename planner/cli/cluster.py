"""``phaseplan cluster``: look at a cluster, or check a cluster file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusters.fields import InputError
from planner.cli.output import FormatOption, OutputOption, QuietOption, emit

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clusters.cluster import Cluster

MAX_RACKS_SHOWN = 12
"""More racks than this are one line in the table; JSON and YAML have them all."""

app = typer.Typer(
    name="cluster",
    help="Show or check a cluster and its network.",
    no_args_is_help=True,
)


@app.command("show")
def show_cluster(
    cluster: Annotated[
        str | None, typer.Argument(help="An example's name, or a file.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Draw the cluster of this plan, coloured by pool."),
    ] = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Show nodes, GPUs, NICs, price and bandwidth between sampled GPUs.

    With --plan, or an --output that ends in .svg or .png, a picture.
    """
    from planner.cli.cluster_facts import facts_of_cluster

    is_named_picture = output is not None and output.suffix.lower() in (".svg", ".png")
    is_picture = plan is not None or is_named_picture
    if (cluster is None) == (plan is None):
        form = "either a cluster or --plan"
        raise InputError("cluster show", cluster or "nothing", form)
    if is_picture:
        _draw(cluster, plan, output)
        return
    assert cluster is not None, "checked above"
    facts = facts_of_cluster(_checked_cluster(cluster))
    emit(facts, fmt=fmt, table=lambda: _tables(facts), output=output)


def _draw(cluster: str | None, plan: Path | None, output: Path | None) -> None:
    """Write the picture of a cluster, or of a plan on its cluster."""
    from clusters.serde import read_mapping, write_bytes_atomic, write_text_atomic
    from planner.files import plan_of_mapping
    from planner.multiplexing.file_kinds import is_shared_plan
    from planner.multiplexing.shared_files import shared_plan_of_mapping
    from planner.report.cluster_svg import cluster_svg
    from planner.report.gpu_marks import marks_of_plan, marks_of_shared_plan
    from planner.report.png import png_of

    if plan is None:
        assert cluster is not None, "one of them is given"
        text = cluster_svg(_checked_cluster(cluster), {})
    elif is_shared_plan(data := read_mapping(plan)):
        shared = shared_plan_of_mapping(data, plan)
        marks = marks_of_shared_plan(shared)
        text = cluster_svg(shared.problem.cluster, marks, title=shared.verdict)
    else:
        whole = plan_of_mapping(data, plan)
        title = whole.deployment.describe()
        text = cluster_svg(whole.problem.cluster, marks_of_plan(whole), title=title)
    if output is None:
        typer.echo(text, nl=False)
    elif output.suffix.lower() == ".png":
        write_bytes_atomic(output, png_of(text))
    else:
        write_text_atomic(output, text)


@app.command("validate")
def validate_cluster(
    file: Annotated[str, typer.Argument(help="A cluster file, or an example's name.")],
    quiet: QuietOption = False,
) -> None:
    """Check a cluster file: its keys, its numbers, and that all nodes are joined."""
    cluster = _checked_cluster(file)
    if not quiet:
        nodes, gpus = len(cluster.nodes), cluster.num_gpus
        parts = len(cluster.topology.components())
        joined = "all joined" if parts == 1 else f"in {parts} parts that nothing joins"
        typer.echo(f"ok: {file}: {nodes} nodes, {gpus} GPUs, {joined}")


def _checked_cluster(name_or_path: str) -> "Cluster":
    """The cluster, with a graph in which every GPU reaches every other.

    Unless it says that it has islands.

    Raises
    ------
    InputError
        Naming the parts that nothing joins.
    """
    from clusters.cluster import Cluster

    cluster = Cluster.load(name_or_path)
    parts = cluster.topology.components()
    if len(parts) > 1 and not cluster.fabric.allow_islands:
        shown = "; ".join(_part(cluster, part) for part in parts)
        form = f"links that join all nodes (or allow_islands: true); apart are {shown}"
        raise InputError("fabric", cluster.name, form, file=name_or_path)
    return cluster


def _part(cluster: "Cluster", gpus: tuple[int, ...]) -> str:
    names = dict.fromkeys(cluster.topology.gpu(index).node_name for index in gpus)
    return ", ".join(names)


def _tables(facts: dict[str, Any]) -> "RenderableType":
    from planner.cli.tables import sections

    about = f": {facts['description']}" if facts["description"] else ""
    parts = [(f"{facts['name']}{about}", _overview(facts))]
    parts.append(("", _node_table(facts["nodes"])))
    if 1 < len(facts["racks"]) <= MAX_RACKS_SHOWN:
        parts.append(("", _rack_table(facts["racks"])))
    if facts["bandwidth"]:
        parts.append(("", _bandwidth_table(facts["bandwidth"])))
    return sections(*parts)


def _overview(facts: dict[str, Any]) -> "RenderableType":
    from planner.cli.tables import facts_table, quantity

    price = quantity(facts["usd_per_hour"], "usd/h")
    rows = [
        ("nodes", str(facts["num_nodes"])),
        ("GPUs", str(facts["num_gpus"])),
        ("racks", str(facts["num_racks"])),
        ("price", "unknown" if price == "-" else price),
        ("oversubscription", quantity(facts["oversubscription_ratio"], "1")),
    ]
    return facts_table(rows)


def _node_table(nodes: list[dict[str, Any]]) -> "RenderableType":
    from planner.cli.tables import quantity, table_of

    rows = [
        [
            node["type"],
            str(node["count"]),
            f"{node['num_gpus']} x {node['gpus']}",
            node["interconnect"],
            " + ".join(map(str, node["nvlink_islands"])) or "none",
            f"{node['num_nics']} x {quantity(node['nic_bytes_per_s'], 'bytes/s')}",
            quantity(node["usd_per_hour"], "usd/h"),
        ]
        for node in nodes
    ]
    headers = ["node type", "nodes", "GPUs in all", "interconnect"]
    headers += ["NVLink islands", "NICs a node", "price a node"]
    return table_of(headers, rows, numeric=["nodes", "price a node"])


def _rack_table(racks: list[dict[str, Any]]) -> "RenderableType":
    from planner.cli.tables import table_of

    rows = [[r["name"], str(r["num_nodes"]), str(r["num_gpus"])] for r in racks]
    return table_of(["rack", "nodes", "GPUs"], rows, numeric=["nodes", "GPUs"])


def _bandwidth_table(pairs: list[dict[str, Any]]) -> "RenderableType":
    from planner.cli.tables import quantity, table_of

    rows = [
        [
            pair["distance"],
            pair["gpus"],
            f"{pair['from']} - {pair['to']}",
            pair["link"],
            quantity(pair["bytes_per_s"], "bytes/s"),
            quantity(pair["node_bytes_per_s"], "bytes/s"),
            quantity(pair["latency_ms"], "ms"),
        ]
        for pair in pairs
    ]
    headers = ["distance", "GPUs", "slowest sampled pair", "link"]
    numeric = ["one pair", "all GPUs", "latency"]
    return table_of([*headers, *numeric], rows, numeric=numeric)
