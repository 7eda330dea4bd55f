"""What sharing GPUs between LLMs is predicted to gain, by popularity and SLO.

    python benchmarks/accuracy/muxserve_sharing.py [--quick] [--format json]

LLaMA 7B to 65B with the lengths of ShareGPT on A100s, published latencies, rates by a
power law as in MuxServe (Duan et al., ICML 2024). For each exponent and SLO the load
that the exact units serve, the published greedy, the best dedicated GPUs (spatial), the
best turns (temporal) and the best where every LLM has its phases apart, as estimated
and as simulated with adaptive batch scheduling, where LLMs that miss their SLO are
given less until they meet it and simpler units are tried; then 40 LLMs on 128 GPUs,
with gap and time.

Days: eight LLMs with long prompts on eight GPUs, whose peaks fall together, are
spread over half of the day, or over all of it.

One LLM alone on its GPUs, with steps in turns, is what the simulator runs as well: the
estimate of such units is compared with the simulated goodput.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

from clusters.cluster import Cluster
from clusters.node import Node
from models.latency.contention import SmSharing
from models.latency.library import LatencyLibrary
from models.latency.published_tables import PublishedTableSource
from models.llm import LlmSpec
from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.evaluate import Evaluator
from planner.goodput import Effort
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.serve import serve
from planner.multiplexing.shared_plan import SharedPlan, plan_services
from planner.multiplexing.solve import (
    SharedResult,
    SharingMethod,
    book_of,
    place_services,
)
from planner.multiplexing.space import UnitSpace
from planner.multiplexing.unit_model import UnitModel
from planner.problem import Problem, Service
from planner.serving import Planner
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.workload.popularity import (
    combined_peak_frac,
    power_law_rates,
    staggered_days,
    staggered_workloads,
)
from planner.workload.workload import Workload

LENGTHS = "161x337"
"""Mean prompt and answer of ShareGPT in MuxServe's placement."""
NINETEEN = ("7b",) * 12 + ("13b",) * 4 + ("30b",) * 2 + ("65b",)
"""Models of MuxServe's synthetic workloads, the most popular first."""
FORTY = ("7b",) * 25 + ("13b",) * 9 + ("30b",) * 4 + ("65b",) * 2
ALPHAS = (0.7, 1.3, 2.1)
STEP_MS = {
    "7b": (20.0, 12.0),
    "13b": (35.0, 20.0),
    "30b": (50.0, 30.0),
    "65b": (60.0, 35.0),
}
"""About the prefill of a prompt and the decode step of one request, alone on a GPU (two
and four for the larger ones), in the published table."""
SCALES = {"loose": 8.0, "medium": 4.0, "tight": 2.0}
"""SLO scales: TPOT of so many steps, TTFT of ten times as many prefills."""
TOTAL_RPS = 400.0
"""More than 32 GPUs can serve, so that what they do serve can be compared."""
ALONE = (("7b", 1), ("7b", 2), ("13b", 1), ("30b", 2), ("65b", 4))
MANY_RPS = 200.0
EFFORT = Effort(min_requests=1500, max_requests=3000, span_s=60.0, tolerance_frac=0.02)
DAY_SPREADS = (0.0, 0.5, 1.0)
DAY_PEAK_TO_MEAN = 1.8
DAY_RPS = 12.0
"""More at each peak than a GPU can serve, and about what it can on average."""
DAY_LENGTHS = "1000x50"
DAY_SLO = Slo(ttft_ms=3000.0, tpot_ms=100.0)
DAY_SPACE = UnitSpace(sm_shares=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
"""Short answers decode on few SMs, which leaves more to prefills of several LLMs."""
LARGE = {"alpha": 1.3, "busiest_rps": 150.0, "num_nodes": 16}


def slo_of(size: str, scale: float) -> Slo:
    """Limits that grow with the model, as MuxServe scales them."""
    prefill_ms, decode_ms = STEP_MS[size]
    return Slo(ttft_ms=10.0 * scale * prefill_ms, tpot_ms=scale * decode_ms)


def shared_problem(
    sizes: tuple[str, ...], rates_rps: tuple[float, ...], scale: float, num_nodes: int
) -> SharedProblem:
    """LLaMA models at given rates on nodes of eight A100s."""
    shipped = Cluster.load("two_nodes_a100")
    nodes = tuple(
        Node(name=f"node{i}", type=shipped.nodes[0].type) for i in range(num_nodes)
    )
    services = tuple(
        Service(
            name=f"llm-{index}",
            llm=LlmSpec.load(f"llama-{size}"),
            workload=Workload.poisson(rate_rps=rate, lengths=LENGTHS),
            slo=slo_of(size, scale),
        )
        for index, (size, rate) in enumerate(zip(sizes, rates_rps, strict=True))
    )
    cluster = Cluster(name=f"a100_x{8 * num_nodes}", nodes=nodes, fabric=shipped.fabric)
    return SharedProblem(cluster=cluster, services=services)


def library() -> LatencyLibrary:
    """Latencies released with MuxServe."""
    return LatencyLibrary(sources=(PublishedTableSource(publication="muxserve"),))


def figures(plan: SharedResult) -> dict[str, Any]:
    """What is told of a plan."""
    units = plan.placed.units if plan.placed is not None else ()
    shared = sum(len(each.gpu_indices) for each in units if each.unit.is_shared)
    turns = sum(len(each.gpu_indices) for each in units if each.unit.cycle_ms)
    return {
        "status": str(plan.status),
        "served_rps": plan.served_rps,
        "wanted_rps": plan.wanted_rps,
        "num_gpus": plan.placed.num_gpus if plan.placed is not None else 0,
        "num_gpus_shared": shared,
        "num_gpus_in_turns": turns,
        "gap_frac": plan.gap_frac,
        "seconds": plan.runtime_s,
    }


def simulated(
    problem: SharedProblem, book: CostBook, plan: SharedResult
) -> dict[str, Any]:
    """What the simulation says of a placement, and of its first promises."""
    if plan.placed is None:
        return {"within_slo_rps": 0.0, "num_missed": 0, "is_met": False}
    first = serve(problem, book, plan.placed)
    held = plan_services(problem, library(), method=str(plan.method))
    assert isinstance(held, SharedPlan), "a placement was found"
    return {
        "within_slo_rps": held.evaluation.within_slo_rps,
        "first_within_slo_rps": first.within_slo_rps,
        "num_missed_first": len(first.missed),
        "is_met": held.evaluation.is_met,
    }


def popularity(alpha: float, slo: str) -> dict[str, Any]:
    """All methods on 19 LLMs and 32 GPUs."""
    rates = power_law_rates(len(NINETEEN), alpha=alpha, busiest_rps=1.0)
    scaled = tuple(rate * TOTAL_RPS / sum(rates) for rate in rates)
    problem = shared_problem(NINETEEN, scaled, SCALES[slo], 4)
    book = book_of(problem, library())
    found: dict[str, dict[str, Any]] = {}
    for method in SharingMethod:
        plan = place_services(problem, library(), method=method)
        found[str(method)] = figures(plan) | simulated(problem, book, plan)
    exact, spatial = (found[m]["served_rps"] for m in ("exact", "spatial"))
    simulated_exact, simulated_spatial = (
        found[m]["within_slo_rps"] for m in ("exact", "spatial")
    )
    return {
        "simulated_exact_over_spatial": (
            simulated_exact / simulated_spatial if simulated_spatial > 0 else None
        ),
        "alpha": alpha,
        "slo": slo,
        "methods": found,
        "exact_over_spatial": exact / spatial if spatial > 0 else None,
    }


def over_a_day(spread_frac: float) -> dict[str, Any]:
    """Shared and dedicated GPUs where the peaks of a day are spread so far."""
    num = 8
    rates = (DAY_RPS,) * num
    days = staggered_days(num, peak_to_mean=DAY_PEAK_TO_MEAN, spread_frac=spread_frac)
    workloads = staggered_workloads(rates, DAY_LENGTHS, days)
    even = shared_problem(("7b",) * num, rates, SCALES["medium"], 1)
    services = tuple(
        replace(service, workload=workload, slo=DAY_SLO)
        for service, workload in zip(even.services, workloads, strict=True)
    )
    problem = replace(even, services=services, search=DAY_SPACE)
    book = book_of(problem, library())
    found = {}
    for method in (SharingMethod.EXACT, SharingMethod.SPATIAL):
        plan = place_services(problem, library(), method=method)
        found[str(method)] = figures(plan) | simulated(problem, book, plan)
    shared, dedicated_rps = (found[m]["within_slo_rps"] for m in ("exact", "spatial"))
    return {
        "spread_frac": spread_frac,
        "combined_peak_frac": combined_peak_frac(rates, days),
        "methods": found,
        "simulated_exact_over_spatial": shared / dedicated_rps,
    }


def saturated(slo: str) -> dict[str, Any]:
    """Equal LLMs that fill GPUs of their own: sharing has nothing to give."""
    problem = shared_problem(("7b",) * 8, (20.0,) * 8, SCALES[slo], 1)
    plan = plan_services(problem, library())
    assert isinstance(plan, SharedPlan), "eight GPUs hold eight LLMs"
    return {
        "slo": slo,
        "verdict": plan.verdict,
        "num_gpus": plan.placed.num_gpus,
        "within_slo_rps": plan.evaluation.within_slo_rps,
        "others": {str(each.method): each.within_slo_rps for each in plan.alternatives},
    }


def large() -> dict[str, Any]:
    """40 LLMs on 128 GPUs."""
    rates = power_law_rates(
        len(FORTY), alpha=LARGE["alpha"], busiest_rps=LARGE["busiest_rps"]
    )
    problem = shared_problem(FORTY, rates, SCALES["medium"], int(LARGE["num_nodes"]))
    started = time.process_time()
    found = figures(place_services(problem, library()))
    return {**found, "cpu_seconds": time.process_time() - started}


def dedicated(size: str, num_gpus: int, slo: str) -> dict[str, Any]:
    """Estimate and simulated goodput of one LLM alone on a mesh."""
    problem = shared_problem((size,), (MANY_RPS,), SCALES[slo], 1)
    space = UnitSpace(shares_space=False, max_llms=1)
    prompts = sorted({1, *(prompts for _, prompts in space.prefills)})
    book = CostBook(
        problem,
        library(),
        sharing=SmSharing.published(),
        shares=(1.0,),
        prompts=prompts,
    )
    model = UnitModel(book, MeshSupply.of(problem.cluster), space)
    gpu = problem.cluster.gpu_types()[0].name
    estimate = model.most_rps(0, MeshKind(gpu_type=gpu, num_gpus=num_gpus))

    shape = ReplicaShape(
        phase=Phase.AGGREGATED,
        gpu_type=gpu,
        parallelism=Parallelism(tp=num_gpus),
    )
    alone = Problem(cluster=problem.cluster, services=problem.services)
    planner = Planner(problem=alone, library=library())
    deployment = planner.deploy([shape])
    assert deployment is not None, "a node holds the mesh"
    simulated = Evaluator(planner=planner, seed=0).goodput(deployment, effort=EFFORT)
    return {
        "llm": f"llama-{size}",
        "num_gpus": num_gpus,
        "slo": slo,
        "estimated_rps": estimate,
        "simulated_rps": simulated.rate_rps,
        "error_frac": estimate / simulated.rate_rps - 1.0,
    }


def main() -> int:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one SLO, no large case")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    slos = ["medium"] if args.quick else list(SCALES)
    report: dict[str, Any] = {
        "popularity": [popularity(alpha, slo) for slo in slos for alpha in ALPHAS],
        "saturated": [saturated(slo) for slo in slos],
        "days": [over_a_day(spread) for spread in DAY_SPREADS],
        "dedicated": [dedicated(*alone, slo) for slo in slos for alone in ALONE],
    }
    if not args.quick:
        report["large"] = large()
    if args.format == "json":
        print(json.dumps(report, indent=2))
        return 0
    for row in report["popularity"]:
        served = "  ".join(
            f"{name} {each['served_rps']:.1f}" for name, each in row["methods"].items()
        )
        shared = row["methods"]["exact"]["num_gpus_shared"]
        print(f"alpha {row['alpha']} {row['slo']:7} {served}  {shared} GPUs shared")
    for row in report["saturated"]:
        print(f"8 equal LLMs on 8 GPUs, {row['slo']}: {row['verdict']}")
    for row in report["days"]:
        rates = "  ".join(
            f"{name} {each['within_slo_rps']:.1f}"
            for name, each in row["methods"].items()
        )
        print(f"peaks spread over {row['spread_frac']:.0%} of a day: {rates}")
    for row in report["dedicated"]:
        print(
            f"{row['llm']:9} {row['num_gpus']} GPUs {row['slo']:7} estimated "
            f"{row['estimated_rps']:.2f}, simulated {row['simulated_rps']:.2f} "
            f"requests/s ({row['error_frac']:+.0%})"
        )
    if "large" in report:
        each = report["large"]
        print(
            f"40 LLMs on 128 GPUs: {each['served_rps']:.1f} of "
            f"{each['wanted_rps']:.1f} requests/s, gap {each['gap_frac']:.2%}, "
            f"{each['seconds']:.1f} s ({each['cpu_seconds']:.1f} s of CPU)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
