"""`phaseplan trace`: describe, convert and make traces."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import FormatOption, OutputOption, emit, say

if TYPE_CHECKING:
    from rich.console import Group

    from planner.workload.arrivals import ArrivalProcess
    from planner.workload.summary import TraceSummary

app = typer.Typer(help="Describe, convert and make traces.", no_args_is_help=True)


class FileFormat(StrEnum):
    """Formats of traces that are written."""

    CSV = "csv"
    JSONL = "jsonl"


class Arrival(StrEnum):
    """Arrival processes of synthetic traces."""

    POISSON = "poisson"
    GAMMA = "gamma"
    FIXED = "fixed"


TraceFile = Annotated[Path, typer.Argument(metavar="FILE", help="A trace.")]
OutFile = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")]
FromFormat = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FORMAT",
        help="azure, mooncake, bailian, burstgpt, sharegpt, csv or jsonl; "
        "without it, the first line tells.",
    ),
]
ToFormat = Annotated[
    FileFormat | None,
    typer.Option("--to", help="Without it, the suffix of OUT tells."),
]
Head = Annotated[int | None, typer.Option(help="Only the first rows.", min=1)]


@app.command()
def summarize(
    file: TraceFile,
    from_format: FromFormat = None,
    head: Head = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Rate, burstiness, length percentiles and prefix reuse of a trace."""
    from clusters.mapping import to_mapping
    from planner.workload.summary import summarize as summary_of
    from planner.workload.traces import read_trace

    found = summary_of(read_trace(file, format=from_format, head=head))
    emit(to_mapping(found), fmt=fmt, table=lambda: _report(found), output=output)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A trace.")],
    out: OutFile,
    from_format: FromFormat = None,
    to_format: ToFormat = None,
    head: Head = None,
) -> None:
    """Write a trace in this tool's own format."""
    from planner.workload.traces import read_trace, write_requests

    to = _written_format(out, to_format)
    requests = read_trace(source, format=from_format, head=head)
    write_requests(requests, out, format=to.value)
    say(f"{out}: {len(requests)} requests")


@app.command()
def synth(
    out: OutFile,
    lengths: Annotated[
        str, typer.Option(metavar="PRESET|INxOUT", help="A preset or e.g. 512x64.")
    ],
    rate: Annotated[float, typer.Option(help="Mean rate in requests per second.")],
    num: Annotated[int, typer.Option(help="Number of requests.")] = 1000,
    arrival: Annotated[Arrival, typer.Option(help="When they come.")] = Arrival.POISSON,
    cv: Annotated[
        float | None, typer.Option(help="Burstiness of gamma arrivals (Poisson: 1).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same trace.")] = 0,
    to_format: ToFormat = None,
) -> None:
    """Make a synthetic trace."""
    from planner.workload.traces import write_requests
    from planner.workload.workload import Workload

    to = _written_format(out, to_format)
    arrivals = _arrivals(arrival, cv)
    workload = Workload.of_lengths(lengths, arrivals=arrivals, rate_rps=rate)
    requests = workload.draw(num, seed=seed)
    write_requests(requests, out, format=to.value)
    say(f"{out}: {len(requests)} requests")


def _written_format(out: Path, chosen: FileFormat | None) -> FileFormat:
    if chosen is not None:
        return chosen
    suffix = out.suffix.removeprefix(".")
    if suffix not in set(FileFormat):
        from clusters.fields import InputError

        raise InputError("OUT", str(out), "a .csv or .jsonl file, or the option --to")
    return FileFormat(suffix)


def _arrivals(arrival: Arrival, cv: float | None) -> "ArrivalProcess":
    from clusters.fields import InputError
    from planner.workload.arrivals import (
        FixedGapArrivals,
        GammaArrivals,
        PoissonArrivals,
    )

    if (cv is None) == (arrival is Arrival.GAMMA):
        raise InputError("--cv", cv, "a number > 0 with gamma arrivals, and only there")
    if cv is not None:
        return GammaArrivals(cv=cv)
    return PoissonArrivals() if arrival is Arrival.POISSON else FixedGapArrivals()


def _report(summary: "TraceSummary") -> "Group":
    from planner.cli.tables import facts_table, sections, table_of

    cv, hits = summary.gap_cv, summary.prefix_hit_frac
    facts = [
        ("requests", f"{summary.num_requests:,}"),
        ("duration", f"{summary.duration_s:,.1f} s"),
        ("rate", f"{summary.rate_rps:.4g} requests/s"),
        ("cv of gaps", "-" if cv is None else f"{cv:.2f}"),
    ]
    for peak in summary.peaks:
        facts.append((f"peak/mean, {peak.window_s:g} s", f"{peak.peak_to_mean:.2f}"))
    if hits is not None:
        facts.append(("prefix reuse", f"{hits:.1%} of blocks (cache without limit)"))
    headers = ("tokens", "mean", "p50", "p90", "p99", "max")
    rows = []
    for name, tokens in (("input", summary.input), ("output", summary.output)):
        figures = (tokens.mean, tokens.p50, tokens.p90, tokens.p99, tokens.max)
        rows.append([name, *(f"{figure:,.0f}" for figure in figures)])
    lengths = table_of(headers, rows, numeric=set(headers[1:]))
    return sections(("", facts_table(facts)), ("Lengths", lengths))
