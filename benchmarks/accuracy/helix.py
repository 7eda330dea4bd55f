"""Pipelines across unlike machines, against the layouts that come with Helix.

    python benchmarks/accuracy/helix.py [FILES…] [--format json]

FILES are folders or files of the Helix reference (`helix_files.py`). Four questions:

* `layouts`: is our maximum flow of every shipped layout the recorded one?
* `placements`: which flow do our own placements reach, how far is the bound, and what
  do they serve in a closed loop, beside all shipped layouts in the same simulation?
* `published`: what does that simulation serve with the shipped layouts, beside the
  decode throughputs that Helix publishes for its own simulation of them?
* `machines`: our typical rates over the reference's, by kind and layers held.

A placement has the highest flow we find and is, of the layouts with that flow, the one
that serves most; those under `served` serve most whatever their flow. Two engines serve
each layout: `whole`, whole prompts in steps of their own and up to 300 decodes, as the
reference simulates; `chunked`, prompt chunks of 128 tokens beside at most 64 decodes.
`simulated_decode_tok_s` is the better of the two, for ours and for shipped layouts.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helix_files import (
    ClusterFile,
    Reference,
    cluster_of,
    fleet_of,
    placed,
    read_reference,
    recorded_table,
    table_of,
)
from helix_machines import MAX_PROMPT_TOKENS, costed, rate_errors, requests

from planner.pipelines.baselines import baselines
from planner.pipelines.closed_loop import LoopSettings, serve
from planner.pipelines.costs import CostedFleet
from planner.pipelines.fleet import Fleet
from planner.pipelines.flow import layer_flow
from planner.pipelines.layout import Layout
from planner.pipelines.place import ServedPlacement, best_flow, best_served
from planner.stop import AnyOf, MaxEvaluations, MaxRuntime

FOLDER = Path(__file__).parents[3] / "shared/reference/helix"
MAX_FLOW_ERROR_FRAC = 1e-6
MAX_SECONDS = 60.0
SAME_FRAC = 0.02
"""Rates this close are equal: other draws of requests move both by as much."""
ENGINES = {
    "whole": LoopSettings(
        max_prompt_tokens=MAX_PROMPT_TOKENS, max_decodes=300, kv_fill_frac=0.85
    ),
    "chunked": LoopSettings(chunk_tokens=128, max_decodes=64, kv_fill_frac=0.85),
}
"""0.85 of the KV room is what the reference lets requests in to."""
NUM_EVALUATIONS = 24
SEARCH_S = 15.0
REQUESTS = requests()


@dataclass(frozen=True, kw_only=True)
class Case:
    """Machines of a throughput table, on the links of a cluster."""

    name: str
    table_name: str
    cluster: ClusterFile | None
    fleet: Fleet


def cases(reference: Reference) -> Iterator[Case]:
    """Every table on every cluster of its machines, or on equal links."""
    for table_name, table in reference.tables.items():
        fitting = [
            cluster
            for cluster in reference.clusters.values()
            if cluster.counts == table["machines"]
        ]
        for cluster in fitting or [None]:
            fleet = fleet_of(reference, table, cluster)
            suffix = "" if cluster is None or fleet.is_uniform else f"_{cluster.name}"
            yield Case(
                name=table_name + suffix,
                table_name=table_name,
                cluster=cluster,
                fleet=fleet,
            )


# --- Layouts --------------------------------------------------------------------------


def check_layouts(reference: Reference) -> list[dict[str, Any]]:
    """Our maximum flow of every shipped layout beside the recorded one."""
    rows = []
    for layout in reference.layouts:
        table_name, cluster = table_of(reference, layout), cluster_of(reference, layout)
        table = reference.tables[table_name] if table_name else recorded_table(layout)
        fleet = fleet_of(reference, table, cluster)
        flow = layer_flow(fleet, placed(layout, fleet)).tokens_per_s
        recorded = layout["max_flow_tok_s"]
        rows.append(
            {
                "layout": layout["layout"],
                "table": table_name,
                "cluster": cluster and cluster.name,
                "flow_tok_s": flow,
                "recorded_tok_s": recorded,
                "error_frac": abs(flow / recorded - 1.0),
            }
        )
    return rows


# --- Placements -----------------------------------------------------------------------


def place(case: Case, shipped: dict[str, Layout]) -> dict[str, Any]:
    """Our placements of a case, and what shipped layouts serve beside them."""
    start = time.perf_counter()
    best = best_flow(case.fleet)
    assert best is not None
    row: dict[str, Any] = {
        "cluster": case.cluster and case.cluster.name,
        "num_machines": case.fleet.num_machines,
        "num_layers": case.fleet.num_layers,
        "flow_tok_s": best.flow.tokens_per_s,
        "flow_bound_tok_s": best.bound_tokens_per_s,
        "flow_gap_frac": best.gap_frac,
        "flow_seconds": time.perf_counter() - start,
        "layout": best.layout.describe(case.fleet),
    }
    row["baselines_flow_tok_s"] = {
        name: layout and layer_flow(case.fleet, layout).tokens_per_s
        for name, layout in baselines(case.fleet)
    }
    machines = costed(case.fleet, case.table_name)
    if machines is None:
        return row | {"seconds": row["flow_seconds"], "simulated_decode_tok_s": None}
    at_best = search(machines, "chunked", least_flow=best.flow.tokens_per_s)
    row |= described(machines, at_best) | {"seconds": time.perf_counter() - start}
    row["served"] = {
        engine: described(machines, search(machines, engine)) for engine in ENGINES
    }
    row["shipped"] = {
        name: simulated(machines, layout) for name, layout in shipped.items()
    }
    rates = [each["simulated_decode_tok_s"] for each in row["shipped"].values()]
    row["best_shipped_decode_tok_s"] = max(rates, default=None)
    return row


def search(
    machines: CostedFleet, engine: str, least_flow: float = 0.0
) -> ServedPlacement:
    """The placement that serves most with an engine."""
    stop = AnyOf((MaxEvaluations(num=NUM_EVALUATIONS), MaxRuntime(max_s=SEARCH_S)))
    found = best_served(
        machines, REQUESTS, ENGINES[engine], stop=stop, least_flow=least_flow
    )
    assert found is not None
    return found


def described(machines: CostedFleet, found: ServedPlacement) -> dict[str, Any]:
    """A placement of ours with what both engines make of it."""
    return {
        "layout": found.layout.describe(machines.fleet),
        "num_evaluated": found.num_evaluated,
        **simulated(machines, found.layout),
    }


def simulated(machines: CostedFleet, layout: Layout) -> dict[str, Any]:
    """Flow of a layout and what it serves, with each engine and with the better."""
    flow = layer_flow(machines.fleet, layout)
    served = {
        name: serve(machines, layout, flow, REQUESTS, settings).decode_tokens_per_s
        for name, settings in ENGINES.items()
    }
    return {
        "flow_tok_s": flow.tokens_per_s,
        "simulated_decode_tok_s": max(served.values()),
        "by_engine": served,
    }


def shipped_layouts(reference: Reference, case: Case) -> dict[str, Layout]:
    """Shipped layouts of a case's machines, each once, by name."""
    found: dict[str, Layout] = {}
    for layout in reference.layouts:
        if table_of(reference, layout) != case.table_name:
            continue
        if cluster_of(reference, layout) == case.cluster:
            here = placed(layout, case.fleet)
            if here not in found.values():
                found[layout["layout"]] = here
    return found


