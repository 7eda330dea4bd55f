"""DistServe's placement search, redone: as it was released, and as we do it.

    python benchmarks/accuracy/distserve_search.py [FOLDER] [--format json]

FOLDER holds runs of DistServe's released search (`searches/*.json` with the requests
they saw) and its pools of lengths (`workloads/`). Three questions, one key each:

* `emulated`: with that simulator's habits put into our inputs (see `distserve.py`),
  does every configuration reach the same rate on its bisection grid?
* `search`: what do we answer to the same question, with memory enforced and KV
  transfers simulated: with one instance of each phase, and with the ratio free?
* `seven_gpus`: how much more per GPU do 2 prefill (TP2) and 3 decode (TP1) instances
  serve than one of each?
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from distserve import serving_system

from clusters.cluster import Cluster
from clusters.units import MS_PER_S
from models.latency.library import LatencyLibrary
from models.llm import LlmSpec
from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.goodput import FINAL, Effort, goodput
from planner.problem import Problem, SearchSpace, Service
from planner.serving import Planner
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, ServingSystem
from planner.slo import Slo, SloRule
from planner.solve import solve
from planner.workload.arrivals import PoissonArrivals
from planner.workload.lengths import EmpiricalLengths
from planner.workload.requests import Requests
from planner.workload.workload import Workload

FOLDER = Path(__file__).parents[3] / "shared/reference/distserve"
N300 = Effort(
    min_requests=300, max_requests=300, span_s=0.0, num_seeds=10, tolerance_frac=0.005
)
EXPECTED = ("TP2 PP1", "TP1 PP1")
EXPECTED_GAIN_FRAC = 0.41


def rows_of(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV file with a header."""
    names = path.read_text(encoding="utf-8").partition("\n")[0].split(",")
    columns = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).T
    return dict(zip(names, columns, strict=True))


# --- The released search, emulated ----------------------------------------------------


def emulate(file: Path) -> dict[str, Any]:
    """Bisect every configuration of a released search as it did."""
    data = json.loads(file.read_text(encoding="utf-8"))
    args = data["args"]
    drawn = rows_of(file.parent / f"input_{args['pool']}_N{args['N']}.csv")
    points = [emulate_config(config, args, drawn) for config in data["per_config"]]
    best = max(points, key=lambda point: point["per_gpu_rps"])
    return {
        "id": data["name"],
        "num_configs": len(points),
        "num_equal": sum(p["per_gpu_rps"] == p["theirs_per_gpu_rps"] for p in points),
        "max_error_frac": max(p["max_error_frac"] for p in points),
        "best": best["config"],
        "best_per_gpu_rps": best["per_gpu_rps"],
        "theirs_best": data["best_config"],
        "theirs_best_per_gpu_rps": data["best_per_gpu_rate"],
        "configs": points,
    }


