"""The error tables of latencies: docs/validation.md and benchmarks/results.

    python benchmarks/accuracy/latency_report.py GRID.csv STEPS.csv VIDUR_FOLDER

Prices the steps of GRID.csv, those of other models in STEPS.csv (from
`benchmarks/fit/steps.py`) and Vidur's profiles, rewrites the tables between the two
marks in docs/validation.md, and writes every slice with the evidence of every shipped
fit to benchmarks/results/step_latency.md.
"""

import contextlib
import io
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import vidur
from step_latency import markdown_of, predicted, report_of
from step_rows import Row, read_rows

from clusters.serde import write_text_atomic
from models.latency.fit_file import ENGINES, load_fit, shipped_systems

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "validation.md"
RESULTS = ROOT / "benchmarks" / "results" / "step_latency.md"
BEGIN, END = "<!-- latency: begin -->\n", "<!-- latency: end -->\n"
WORST_ROWS = 6
TARGETS = {"dense": "4 %, 12 %", "moe": "8 %, 20 %"}
SOURCES = {
    "fitted": "fitted",
    "relative": "as if no GPU had been measured",
    "roofline": "roofline",
}
"""How steps are priced: `step_latency.py --source`."""
VIDUR_ROWS = {
    "linears": ("Linear layers (A100, H100, A40)", "6 %", "gemm"),
    "attention": ("Attention (A100)", "12 %", "attention"),
    "all_reduce above 1 MB": ("All-reduce above 1 MB", "15 %", "all_reduce"),
}
"""Name, target and kind of operator by name in `vidur.py`."""


def main(arguments: list[str]) -> int:
    """Rewrite both files; returns the exit code."""
    grid, steps, folder = map(Path, arguments)
    files = {"grid": read_rows(grid), "own": read_rows(steps)}
    priced = {
        (file, source): predicted(rows, source=source)
        for file, rows in files.items()
        for source in SOURCES
    }
    tables = "\n".join(tables_of(priced, folder))
    head, _, rest = DOCS.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    write_text_atomic(DOCS, head + BEGIN + tables + END + tail)
    write_text_atomic(RESULTS, everything(priced, folder))
    return 0


def tables_of(priced: dict[tuple[str, str], list[Row]], folder: Path) -> Iterable[str]:
    """The tables of the documentation."""
    grid, own = priced["grid", "fitted"], priced["own", "fitted"]
    dense = [row for row in own if not row.is_moe]
    experts = [row for row in own if row.is_moe]
    yield table(
        ("Steps", "Priced", "Rows", "Left out", "Median", "90th percentile", "Target"),
        [
            (name, SOURCES[source], *totals(rows), TARGETS[kind])
            for name, file, kind in (
                ("Grid: two dense models, five systems, two engines", "grid", "dense"),
                ("Own: two dense models, ten systems, three engines", "own", "dense"),
                ("Own: seven mixtures of experts, the same", "own", "moe"),
            )
            for source in SOURCES
            for rows in [
                [r for r in priced[file, source] if r.is_moe is (kind == "moe")]
            ]
        ],
    )
    yield "Fitted, median and 90th percentile by slice:\n"
    yield by_phase(("System", "Engine", "Grid"), grid, lambda r: (r.system, r.backend))
    yield by_phase(("System", "Engine", "Own"), dense, lambda r: (r.system, r.backend))
    yield by_phase(
        ("System", "Engine", "Experts"), experts, lambda r: (r.system, r.backend)
    )
    yield by_phase(
        ("Model", "Precision", "Own"), own, lambda r: (name_of(r), r.precision)
    )
    yield "Worst rows of the grid, of the own dense steps, and of those with experts:\n"
    yield worst((grid, dense, experts))
    yield "Vidur's profiles, by the fit of themselves:\n"
    yield vidur_table(folder)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def totals(rows: Sequence[Row]) -> tuple[str, str, str, str]:
    """Rows, rows left out, median and 90th percentile."""
    used = [row for row in rows if not row.problem]
    broken = [
        row for row in rows if row.problem and not row.problem.startswith("not covered")
    ]
    share = len(broken) / (len(used) + len(broken))
    errors = np.abs([row.error_frac for row in used])
    return (
        f"{len(used):,}",
        f"{len(broken):,} ({percent(share)})",
        percent(np.median(errors)),
        percent(np.quantile(errors, 0.9)),
    )


