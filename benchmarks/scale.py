"""How fast, and how near to its bounds, clusters of unlike GPUs are planned.

    python benchmarks/scale.py [--format json] [--sizes] [--num-random N] [--seed S]
        [--time-limit S] [--save FILE] [--plot FILE]

Llama-3.1-70B with chat lengths, 90 % within 1000 ms TTFT and 50 ms TPOT, most goodput:

* the example clusters that hold the model, and N random ones of 16 to 512 GPUs;
* with `--sizes`, 100, 1,000 and 10,000 GPUs of 6 types in up to 40 racks as well.

For each: CPU seconds of the search (`provisioning`) and of the whole answer, verified
in the simulator; memory; and two distances. `allocation_gap_frac` is what the simulated
plan lacks of the bound on whole replicas at the rates simulated for them, `gap_frac`
what it lacks of the bound that is proven for any scheduling. With `--time-limit`,
clusters that are not reached in time are left out. With `--save`, what has been
measured is written to a file after every cluster.
"""

import argparse
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.node import Node, NodeType
from models.llm import LlmSpec
from planner.check import check_plan
from planner.files import write_mapping
from planner.objective import Goal, Objective
from planner.problem import Problem, Service
from planner.result import Result
from planner.slo import Slo
from planner.solve import solve
from planner.version import __version__
from planner.workload.workload import Workload

NODE_TYPES = (
    "dgx_h100",
    "dgx_a100",
    "g6e.48xlarge",
    "p5e.48xlarge",
    "g5.48xlarge",
    "p4d.24xlarge",
)
"""Nodes of eight GPUs: H100, A100-80, L40S, H200, A10G and A100-40."""

SIZES = {"100 GPUs": (12, 1), "1,000 GPUs": (125, 9), "10,000 GPUs": (1250, 40)}
"""Nodes and racks."""

_KIB_PER_GIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One cluster, planned."""

    cluster: str
    num_gpus: int
    num_gpu_types: int
    num_racks: int
    status: str
    plan: str
    goodput_rps: float
    allocation_gap_frac: float | None
    gap_frac: float | None
    cpu_s: float
    wall_s: float
    peak_gib: float


def problem_of(cluster: Cluster) -> Problem:
    """Chat with a 70B model on a cluster, as much as it serves."""
    service = Service(
        llm=LlmSpec.load("llama-3.1-70b"),
        # The rate matters only as a number to scale.
        workload=Workload.poisson(rate_rps=1.0, lengths="azure-conversation-like"),
        slo=Slo(ttft_ms=1000.0, tpot_ms=50.0, attainment_frac=0.9),
    )
    objective = Objective(goal=Goal.MAX_GOODPUT)
    return Problem(cluster=cluster, services=(service,), objective=objective)


def random_cluster(rng: np.random.Generator, name: str) -> Cluster:
    """2 to 64 nodes of one to four types in racks of one type, 1:1 to 4:1 up-links."""
    num_nodes = int(np.round(2.0 ** rng.uniform(1.0, 6.0)))
    num_kinds = int(rng.integers(1, 5))
    kinds = [str(kind) for kind in rng.choice(NODE_TYPES, num_kinds, replace=False)]
    return racks_of(
        name,
        kinds,
        num_nodes=num_nodes,
        num_racks=min(num_nodes, int(rng.integers(num_kinds, 9))),
        oversubscription_ratio=float(rng.choice([1.0, 2.0, 4.0])),
    )


def racks_of(
    name: str,
    kinds: list[str],
    *,
    num_nodes: int,
    num_racks: int,
    oversubscription_ratio: float,
) -> Cluster:
    """Racks of nodes of one type each, the types in turn."""
    types = [NodeType.load(kind) for kind in kinds]
    nodes = tuple(
        Node(
            name=f"node{index}",
            type=types[(index % num_racks) % len(types)],
            rack=f"rack{index % num_racks}",
        )
        for index in range(num_nodes)
    )
    fabric = Fabric(oversubscription_ratio=oversubscription_ratio)
    return Cluster(name=name, nodes=nodes, fabric=fabric)


def clusters(num_random: int, seed: int, *, with_sizes: bool) -> Iterator[Cluster]:
    """All clusters of the benchmark, random ones last."""
    for name in Cluster.names():
        yield Cluster.load(name)
    if with_sizes:
        for name, (num_nodes, num_racks) in SIZES.items():
            yield racks_of(
                name,
                list(NODE_TYPES),
                num_nodes=num_nodes,
                num_racks=max(num_racks, len(NODE_TYPES)),
                oversubscription_ratio=2.0,
            )
    rng = np.random.default_rng(seed)
    for number in range(num_random):
        yield random_cluster(rng, f"random {number}")


def _expected_s(cluster: Cluster) -> float:
    """CPU seconds of a cluster, roughly: what others of its size took."""
    return 5.0 + min(cluster.num_gpus, 500) / 30.0 + cluster.num_gpus / 300.0


def run(cluster: Cluster, *, seed: int) -> Run:
    """Plan a cluster and note what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = solve(problem_of(cluster), method="provisioning", seed=seed)
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    if result.best is not None:
        check_plan(result.best)
    return _run_of(cluster, result, cpu_s=cpu_s, wall_s=wall_s)