# --- Published throughputs ------------------------------------------------------------

SECTIONS = {
    "6.3 Single": ("single_cluster", "cluster24"),
    "6.4 Geo": ("distributed_clusters", "3cluster24"),
    "6.5 High": ("high_heterogeneity", "cluster42"),
}
"""Folder of the layouts of a section, and the file of its cluster."""
METHODS = {"using Helix and": "ilp", "using Swarm and": "swarm"}
MODELS = {"LLaMA 30B": "llama30b", "LLaMA 70B": "llama70b"}


def compare_published(reference: Reference) -> list[dict[str, Any]]:
    """Published decode throughputs of Helix's simulator, offline, beside ours."""
    rows = []
    for entry in reference.published:
        if (
            entry["metric"] != "decode_tok_s"
            or " in offline setup " not in entry["item"]
        ):
            continue
        if not entry["subsection"].startswith("Step 3"):
            continue
        section = next((s for s in SECTIONS if s in entry["section"]), None)
        method = next((m for m in METHODS if m in entry["item"]), None)
        model = next((m for m in MODELS if m in entry["item"]), None)
        if section and method and model:
            folder, file = SECTIONS[section]
            prefix = f"{folder}/layout_{MODELS[model]}/{METHODS[method]}"
            cluster = reference.clusters.get(file)
            rate = served_as_published(reference, prefix, cluster)
            if rate is not None:
                rows.append(
                    {
                        "layout": prefix,
                        "published_tok_s": entry["value"],
                        "simulated_tok_s": rate,
                        "error_frac": rate / entry["value"] - 1.0,
                        "is_same_scheduler": METHODS[method] == "ilp",
                    }
                )
    return rows


