"""What every search asks for thousands of times, and what one answer costs.

    python benchmarks/lookups.py [--format json]

* `step_tables`: compiling the latencies of a replica into a step table, nothing kept
  from before, from the datasheet and from the fits; the aim is 3 ms;
* `topology`: building the graph of `thousand_gpus`, and the path between two of its
  GPUs.

Times are CPU time of this process; the least of some runs, which is what the work
costs where nobody else is on the core. Every answer is checked.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from clusters.cluster import Cluster
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from clusters.units import MS_PER_S, US_PER_MS
from models.latency.fitted import FittedSource
from models.latency.request import LatencyRequest, LatencySource
from models.latency.roofline import RooflineSource, compile_stage
from models.llm import LlmSpec
from models.parallelism import Parallelism

NUM_RUNS = 15
TARGET_MS = 3.0
NUM_PATHS = 4000
CASES = (
    ("llama-2-70b", Parallelism(tp=8)),
    ("deepseek-v3", Parallelism(tp=8)),
    ("gpt-oss-120b", Parallelism(tp=8)),
    ("deepseek-v3", Parallelism(attention_dp=8, ep=8)),
    ("llama-3.1-8b", Parallelism(cp=8)),
)


def least_ms(run: Callable[[int], None]) -> float:
    """CPU time of the quickest of some runs; each is told its number."""
    times_ms = []
    for number in range(NUM_RUNS):
        start = time.process_time()
        run(number)
        times_ms.append((time.process_time() - start) * MS_PER_S)
    return min(times_ms)


def fitted(run: int) -> FittedSource:
    """The fits, with an overhead that no table compiled before has."""
    return FittedSource(step_overhead_ms=0.3 + 1e-6 * run)


def roofline(_: int) -> RooflineSource:
    """The datasheet, with nothing compiled before."""
    compile_stage.cache_clear()
    return RooflineSource()


def table_ms(
    source: Callable[[int], LatencySource], name: str, parallelism: Parallelism
) -> float:
    """Time to compile the table of a one-stage replica on H200 GPUs over NVLink."""
    gpu = GpuType.load("h200_sxm")
    rate = gpu.nvlink_bytes_per_s or 0.0
    link = GroupLink(bytes_per_s=rate, latency_ms=0.002, kind=LinkKind.NVLINK)
    request = LatencyRequest(
        llm=LlmSpec.load(name),
        parallelism=parallelism,
        gpu=gpu,
        links=GroupLinks(tp=(link,)),
    )

    def compile_table(run: int) -> None:
        (table,) = source(run).compile(request)
        assert 0.0 < table.decode_step_ms(1, 1000) < table.prefill_step_ms([8000])

    return least_ms(compile_table)


def topology_times() -> dict[str, float]:
    """Milliseconds to build a graph of a thousand GPUs; microseconds for a path."""

    def build(_: int) -> None:
        assert len(Cluster.load("thousand_gpus").topology.gpus) == 1000

    topology = Cluster.load("thousand_gpus").topology
    pairs = np.random.default_rng(0).integers(0, 1000, size=(NUM_PATHS, 2)).tolist()

    def ask(_: int) -> None:
        for a, b in pairs:
            assert topology.path(a, b).bytes_per_s > 0

    path_us = least_ms(ask) * US_PER_MS / NUM_PATHS
    return {"build_ms": least_ms(build), "path_us": path_us}


def main() -> int:
    """Print every time; 1 when the table of a case takes longer than it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    tables = [
        {
            "llm": name,
            "parallelism": str(parallelism),
            "roofline_ms": table_ms(roofline, name, parallelism),
            "fitted_ms": table_ms(fitted, name, parallelism),
        }
        for name, parallelism in CASES
    ]
    report = {
        "step_tables": tables,
        "target_ms": TARGET_MS,
        "topology": topology_times(),
    }
    if args.format == "json":
        print(json.dumps(report, indent=2))
    else:
        for row in tables:
            print("  ".join(f"{key} {value}" for key, value in row.items()))
        print(report["topology"])
    slowest = max(max(row["roofline_ms"], row["fitted_ms"]) for row in tables)
    return 0 if slowest < TARGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