def _run_of(cluster: Cluster, result: Result, *, cpu_s: float, wall_s: float) -> Run:
    best, allocation = result.best, result.allocation
    return Run(
        cluster=cluster.name,
        num_gpus=cluster.num_gpus,
        num_gpu_types=len(cluster.gpu_types()),
        num_racks=len(cluster.leaves),
        status=str(result.status),
        plan=best.deployment.describe() if best else "; ".join(result.reasons),
        goodput_rps=best.goodput.rate_rps if best else 0.0,
        allocation_gap_frac=allocation.gap_frac if allocation else None,
        gap_frac=result.gap_frac,
        cpu_s=cpu_s,
        wall_s=wall_s,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_GIB,
    )


def summary_of(runs: list[Run]) -> dict[str, Any]:
    """Median and worst of every distance and of the time, where there is a plan."""
    found: dict[str, Any] = {
        "num_clusters": len(runs),
        "num_planned": sum(1 for each in runs if each.goodput_rps > 0),
    }
    for key in ("allocation_gap_frac", "gap_frac", "cpu_s"):
        values = [getattr(each, key) for each in runs]
        known = [value for value in values if value is not None]
        if known:
            found[f"median_{key}"] = statistics.median(known)
            found[f"worst_{key}"] = max(known)
    return found


def plot(runs: list[Run], path: Path) -> None:
    """Draw time and distances against the number of GPUs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    sizes = [each.num_gpus for each in runs]
    above.loglog(sizes, [each.cpu_s for each in runs], "o")
    above.set_ylabel("CPU s")
    for key, mark, label in (
        ("gap_frac", "o", "to the bound for any scheduling"),
        ("allocation_gap_frac", "x", "to whole replicas at simulated rates"),
    ):
        values = [getattr(each, key) for each in runs]
        shown = [math.nan if value is None else 100.0 * value for value in values]
        below.semilogx(sizes, shown, mark, label=label)
    below.set_ylabel("gap of the plan, %")
    below.set_xlabel("GPUs")
    below.legend()
    figure.savefig(path)


def report_of(runs: list[Run], missing: list[str]) -> dict[str, Any]:
    """The JSON form: summary, what has not been run, and every cluster."""
    return {
        "version": __version__,
        "summary": summary_of(runs),
        "missing": missing,
        "runs": [asdict(each) for each in runs],
    }


def _line(run: Run) -> str:
    gaps = (run.allocation_gap_frac, run.gap_frac)
    shown = " ".join("      -" if gap is None else f"{gap:7.1%}" for gap in gaps)
    return (
        f"{run.cluster:26} {run.num_gpus:6} {run.num_gpu_types:5} {run.num_racks:5} "
        f"{run.goodput_rps:9.2f} {shown} {run.cpu_s:7.1f} {run.peak_gib:6.2f}"
    )


def main() -> None:
    """Plan all clusters and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--sizes", action="store_true", help="up to 10,000 GPUs too")
    parser.add_argument("--num-random", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=math.inf, help="seconds")
    parser.add_argument("--plot", type=Path, help="where to draw it (matplotlib)")
    parser.add_argument("--save", type=Path, help="JSON, after every cluster")
    given = parser.parse_args()
    if given.plot is not None and find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed", file=sys.stderr)
        given.plot = None
    asked = list(clusters(given.num_random, given.seed, with_sizes=given.sizes))
    minutes = sum(_expected_s(cluster) for cluster in asked) / 60.0
    print(
        f"{len(asked)} clusters, about {minutes:.0f} min of one core", file=sys.stderr
    )
    head = "cluster                      GPUs types racks     req/s  alloc."
    print(f"{head}   bound   CPU s    GiB", file=sys.stderr)
    runs: list[Run] = []
    missing = [cluster.name for cluster in asked]
    started = time.monotonic()
    for cluster in asked:
        if time.monotonic() - started > given.time_limit:
            break
        runs.append(run(cluster, seed=given.seed))
        missing.remove(cluster.name)
        print(_line(runs[-1]), file=sys.stderr, flush=True)
        if given.save is not None:
            write_mapping(report_of(runs, missing), given.save)
    if given.plot is not None:
        plot(runs, given.plot)
    if given.format == "json":
        json.dump(report_of(runs, missing), sys.stdout, indent=2)
        print()
    else:
        summary = summary_of(runs)
        print("\n".join(f"{key}: {value}" for key, value in summary.items()))


if __name__ == "__main__":
    main()
