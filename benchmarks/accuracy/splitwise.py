"""Our Splitwise pools against the released simulator's, and its designs by its SLOs.

    python benchmarks/accuracy/splitwise.py [FOLDER] [--format json]

FOLDER holds its latency table, generated traces and results (default: the reference
folder beside the repository). Two parts:

* `runs`: its own runs again, with its nearly flat decode model, its transfers and its
  reading of the true output lengths as inputs (see `splitwise_machines`): slowdowns and
  median times against what it reported.
* `designs`: the iso-power and iso-cost designs of the paper at 70 requests/s, on its
  generated traces and on the Azure traces (where they are there), held to its nine
  SLOs; with flat decode, and with decode as its own table measured it. Routers know
  the mean output length, not the true ones.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from splitwise_machines import (
    A100,
    CAPPED,
    H100,
    METRICS,
    PERCENTS,
    SLO_SLOWDOWN,
    Machines,
    at_rate,
    metrics_ms,
    num_met,
    read_requests,
    serving_system,
    slowdowns,
)

from clusters.units import MS_PER_S
from planner.simulator.control import Forecast
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from planner.workload.requests import Requests
from planner.workload.traces import read_trace

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "reference" / "splitwise"
RATE_RPS = 70.0
WITHIN_FRAC = 0.05

# Hardware of prompt and token machines, and the numbers of the paper's notebook.
DESIGN_HARDWARE = {
    "AA": (A100, A100),
    "HH": (H100, H100),
    "HA": (H100, A100),
    "HHcap": (H100, CAPPED),
}
DESIGNS = {
    ("power", "conv"): {
        "AA": (45, 25),
        "HH": (25, 15),
        "HA": (25, 26),
        "HHcap": (25, 21),
    },
    ("power", "code"): {"AA": (55, 15), "HH": (35, 5), "HA": (35, 8), "HHcap": (35, 7)},
    ("cost", "conv"): {
        "AA": (51, 35),
        "HH": (25, 15),
        "HA": (30, 21),
        "HHcap": (30, 10),
    },
    ("cost", "code"): {"AA": (66, 20), "HH": (35, 5), "HA": (35, 10), "HHcap": (35, 7)},
}
COLOCATED = {"power": {A100: 70, H100: 40}, "cost": {A100: 86, H100: 40}}


def split(prompt: str, num_prompt: int, token: str, num_token: int) -> Machines:
    """Prompt machines and token machines."""
    return ((prompt, Phase.PREFILL, num_prompt), (token, Phase.DECODE, num_token))


def colocated(hardware: str, number: int) -> Machines:
    """Machines that do both."""
    return ((hardware, Phase.AGGREGATED, number),)


def machines_of(state: str, cluster: str) -> Machines:
    """Machines of one of its runs; a cluster is named after its A100s and H100s."""
    num_a100, num_h100 = map(int, cluster.split("_"))
    if state == "baseline":
        return colocated(*((A100, num_a100) if num_a100 else (H100, num_h100)))
    if state.startswith("splitwisehhcap"):
        return split(H100, num_h100, CAPPED, num_a100)
    num_prompt, num_token = map(int, re.findall(r"\d+", state))
    return split(H100, num_prompt, H100, num_token)


def its_runs(folder: Path) -> Iterator[dict[str, str]]:
    """Rows of its summary whose trace is there."""
    lines = (folder / "sim_results.txt").read_text(encoding="utf-8").splitlines()
    names = lines[0].split()
    for line in lines[1:]:
        values = line.split()[1:]
        if len(values) != len(names):
            continue
        row = dict(zip(names, values, strict=True))
        if (folder / f"{row['trace']}.csv").exists():
            yield row


def compare(folder: Path, row: dict[str, str]) -> dict[str, Any]:
    """One of its runs again."""
    system = serving_system(
        folder,
        machines_of(row["state"], row["cluster"]),
        is_flat=True,
        forecast=Forecast.TRUE,
    )
    result = simulate(system, read_requests(folder / f"{row['trace']}.csv"))
    ours = slowdowns(folder, result)
    for metric, values in metrics_ms(result).items():
        ours[f"{metric}_s_p50"] = float(np.percentile(values, 50)) / MS_PER_S
    theirs = {name: float(row[name]) for name in ours}
    error = {name: ours[name] / theirs[name] - 1.0 for name in ours}
    return {
        "state": row["state"],
        "trace": row["trace"],
        "cluster": row["cluster"],
        "is_split": row["state"] != "baseline",
        "ours": ours,
        "theirs": theirs,
        "error_frac": error,
        "max_error_frac": max(abs(e) for e in error.values()),
    }


def compare_requests(folder: Path) -> dict[str, Any]:
    """Every request of its run of two prompt machines and one token machine."""
    with (folder / "result_hh_2P1T_conv5_requests.csv").open(
        encoding="utf-8", newline=""
    ) as file:
        rows = {int(float(row["request_ids"])): row for row in csv.DictReader(file)}
    system = serving_system(
        folder, split(H100, 2, H100, 1), is_flat=True, forecast=Forecast.TRUE
    )
    result = simulate(system, read_requests(folder / "rr_conv_5_2min.csv"))
    found: dict[str, Any] = {"num_requests": len(rows)}
    for metric, column in (("ttft", "ttft_times"), ("e2e", "response_times")):
        theirs = np.array([float(rows[i][column]) for i in sorted(rows)]) * MS_PER_S
        error = np.abs(metrics_ms(result)[metric][sorted(rows)] / theirs - 1.0)
        found[f"{metric}_median_error_frac"] = float(np.median(error))
        found[f"{metric}_p99_error_frac"] = float(np.percentile(error, 99))
    return found


def traces_of(folder: Path, kind: str) -> Iterator[tuple[str, Requests]]:
    """Its generated trace at 70 requests/s, and the Azure trace brought to that."""
    yield "generated", read_requests(folder / f"rr_{kind}_70_2min.csv")
    path = folder.parents[1] / f"data/traces/AzureLLMInferenceTrace_{kind}.csv"
    if path.exists():
        yield "azure", at_rate(read_trace(path), RATE_RPS)


def designs_of(iso: str, kind: str) -> Iterator[tuple[str, Machines]]:
    """The designs of one budget, and what serves both phases within it."""
    for name, (num_prompt, num_token) in DESIGNS[iso, kind].items():
        prompt, token = DESIGN_HARDWARE[name]
        yield name, split(prompt, num_prompt, token, num_token)
    for hardware, number in COLOCATED[iso].items():
        yield f"colocated {hardware.split('-')[0]}", colocated(hardware, number)


def judge(
    folder: Path, machines: Machines, requests: Requests, *, is_flat: bool
) -> dict[str, Any]:
    """One design on one trace."""
    system = serving_system(folder, machines, is_flat=is_flat, forecast=Forecast.MEAN)
    result = simulate(system, requests)
    found = slowdowns(folder, result)
    return {"slowdown": found, "num_met": num_met(found)}


def designs(folder: Path) -> list[dict[str, Any]]:
    """Every design of every budget on every trace, with both decode models."""
    rows = []
    for iso, kind in DESIGNS:
        for trace, requests in traces_of(folder, kind):
            for name, machines in designs_of(iso, kind):
                numbers = [number for _, _, number in machines]
                row: dict[str, Any] = {
                    "iso": iso,
                    "trace": f"{kind} {trace}",
                    "design": name,
                    "machines": "+".join(map(str, numbers)),
                }
                for decode in ("flat", "measured"):
                    row[decode] = judge(
                        folder, machines, requests, is_flat=decode == "flat"
                    )
                rows.append(row)
    return rows


def print_tables(runs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Both parts as text."""
    for run in runs:
        print(f"{run['state']:18} {run['trace']:15} {run['cluster']}")
        for name in run["ours"]:
            ours, theirs = run["ours"][name], run["theirs"][name]
            print(f"    {name:10} {ours:9.4g} {theirs:9.4g} {ours / theirs - 1.0:+.1%}")
    limits = [f"{limit:g}" for metric in METRICS for limit in SLO_SLOWDOWN[metric]]
    print(f"slowdowns at P{'/'.join(map(str, PERCENTS))}; SLO {' '.join(limits)}")
    for row in rows:
        print(f"{row['iso']:5} {row['trace']:14} {row['design']:14} {row['machines']}")
        for decode in ("flat", "measured"):
            values = row[decode]["slowdown"].values()
            numbers = " ".join(f"{value:7.3g}" for value in values)
            print(f"    {decode:8} {numbers}   {row[decode]['num_met']}/9")


def main() -> int:
    """Compare its runs, judge the designs, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    runs = [compare(args.folder, row) for row in its_runs(args.folder)]
    rows = designs(args.folder)
    split_runs = [run for run in runs if run["is_split"]]
    summary = {
        "num_runs": len(runs),
        "max_error_frac_splitwise": max(r["max_error_frac"] for r in split_runs),
        "max_error_frac_colocated": max(
            r["max_error_frac"] for r in runs if not r["is_split"]
        ),
        "within_frac": WITHIN_FRAC,
        "num_designs": len(rows),
        "num_all_met_flat": sum(r["flat"]["num_met"] == 9 for r in rows),
        "num_all_met_measured": sum(r["measured"]["num_met"] == 9 for r in rows),
    }
    requests = compare_requests(args.folder)
    if args.format == "json":
        report = {
            "summary": summary,
            "requests": requests,
            "runs": runs,
            "designs": rows,
        }
        print(json.dumps(report, indent=2))
        return 0
    print_tables(runs, rows)
    print(requests)
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
