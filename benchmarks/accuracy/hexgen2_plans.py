"""Plans of the HexGen-2 comparison: what each method serves on each set of GPUs."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
from hexgen2_cases import (
    CLASSES,
    HOMOGENEOUS,
    PAIR,
    SETTINGS,
    TRACE,
    cluster_of,
    lengths_of,
    llm_of,
    workload_of,
)

from clusters.cluster import Cluster
from models.latency.library import LatencyLibrary
from planner.bound import gpu_rates, objective_bound
from planner.deployment import Deployment
from planner.evaluate import Evaluator
from planner.finalists import verify
from planner.goodput import Effort
from planner.objective import Goal, Objective
from planner.problem import Problem, Service
from planner.search.contract import Candidate, SearchContext, SearchOutcome
from planner.search.hexgen2.mixed_groups import mixes_types
from planner.search.registry import methods_of
from planner.serving import Planner
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.stop import Never
from planner.workload.workload import Workload

MODELS = ("llama-2-70b", "opt-30b")
SLOS = {
    "interactive": Slo(ttft_ms=2000.0, tpot_ms=100.0),
    "batch": Slo(ttft_ms=10_000.0, tpot_ms=200.0),
}
"""Chosen before any result; the second comes near to a saturated system."""
EFFORT = Effort(
    min_requests=500, max_requests=4000, span_s=60.0, num_seeds=2, tolerance_frac=0.01
)
OTHERS = ("distserve-high", "distserve-low", "aggregated", "provisioning")


def problem_of(
    cluster: Cluster, model: str, workload: Workload, slo: Slo = SLOS["interactive"]
) -> Problem:
    """The most requests/s within the SLO."""
    service = Service(llm=llm_of(model), workload=workload, slo=slo)
    return Problem(
        cluster=cluster,
        services=(service,),
        objective=Objective(goal=Goal.MAX_GOODPUT),
    )


def evaluator_of(problem: Problem, seed: int = 0) -> Evaluator:
    """A fresh one, with nothing remembered."""
    planner = Planner(problem=problem, library=LatencyLibrary.default())
    return Evaluator(planner=planner, seed=seed)


def outcome_of(evaluator: Evaluator, name: str) -> SearchOutcome:
    """What one method finds."""
    (method,) = methods_of(name)
    return method.search(SearchContext(evaluator, Never()))


def best_of(evaluator: Evaluator, *outcomes: SearchOutcome) -> Candidate | None:
    """The best of some methods, as `solve` chooses it."""
    return next(iter(verify(evaluator, outcomes, EFFORT)), None)


def plan_row(best: Candidate | None) -> dict[str, Any]:
    """A plan in a table."""
    if best is None:
        return {"goodput_rps": 0.0, "deployment": None}
    return {
        "goodput_rps": best.goodput.rate_rps,
        "low_rps": best.goodput.low_rps,
        "high_rps": best.goodput.high_rps,
        "num_gpus": best.deployment.num_gpus,
        "usd_per_hour": best.usd_per_hour,
        "deployment": best.deployment.describe(),
    }


def bound_of(evaluator: Evaluator) -> float | None:
    """Bound on the goodput of any plan, by GPU time."""
    problem = evaluator.planner.problem
    rates = gpu_rates(evaluator.planner, has_unlike=mixes_types(problem))
    return objective_bound(problem, rates)


def homogeneous(problem: Problem) -> dict[str, Any]:
    """DistServe and the best of all methods on GPUs of one type."""
    evaluator = evaluator_of(problem)
    found = [outcome_of(evaluator, name) for name in OTHERS]
    return {
        "distserve": plan_row(best_of(evaluator, *found[:2])),
        "best": plan_row(best_of(evaluator, *found)),
        "bound_rps": bound_of(evaluator),
    }


def unlike(problem: Problem) -> dict[str, Any]:
    """`hexgen2` first, timed with nothing remembered; then the others, and `auto`."""
    evaluator = evaluator_of(problem)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    ours = outcome_of(evaluator, "hexgen2")
    chosen = best_of(evaluator, ours)
    times = {
        "wall_s": time.perf_counter() - wall_s,
        "processor_s": time.process_time() - cpu_s,
    }
    others = [outcome_of(evaluator, name) for name in OTHERS]
    return {
        "hexgen2": {**plan_row(chosen), **times},
        "distserve": plan_row(best_of(evaluator, *others[:2])),
        "aggregated": plan_row(best_of(evaluator, others[2])),
        "auto": plan_row(best_of(evaluator, ours, *others)),
        "bound_rps": bound_of(evaluator),
        "loads": loads_of(evaluator, chosen),
    }


def loads_of(evaluator: Evaluator, best: Candidate | None) -> dict[str, Any]:
    """What is busy at 95 % of the goodput: both phases, and the KV transfers."""
    if best is None or best.goodput.rate_rps <= 0:
        return {}
    rate = 0.95 * best.goodput.rate_rps
    workload = evaluator.planner.problem.service.workload
    requests = workload.draw(EFFORT.num_requests(rate), seed=0, rate_rps=rate)
    found = evaluator.evaluate(best.deployment, requests)
    phases = [replica.phase for replica in best.deployment.replicas]
    busy = [each.prefill_busy_frac + each.decode_busy_frac for each in found.replicas]
    return {
        **{
            f"{phase}_busy_frac": float(
                np.mean([b for b, p in zip(busy, phases, strict=True) if p is phase])
            )
            for phase in (Phase.PREFILL, Phase.DECODE)
            if phase in phases
        },
        "ttft_frac": found.attainment.ttft_frac,
        "tpot_frac": found.attainment.tpot_frac,
        "transfer_p90_ms": found.transfer_p90_ms,
    }


def reason_of(row: dict[str, Any]) -> str:
    """Why a case wins or loses: what GPU time allows, and which limit binds."""
    allowed = row["unlike"]["bound_rps"] / row["eight_h100"]["bound_rps"]
    loads = row["unlike"]["loads"]
    if not loads:
        return "no plan meets the SLO"
    binds = "TTFT" if loads["ttft_frac"] < loads["tpot_frac"] else "TPOT"
    return (
        f"GPU time allows {allowed:.2f} of 8xH100; {binds} binds, KV transfers take "
        f"{loads['transfer_p90_ms'] or 0.0:.0f} ms (P90)"
    )


def run_cases(data: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """Every SLO, model, class and setting."""
    alike = cluster_of(data, HOMOGENEOUS)
    asked = [(s, m, c) for s in SLOS for m in MODELS for c in CLASSES][:most]
    rows: list[dict[str, Any]] = []
    for kind, model, name in asked:
        workload = workload_of(lengths_of(TRACE, model, name))
        eight = homogeneous(problem_of(alike, model, workload, SLOS[kind]))
        for setting in SETTINGS:
            cluster = cluster_of(data, setting)
            row = {
                "slo": kind,
                "setting": setting,
                "price_ratio": _price(cluster) / _price(alike),
                "model": model,
                "class": name,
                "mean_input_tokens": workload.mean_input_tokens,
                "mean_output_tokens": workload.mean_output_tokens,
                "unlike": unlike(problem_of(cluster, model, workload, SLOS[kind])),
                "eight_h100": eight,
            }
            rows.append({**row, **ratios_of(row), "reason": reason_of(row)})
    return rows


def _price(cluster: Cluster) -> float:
    price = cluster.usd_per_hour(range(cluster.num_gpus))
    assert price is not None
    return price


def ratios_of(row: dict[str, Any]) -> dict[str, float | None]:
    """`hexgen2` over the others; None where the other serves nothing."""
    ours = row["unlike"]["hexgen2"]["goodput_rps"]
    others = {
        "over_distserve_8xh100": row["eight_h100"]["distserve"],
        "over_best_8xh100": row["eight_h100"]["best"],
        "over_distserve_same_gpus": row["unlike"]["distserve"],
    }
    rates = {key: each["goodput_rps"] for key, each in others.items()}
    found = {key: ours / rate if rate > 0 else None for key, rate in rates.items()}
    auto = row["unlike"]["auto"]["goodput_rps"]
    return {**found, "auto_over_hexgen2": auto / ours if ours > 0 else None}


# --- ThunderServe's pair ----------------------------------------------------------


PACKED = 4.0
"""ThunderServe sends 16-bit caches in 4 bits: links four times as fast stand in."""


def run_pair(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Plans at both bandwidths, beside the best without disaggregation.

    `plain` is aggregated with whole prompts first, ThunderServe's own baseline, and
    `aggregated` the best with chunks as well.
    """
    rows = []
    for kind, name in [(s, c) for s in SLOS for c in CLASSES]:
        workload = workload_of(lengths_of(TRACE, "llama-30b", name))
        for gbit in (40.0, 5.0):
            cluster = cluster_of(data, PAIR, nic_gbit_per_s=gbit)
            packed = cluster_of(data, PAIR, nic_gbit_per_s=PACKED * gbit)
            problem = problem_of(cluster, "llama-30b", workload, SLOS[kind])
            evaluator = evaluator_of(problem)
            ours, joint = (
                best_of(evaluator, outcome_of(evaluator, method))
                for method in ("hexgen2", "aggregated")
            )
            rows.append(
                {
                    "slo": kind,
                    "class": name,
                    "gbit_per_s": gbit,
                    "plain": plan_row(plain_of(problem)),
                    "hexgen2_in_4_bits": plan_row(
                        found_by("hexgen2", replace(problem, cluster=packed))
                    ),
                    "hexgen2": plan_row(ours),
                    "places": places_of(cluster, ours.deployment) if ours else [],
                    "aggregated": plan_row(joint),
                    "output_tokens_per_s": (
                        ours.goodput.rate_rps * workload.mean_output_tokens
                        if ours
                        else 0.0
                    ),
                    "bound_rps": bound_of(evaluator),
                }
            )
    return rows


def plain_of(problem: Problem) -> Candidate | None:
    """The best aggregated deployment whose prompts are whole and come first."""
    whole_prompts = replace(problem.search, is_batching_searched=False)
    return found_by("aggregated", replace(problem, search=whole_prompts))


def found_by(method: str, problem: Problem) -> Candidate | None:
    """The best of one method, from nothing."""
    evaluator = evaluator_of(problem)
    return best_of(evaluator, outcome_of(evaluator, method))


def places_of(cluster: Cluster, deployment: Deployment) -> list[str]:
    """Each replica with its nodes."""
    found = []
    for replica in deployment.replicas:
        gpus = [cluster.topology.gpu(gpu) for gpu in replica.gpu_indices]
        nodes = "+".join(dict.fromkeys(gpu.node_name for gpu in gpus))
        found.append(f"{replica.shape} on {nodes}, slice {replica.slice}")
    return found