def by_phase(
    header: tuple[str, str, str],
    rows: Sequence[Row],
    key: Callable[[Row], tuple[str, str]],
) -> str:
    """Errors of both phases by two names; the third of `header` says of which rows."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        if not row.problem:
            found[key(row)][row.phase].append(abs(row.error_frac))
    return table(
        (*header[:2], *(f"{header[2]}: {phase}" for phase in ("prefill", "decode"))),
        [
            (*names, *(_errors(phases[phase]) for phase in ("prefill", "decode")))
            for names, phases in sorted(found.items())
        ],
    )


def worst(parts: Iterable[Sequence[Row]]) -> str:
    """The rows that are furthest off."""
    return table(
        ("System", "Engine", "Model", "Format", "Split", "Step", "File", "Here", "Off"),
        [
            (
                *(row.system, row.backend, name_of(row), row.precision),
                f"TP{row.tp}" + f" EP{row.moe_ep}" * row.is_moe,
                f"{row.phase} {row.batch} x {row.length:,}",
                f"{row.latency_ms:.2f} ms",
                f"{row.predicted_ms:.2f} ms",
                f"{100.0 * row.error_frac:+.0f} %",
            )
            for rows in parts
            for row in sorted(
                (row for row in rows if not row.problem),
                key=lambda row: -abs(row.error_frac),
            )[:WORST_ROWS]
        ],
    )


def vidur_table(folder: Path) -> str:
    """Errors in sample, and on shapes left out of a second fit."""
    rows = []
    for entry in vidur.report_of(folder):
        if entry["fit"] != "vidur" or entry["what"] not in VIDUR_ROWS:
            continue
        name, target, kind = VIDUR_ROWS[str(entry["what"])]
        unseen = [
            operator.evidence.held_out_median_error_frac
            for system in shipped_systems("vidur")
            for key, variants in load_fit(system, "vidur").operators.items()
            for operator in variants.values()
            if key.endswith(kind)
        ]
        known = sorted(error for error in unseen if error is not None)
        rows.append(
            (
                *(name, f"{entry['rows']:,}"),
                *(percent(entry["median_ape"]), percent(entry["p90_ape"])),
                f"{percent(known[0])} to {percent(known[-1])}",
                target,
            )
        )
    header = ("Profile", "Rows", "Median", "90th percentile", "Held out, median")
    return table((*header, "Target"), rows)


def everything(priced: dict[tuple[str, str], list[Row]], folder: Path) -> str:
    """Every slice, and the evidence of every fit."""
    out = io.StringIO("## Step latencies from fitted operators\n\n" + _INTRODUCTION)
    out.seek(0, io.SEEK_END)
    for title, file in (
        ("Llama-3.1-8B and Qwen3-32B, five systems, two engines", "grid"),
        ("Other models, ten systems, three engines", "own"),
    ):
        report = markdown_of(report_of(priced[file, "fitted"]))
        out.write(f"\n### {title}\n\n{report}")
    out.write("\n### Vidur's profiles\n\n")
    with contextlib.redirect_stdout(out):
        vidur.main([str(folder)])
    out.write("\n### Evidence of the shipped fits\n\n")
    out.write(
        "| system | engine | operator | variant | rows | left out | median | p90 | "
        "held out median | held out p90 |\n" + "|---" * 10 + "|\n"
    )
    for engine in (*ENGINES, "vidur"):
        for system in shipped_systems(engine):
            for kind, variants in load_fit(system, engine).operators.items():
                for key, operator in variants.items():
                    found = operator.evidence
                    errors = " | ".join(found.errors_text())
                    out.write(
                        f"| {system} | {engine} | {kind} | {key} | {found.rows_used} | "
                        f"{found.rows_discarded} | {errors} |\n"
                    )
    return out.getvalue()


def name_of(row: Row) -> str:
    """The model without its owner."""
    return row.model.rpartition("/")[2].removeprefix("Meta-")


def percent(share: object) -> str:
    """A share as text."""
    return f"{100.0 * float(str(share)):.1f} %"


def _errors(errors: Sequence[float]) -> str:
    if not errors:
        return "-"
    return f"{percent(np.median(errors))}, {percent(np.quantile(errors, 0.9))}"


_INTRODUCTION = """\
Steps composed from fitted operators against those of the package aiconfigurator-core
0.12.0, which composes them from the same tables by interpolation. Operators are fitted,
steps never. Left out, and counted, are rows where more work of the same configuration
took at least 2 % less time, and rows in a number format whose table holds no kernel
times (`benchmarks/fit/README.md`).
"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