def emulate_config(
    config: dict[str, Any], args: dict[str, Any], drawn: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Highest rate per GPU of one configuration on the released grid."""
    cross, tp_prefill, pp_prefill, tp_decode, pp_decode = config["config"]
    point = {
        "model": args["model"],
        "tp_prefill": tp_prefill,
        "pp_prefill": cross * pp_prefill,
        "tp_decode": tp_decode,
        "pp_decode": cross * pp_decode,
    }
    num_gpus = cross * (tp_prefill * pp_prefill + tp_decode * pp_decode)
    theirs = {sim["rate"]: sim for sim in config["sims"]}
    system = serving_system(point)
    low, high, errors = 0.0, float(args["maxr"]), [0.0]
    while high - low > args["esp"]:
        middle = 0.5 * (low + high)
        ttft_ms, tpot_ms = percentiles_ms(system, drawn, middle * num_gpus, args)
        is_met = ttft_ms < args["pt"] and tpot_ms < args["dt"]
        low, high = (middle, high) if is_met else (low, middle)
        if sim := theirs.get(middle * num_gpus):
            errors.append(abs(ttft_ms / sim["ttft_p90"] - 1.0))
            errors.append(abs(tpot_ms / sim["tpot_p90"] - 1.0))
    return {
        "config": config["config"],
        "per_gpu_rps": low,
        "theirs_per_gpu_rps": config["best_per_gpu_rate"],
        "max_error_frac": max(errors),
    }


def percentiles_ms(
    system: ServingSystem,
    drawn: dict[str, np.ndarray],
    rate_rps: float,
    args: dict[str, Any],
) -> tuple[float, float]:
    """TTFT and TPOT of the drawn requests at a rate, at the percentiles of the SLO."""
    times = np.cumsum(drawn["unit_interarrival"]) * MS_PER_S / rate_rps
    requests = Requests(
        arrival_ms=times,
        input_tokens=drawn["input_len"].astype(np.int64),
        output_tokens=drawn["output_len"].astype(np.int64) + 1,  # n decode steps
    )
    result = simulate(system, requests)
    return (
        result.percentile_ms("ttft", args["pp"]),
        result.percentile_ms("tpot", args["dp"]),
    )


# --- Our own search -------------------------------------------------------------------


def pool_of(folder: Path) -> EmpiricalLengths:
    """The ShareGPT-like pool."""
    pool = rows_of(folder / "workloads" / "pool_sgptlike.csv")
    return EmpiricalLengths(
        input_tokens=pool["input_len"].astype(np.int64),
        output_tokens=pool["output_len"].astype(np.int64),
    )


def workload_of(lengths: EmpiricalLengths) -> Workload:
    """Poisson arrivals with these lengths."""
    return Workload.of_lengths(lengths, arrivals=PoissonArrivals(), rate_rps=1.0)


def problem_of(lengths: EmpiricalLengths, cluster: str, **space: Any) -> Problem:
    """OPT-13B within 200 ms TTFT and 100 ms TPOT, P90 of each alone."""
    slo = Slo(ttft_ms=200.0, tpot_ms=100.0, rule=SloRule.EACH)
    llm = LlmSpec.load("opt-13b")
    service = Service(llm=llm, workload=workload_of(lengths), slo=slo)
    return Problem(
        cluster=Cluster.load(cluster),
        services=(service,),
        search=SearchSpace(**space),
    )


def our_search(
    lengths: EmpiricalLengths, effort: Effort, *, method: str, **space: Any
) -> dict[str, Any]:
    """The plan of one method, its goodput per GPU and the others it was compared to."""
    problem = problem_of(lengths, "a100_1x4", **space)
    best = solve(problem, method=method, effort=effort).best
    assert best is not None
    num_gpus = best.deployment.num_gpus
    parallelism = tuple(str(pool.shape.parallelism) for pool in best.deployment.pools())
    return {
        "method": method,
        "num_requests": effort.min_requests,
        "deployment": best.deployment.describe(),
        "is_expected": best.deployment.is_disaggregated and parallelism == EXPECTED,
        "per_gpu_rps": best.goodput.rate_rps / num_gpus,
        "low_per_gpu_rps": best.goodput.low_rps / num_gpus,
        "high_per_gpu_rps": best.goodput.high_rps / num_gpus,
        "num_seeds": best.goodput.num_seeds,
        "verdict": best.verdict,
    }


def searches(lengths: EmpiricalLengths) -> list[dict[str, Any]]:
    """One instance of each phase, then the ratio free, then beside aggregated ones."""
    found = []
    for effort in (N300, FINAL):
        for method, space in (
            ("distserve-high", {"max_replicas": 1}),
            ("distserve-high", {}),
            ("auto", {}),
        ):
            answer = our_search(lengths, effort, method=method, **space)
            found.append({"max_replicas": space.get("max_replicas"), **answer})
    return found


def seven_gpus(lengths: EmpiricalLengths) -> list[dict[str, Any]]:
    """2P3D against 1P1D per GPU, with that simulator's habits and as we simulate."""
    problem = problem_of(lengths, "two_nodes_a100")
    planner = Planner(problem=problem, library=LatencyLibrary.default())
    one_more = replace(lengths, output_tokens=lengths.output_tokens + 1)
    kinds = {
        "emulated": (emulated_system, workload_of(one_more)),
        "ours": (lambda p, d: our_system(planner, p, d), workload_of(lengths)),
    }
    found = []
    for kind, (system_of, workload) in kinds.items():
        for effort in (N300, FINAL):
            per_gpu = []
            for num_prefill, num_decode in ((1, 1), (2, 3)):
                system = system_of(num_prefill, num_decode)
                slo = problem.service.slo
                rate = goodput(system, workload, slo, effort=effort).rate_rps
                per_gpu.append(rate / (2 * num_prefill + num_decode))
            found.append(
                {
                    "kind": kind,
                    "num_requests": effort.min_requests,
                    "1P1D_per_gpu_rps": per_gpu[0],
                    "2P3D_per_gpu_rps": per_gpu[1],
                    "gain_frac": per_gpu[1] / per_gpu[0] - 1.0,
                }
            )
    return found


def emulated_system(num_prefill: int, num_decode: int) -> ServingSystem:
    """Prefill TP2 and decode TP1 instances of the released simulator."""
    shape = {"tp_prefill": 2, "pp_prefill": 1, "tp_decode": 1, "pp_decode": 1}
    numbers = {"n_prefill": num_prefill, "n_decode": num_decode}
    return serving_system({"model": "opt_13b", **shape, **numbers})


def our_system(planner: Planner, num_prefill: int, num_decode: int) -> ServingSystem:
    """The same as we plan them: memory, KV transfers, no habits."""
    shapes = [
        ReplicaShape(phase=phase, gpu_type="a100_sxm", parallelism=Parallelism(tp=tp))
        for phase, tp, num in (
            (Phase.PREFILL, 2, num_prefill),
            (Phase.DECODE, 1, num_decode),
        )
        for _ in range(num)
    ]
    deployment = planner.deploy(shapes)
    assert deployment is not None
    return planner.system(deployment)


# --- Report ---------------------------------------------------------------------------


def report_on(folder: Path) -> dict[str, Any]:
    """All answers; `summary` has what a check looks at."""
    lengths = pool_of(folder)
    emulated = [emulate(file) for file in sorted(folder.glob("searches/*.json"))]
    found, seven = searches(lengths), seven_gpus(lengths)
    best = max(each["theirs_best_per_gpu_rps"] for each in emulated)
    alone, free = found[:2]
    return {
        "summary": {
            "num_configs": sum(each["num_configs"] for each in emulated),
            "num_equal": sum(each["num_equal"] for each in emulated),
            "max_error_frac": max(each["max_error_frac"] for each in emulated),
            "is_expected_plan": alone["is_expected"],
            "per_gpu_rps": alone["per_gpu_rps"],
            "ratio_free_per_gpu_rps": free["per_gpu_rps"],
            "theirs_per_gpu_rps": best,
            "seven_gpus_gain_frac": seven[0]["gain_frac"],
        },
        "emulated": emulated,
        "search": found,
        "seven_gpus": seven,
    }


def main() -> int:
    """Print the report; 1 when a plan or a rate is not the expected one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    report = report_on(args.folder)
    summary = report["summary"]
    if args.format == "json":
        print(json.dumps(report, indent=2))
    else:
        for key, value in summary.items():
            print(f"{key}: {value}")
        for row in (*report["search"], *report["seven_gpus"]):
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    is_equal = summary["num_equal"] == summary["num_configs"]
    is_as_good = summary["ratio_free_per_gpu_rps"] >= summary["theirs_per_gpu_rps"]
    return 0 if is_equal and summary["is_expected_plan"] and is_as_good else 1


if __name__ == "__main__":
    sys.exit(main())
