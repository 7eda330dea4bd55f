"""Batching policies: what papers publish about them, and their order on one workload.

    python benchmarks/accuracy/policies.py [--format json|markdown] [--only NAME...]

`published` are figures of SARATHI, Sarathi-Serve and Orca, simulated
(`policies_sarathi`, `policies_pipeline`, `policies_serving`); `order` is the goodput of
every policy on one workload and the same GPUs, and how it changes with the limits, the
lengths and the links (`policies_order`).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

from policies_check import Check
from policies_order import POLICIES, SPLIT, SWEEPS, Row, rows_of
from policies_pipeline import bubbles
from policies_sarathi import best_ratios, chunk_overheads, piggybacked
from policies_serving import capacities, orca_gap, stalls

PUBLISHED: dict[str, Callable[[], list[Check]]] = {
    "best_ratio": best_ratios,
    "piggybacked": piggybacked,
    "chunk_overhead": chunk_overheads,
    "bubbles": bubbles,
    "orca": orca_gap,
    "capacity": capacities,
    "stalls": stalls,
}
"""Published figures by name."""


def main(arguments: Sequence[str]) -> int:
    """Print the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--format", choices=("text", "json", "markdown"), default="text"
    )
    names = (*PUBLISHED, *SWEEPS)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args(arguments)
    checks = [
        c for name in PUBLISHED if name in options.only for c in PUBLISHED[name]()
    ]
    sweeps = {
        name: [row for label, case in cases for row in rows_of(label, case)]
        for name, cases in SWEEPS.items()
        if name in options.only
    }
    if options.format == "json":
        sys.stdout.write(json.dumps(report_of(checks, sweeps), indent=2) + "\n")
    else:
        sys.stdout.write(markdown_of(checks, sweeps))
    return 0


def report_of(
    checks: Sequence[Check], sweeps: dict[str, list[Row]]
) -> dict[str, object]:
    """Which published figures hold, all of them, and all rates."""
    asked = [check for check in checks if check.holds is not None]
    return {
        "summary": {
            "held": sum(bool(check.holds) for check in asked),
            "asked": len(asked),
            "misses": [check.name for check in asked if not check.holds],
        },
        "published": [{**asdict(check), "holds": check.holds} for check in checks],
        "order": {name: [asdict(row) for row in rows] for name, rows in sweeps.items()},
    }


def markdown_of(checks: Sequence[Check], sweeps: dict[str, list[Row]]) -> str:
    """A table of published figures, bold where they hold, and one for each sweep."""
    lines = []
    if checks:
        lines += ["| Figure | published | simulated |", "|---|---:|---:|"]
    for check in checks:
        ours = f"{check.ours:.3g}"
        told = "" if check.published is None else f"{check.published:.3g}"
        lines.append(
            f"| {check.name} | {told} | {f'**{ours}**' if check.holds else ours} |"
        )
    for name, rows in sweeps.items():
        lines += ["", *sweep_lines(name, rows)]
    return "\n".join(lines).lstrip() + "\n"


def sweep_lines(name: str, rows: Sequence[Row]) -> list[str]:
    """Policies as rows for one setting, as columns for several; the best in bold."""
    labels = list(dict.fromkeys(row.case for row in rows))
    rates = {(row.case, row.policy): row.rate_rps for row in rows}
    best = {label: max(rates[label, p] for p in POLICIES) for label in labels}

    def cell(label: str, policy: str) -> str:
        rate = rates[label, policy]
        return f"**{rate:.2f}**" if rate == best[label] else f"{rate:.2f}"

    if len(labels) == 1:
        lines = ["| Policy | requests/s | Deployment |", "|---|---:|---|"]
        for row in rows:
            lines.append(
                f"| {row.policy} | {cell(row.case, row.policy)} | {row.deployment} |"
            )
        return lines
    lines = [f"| {name} | {' | '.join(POLICIES)} | {SPLIT} over best other |"]
    lines.append("|---|" + "---:|" * (len(POLICIES) + 1))
    for label in labels:
        others = max(rates[label, p] for p in POLICIES if p != SPLIT)
        gain = f"{rates[label, SPLIT] / others - 1.0:+.0%}" if others > 0 else "-"
        cells = " | ".join(cell(label, policy) for policy in POLICIES)
        lines.append(f"| {label} | {cells} | {gain} |")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