def served_as_published(
    reference: Reference, prefix: str, cluster: ClusterFile | None
) -> float | None:
    """What the layouts under `prefix` serve together with the reference's engine.

    A layout of some kinds only is on the machines of these kinds in the cluster.
    """
    total = None
    for layout in reference.layouts:
        names = [layout["layout"], *layout["also"]]
        if not any(prefix in name for name in names):
            continue
        table_name = table_of(reference, layout)
        if table_name is None:
            continue
        part = cluster and cluster.only(layout["machines"])
        fleet = fleet_of(reference, reference.tables[table_name], part)
        machines = costed(fleet, table_name)
        if machines is None:
            continue
        here = placed(layout, fleet)
        flow = layer_flow(fleet, here)
        served = serve(machines, here, flow, REQUESTS, ENGINES["whole"])
        total = (total or 0.0) + served.decode_tokens_per_s
    return total


# --- Report ---------------------------------------------------------------------------


def report_on(reference: Reference) -> dict[str, Any]:
    """All answers; `summary` has what a check looks at."""
    layouts = check_layouts(reference)
    placements, machines = {}, {}
    for case in cases(reference):
        placements[case.name] = place(case, shipped_layouts(reference, case))
        if known := costed(case.fleet, case.table_name):
            machines[case.name] = {
                each.kind: each.ratio_by_layers for each in rate_errors(known)
            }
    published = compare_published(reference)
    errors = [abs(r["error_frac"]) for r in published if r["is_same_scheduler"]]
    return {
        "summary": {
            "num_layouts": len(layouts),
            "max_flow_error_frac": max(
                (r["error_frac"] for r in layouts), default=None
            ),
            "max_seconds": max(
                (p["seconds"] for p in placements.values()), default=None
            ),
            "flow_placement_serves_less_than_shipped": [
                name for name, p in placements.items() if serves_less(p, p)
            ],
            "served_placement_serves_less_than_shipped": [
                name
                for name, p in placements.items()
                if all(serves_less(p, found) for found in p.get("served", {}).values())
            ],
            "published_median_error_frac": float(np.median(errors)) if errors else None,
        },
        "layouts": layouts,
        "placements": placements,
        "published": published,
        "machines": machines,
    }


def serves_less(placement: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether a shipped layout serves more, each with the better engine."""
    shipped = placement.get("best_shipped_decode_tok_s")
    if shipped is None:
        return False
    return bool(found["simulated_decode_tok_s"] < shipped * (1.0 - SAME_FRAC))


def print_table(report: dict[str, Any]) -> None:
    for key, value in report["summary"].items():
        print(f"{key}: {value}")
    print("\nplacement: flow (bound) tok/s, served decode tok/s (shipped), seconds")
    for name, row in report["placements"].items():
        print(
            f"{name}: {row['flow_tok_s']:.3f} ({row['flow_bound_tok_s']:.1f}), "
            f"{row['simulated_decode_tok_s']} "
            f"({row.get('best_shipped_decode_tok_s')}), "
            f"{row['seconds']:.1f}\n    {row['layout']}"
        )
    print("\nlayout: published, simulated decode tok/s")
    for row in report["published"]:
        print(
            f"{row['layout']}: {row['published_tok_s']}, {row['simulated_tok_s']:.1f}"
        )


def main() -> int:
    """Print the report; 1 when a flow is off, or a shipped layout serves more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=[FOLDER])
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    report = report_on(read_reference(args.files or [FOLDER]))
    summary = report["summary"]
    if args.format == "json":
        print(json.dumps(report, indent=2))
    else:
        print_table(report)
    error = summary["max_flow_error_frac"]
    is_exact = error is None or error <= MAX_FLOW_ERROR_FRAC
    is_fast = (summary["max_seconds"] or 0.0) < MAX_SECONDS
    is_better = not summary["served_placement_serves_less_than_shipped"]
    return 0 if is_exact and is_fast and is_better else 1


if __name__ == "__main__":
    sys.exit(main())
