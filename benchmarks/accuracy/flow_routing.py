"""Shortest queue against the shares of the KV flow, on unlike GPUs and slow links.

    python benchmarks/accuracy/flow_routing.py [FILE] [--format json] [--cases N]

FILE is the reference file with HexGen-2's and ThunderServe's clusters
(`hexgen2_cases.py`). For each cluster, model and class of requests the deployments with
separate phases that `hexgen2` and `distserve-high` come nearest to are simulated twice,
as finalists are: routed to the least work, and by the shares of their highest KV flow.
Two nodes of eight A100 that one slow NIC each joins are there too: like replicas,
unlike routes. Every figure is a goodput in requests/s within the SLO, the mean of two
seeds.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hexgen2_cases import (
    FILE,
    PAIR,
    SETTINGS,
    TRACE,
    cluster_of,
    lengths_of,
    read_clusters,
    workload_of,
)
from hexgen2_plans import EFFORT, SLOS, evaluator_of, outcome_of, problem_of

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.node import Node, NodeType
from clusters.units import gbit_to_bytes
from planner.flow_routing import may_gain
from planner.max_kv_flow import routed_by_flow
from planner.problem import Problem

METHODS = ("hexgen2", "distserve-high")
MOST_DEPLOYMENTS = 3
"""Deployments of each method, the best by short runs."""


def cases_of(data: dict[str, Any]) -> list[tuple[str, Cluster, str, str]]:
    """Name, cluster, model and class of requests."""
    cases = []
    for model, kind in (("opt-30b", "HPLD"), ("llama-2-70b", "LPHD")):
        cases += [(name, cluster_of(data, name), model, kind) for name in SETTINGS]
    for gbit_per_s in (40.0, 5.0):
        cluster = cluster_of(data, PAIR, nic_gbit_per_s=gbit_per_s)
        name = f"{PAIR}, {gbit_per_s:g} Gbit/s"
        cases.append((name, cluster, "llama-30b", "HPLD"))
    for gbit_per_s in (25.0, 10.0):
        cluster = two_nodes(gbit_per_s)
        cases.append((cluster.name, cluster, "opt-30b", "HPLD"))
    return cases


def two_nodes(nic_gbit_per_s: float) -> Cluster:
    """Two nodes of eight A100-80GB with one NIC each."""
    kind = replace(
        NodeType.load("p4de.24xlarge"),
        num_nics=1,
        nic_bytes_per_s=gbit_to_bytes(nic_gbit_per_s),
    )
    nodes = tuple(Node(name=f"node{index}", type=kind) for index in range(2))
    name = f"a100_2x8, {nic_gbit_per_s:g} Gbit/s"
    return Cluster(name=name, nodes=nodes, fabric=Fabric())


def compared(problem: Problem) -> list[dict[str, Any]]:
    """The best deployments of each method, routed both ways."""
    evaluator = evaluator_of(problem)
    rows = []
    for method in METHODS:
        found = [
            candidate
            for candidate in outcome_of(evaluator, method).candidates
            if candidate.deployment.is_disaggregated and candidate.goodput.rate_rps > 0
        ]
        found.sort(key=lambda each: each.rank(problem))
        for candidate in found[:MOST_DEPLOYMENTS]:
            shared = routed_by_flow(evaluator, candidate.deployment)
            by_work = evaluator.goodput(candidate.deployment, effort=EFFORT)
            by_share = shared and evaluator.goodput(shared, effort=EFFORT)
            rows.append(
                {
                    "method": method,
                    "deployment": candidate.deployment.describe(),
                    "is_tried": may_gain(candidate.deployment),
                    "shortest_queue_rps": by_work.rate_rps,
                    "flow_shares_rps": by_share and by_share.rate_rps,
                }
            )
    return rows


def main() -> int:
    """Compare all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--cases", type=int, default=None)
    args = parser.parse_args()
    report = []
    for name, cluster, model, kind in cases_of(read_clusters(args.file))[: args.cases]:
        workload = workload_of(lengths_of(TRACE, model, kind))
        problem = problem_of(cluster, model, workload, SLOS["interactive"])
        case = {"cluster": name, "model": model, "class": kind}
        report += [{**case, **row} for row in compared(problem)]
    if args.format == "json":
        seeds = {"seed": 0, "num_seeds": EFFORT.num_seeds}
        print(json.dumps({**seeds, "rows": report}, indent=2))
        return 0
    for row in report:
        print(
            f"{row['cluster']:42} {row['model']:12} {row['class']} {row['method']:15}"
            f"{row['shortest_queue_rps']:8.2f} {row['flow_shares_rps'] or 0.0:8.2f}  "
            f"{row['deployment']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
