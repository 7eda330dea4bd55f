"""Pipelines of unlike stages in plans, against replicas of one GPU type.

    python benchmarks/accuracy/unlike_stages.py [NAME...] [--format json]

Cases are clusters by hand, of machines in the catalogue. Every method plans each;
`shifts` serves the split of the example with other layers, simulated alike.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from clusters.mapping import from_mapping
from planner.evaluate import Evaluator
from planner.goodput import FINAL
from planner.plan import Plan
from planner.problem import Problem
from planner.serving import Planner
from planner.solve import library_for, solve

METHODS = ("aggregated", "distserve", "provisioning", "hexgen2", "pipelines", "auto")
EXAMPLE = Path(__file__).parents[2] / "examples" / "leftovers_l4_t4.yaml"
SHIFTS = (-1, 0, 1, 3)
"""Layers that every L4 stage of the example takes from a T4 stage."""

_L4 = {"base": "g6.xlarge", "nic_gbit_per_s": 10}
_T4 = {"base": "g4dn.xlarge", "nic_gbit_per_s": 10}
_WHOLE = {"ttft_ms": 10000, "tpot_ms": 400, "attainment_frac": 0.9}
_ALONE = {"ttft_ms": 15000, "tpot_ms": 1000}


def nodes(*kinds: tuple[str, object, int]) -> dict[str, object]:
    """A cluster of nodes as (name, type, count)."""
    listed = [{"name": name, "type": kind, "count": n} for name, kind, n in kinds]
    return {"name": "by_hand", "nodes": listed}


CASES: Mapping[str, tuple[object, str, Mapping[str, float], int]] = {
    "8 A10G, 8 T4": (
        nodes(("a10g", "g5.48xlarge", 1), ("t4", "g4dn.12xlarge", 2)),
        "llama-3.1-70b",
        _WHOLE,
        4,
    ),
    "16 L4, 16 T4": (
        nodes(("l4", "g6.48xlarge", 2), ("t4", "g4dn.12xlarge", 4)),
        "llama-3.1-70b",
        _WHOLE,
        4,
    ),
    "4 L4, 6 T4 alone": (
        nodes(("l4", _L4, 4), ("t4", _T4, 6)),
        "qwen2.5-32b",
        _ALONE,
        10,
    ),
    "4 A100, 8 L4, 12 T4 alone": ("pool_24_t4_l4_a100", "llama-2-70b", _ALONE, 24),
}
"""Cluster, model, SLO and most stages."""


def problems() -> dict[str, Problem]:
    """The example, then the cases."""
    found = {"8 L4, 8 T4": Problem.load(EXAMPLE)}
    for name, (cluster, llm, slo, max_pp) in CASES.items():
        workload = {"lengths": "azure-conversation-like", "rate_rps": 1}
        data = {
            "cluster": cluster,
            "services": [{"llm": llm, "workload": workload, "slo": dict(slo)}],
            "objective": {"goal": "max_goodput"},
            "search": {"max_pp": max_pp},
        }
        found[name] = from_mapping(Problem, data)
    return found


def planned(problem: Problem) -> dict[str, dict[str, object]]:
    """Goodput, deployment and seconds of every method."""
    rows: dict[str, dict[str, object]] = {}
    for method in METHODS:
        start = time.monotonic()
        result = solve(problem, method=method)
        best = result.best
        rows[method] = {
            "goodput_rps": best.goodput.rate_rps if best else 0.0,
            "deployment": best.deployment.describe() if best else "none",
            "seconds": round(time.monotonic() - start, 1),
        }
    return rows


def shifts(plan: Plan) -> list[dict[str, object]]:
    """The plan's replica with layers moved from its later stages to its first ones."""
    library = library_for(plan.problem, None)
    planner = Planner(problem=plan.problem, library=library)
    evaluator = Evaluator(planner=planner, seed=plan.seed)
    (replica,) = plan.deployment.replicas
    held = replica.parallelism.layers_per_stage(plan.problem.service.llm)
    half = len(held) // 2
    rows = []
    for shift in SHIFTS:
        layers = tuple(n + (shift if i < half else -shift) for i, n in enumerate(held))
        split = replace(replica.parallelism, stage_layers=layers)
        shape = replace(replica.shape, parallelism=split)
        moved = planner.deploy_at([shape], [replica.stage_gpus])
        goodput = evaluator.goodput(moved, effort=FINAL)
        rows.append(
            {
                "layers": list(layers),
                "kv_tokens": moved.replicas[0].kv_capacity_tokens,
                "goodput_rps": goodput.rate_rps,
            }
        )
    return rows


def main() -> None:
    """Plan the cases that are named, or all, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cases (default: all)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    known = problems()
    for name in arguments.names:
        if name not in known:
            sys.exit(f"error: no case {name!r}; known: {', '.join(known)}")
    warnings.simplefilter("ignore")
    wanted = arguments.names or list(known)
    found = {name: planned(known[name]) for name in wanted}
    moved = shifts_of(known) if "8 L4, 8 T4" in wanted else []
    if arguments.format == "json":
        print(json.dumps({"cases": found, "shifts": moved}, indent=2))
        return
    for name, rows in found.items():
        for method, row in rows.items():
            rate, seconds = row["goodput_rps"], row["seconds"]
            print(f"{name} | {method} | {rate:.3f} | {row['deployment']} | {seconds} s")
    for each in moved:
        print(f"{each['layers']} | {each['kv_tokens']} | {each['goodput_rps']:.3f}")


def shifts_of(known: Mapping[str, Problem]) -> list[dict[str, object]]:
    """Other splits of the example's plan."""
    best = solve(known["8 L4, 8 T4"], method="pipelines").best
    return shifts(best) if best is not None else []


if __name__ == "__main__":
    main()
