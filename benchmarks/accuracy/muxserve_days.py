"""Plans at the mean, at every peak at once, and over the time that traces last.

    python benchmarks/accuracy/muxserve_days.py [--traces FOLDER] [--format json]

Least cost for several LLMs on two nodes of eight A100s, planned with `search.rates`:
`mean`, `peak` and `over_time`, as the estimate has it, and `confirmed`: over the time,
with more headroom for those that miss their SLO in the simulation. All are simulated
with the same requests: GPUs, $/h, and the part of each service's requests within its
SLO, over all and in the worst of 24 windows.

* azure: the conversation and the coding hour that Azure released (2023), at three times
  their rates, each on a LLaMA-2-7B of its own. FOLDER holds their files;
* opposite: two LLaMA-2-13B whose days have a peak of 1.9 times the mean, twelve hours
  apart;
* at once: the same with both peaks at noon.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters.cluster import Cluster
from models.llm import LlmSpec
from planner.multiplexing.placed import PlacedUnits
from planner.multiplexing.problem import SharedGoal, SharedObjective, SharedProblem
from planner.multiplexing.rate_windows import RateProfile
from planner.multiplexing.serve import SharedEvaluation, serve
from planner.multiplexing.shared_plan import SharedPlan, plan_services
from planner.multiplexing.solve import book_of, place_services
from planner.multiplexing.space import UnitSpace
from planner.problem import Service
from planner.slo import Slo
from planner.workload.popularity import staggered_days
from planner.workload.workload import Workload

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
CONVERSATION = "AzureLLMInferenceTrace_conv.csv"
CODING = "AzureLLMInferenceTrace_code.csv"
TIMES = 3.0
"""How much busier than recorded the traces are."""
DAY_RPS = 16.0


def problem_of(services: tuple[Service, ...]) -> SharedProblem:
    """Least cost on two nodes."""
    return SharedProblem(
        cluster=Cluster.load("two_nodes_a100"),
        services=services,
        objective=SharedObjective(goal=SharedGoal.MIN_COST),
    )


def azure(folder: Path) -> SharedProblem:
    """Two recorded hours; replayed faster, both last a third of an hour."""
    services = []
    for name, file in (("conversation", CONVERSATION), ("coding", CODING)):
        recorded = Workload.from_trace(folder / file)
        rate = (recorded.mean_rate_rps or 0.0) * TIMES
        services.append(
            Service(
                name=name,
                llm=LlmSpec.load("llama-2-7b"),
                workload=recorded.at_rate(rate),
                slo=Slo(ttft_ms=2000.0, tpot_ms=60.0),
            )
        )
    return problem_of(tuple(services))


def days(spread_frac: float) -> SharedProblem:
    """Two days with one peak each."""
    shapes = staggered_days(2, peak_to_mean=1.9, spread_frac=spread_frac)
    return problem_of(
        tuple(
            Service(
                name=name,
                llm=LlmSpec.load("llama-2-13b"),
                workload=Workload.of_lengths(
                    "1000x100", arrivals=day, rate_rps=DAY_RPS
                ),
                slo=Slo(ttft_ms=2000.0, tpot_ms=60.0),
            )
            for name, day in zip(("day", "night"), shapes, strict=True)
        )
    )


def planned(problem: SharedProblem, rates: RateProfile) -> dict[str, Any]:
    """What the units of the estimate cost, and what becomes of the requests."""
    asked = replace(problem, search=UnitSpace(rates=rates))
    found = place_services(asked)
    if found.placed is None:
        return {"status": str(found.status), "reasons": list(found.reasons)}
    evaluation = serve(asked, book_of(asked), found.placed)
    return figures(found.placed, evaluation, found.usd_per_hour)


def confirmed(problem: SharedProblem) -> dict[str, Any]:
    """The same of a whole plan, which the simulation confirmed."""
    plan = plan_services(problem, method="exact")
    assert isinstance(plan, SharedPlan), "two nodes hold two services"
    return figures(plan.placed, plan.evaluation, plan.usd_per_hour)


def figures(
    placed: PlacedUnits, evaluation: SharedEvaluation, usd_per_hour: float | None
) -> dict[str, Any]:
    """What is told of units and their simulation."""
    return {
        "num_gpus": placed.num_gpus,
        "usd_per_hour": usd_per_hour,
        "is_met": evaluation.is_met,
        "services": {
            each.service: {
                "attained_frac": each.attainment.joint_frac if each.attainment else 0.0,
                "worst_window_frac": each.worst.attained_frac if each.worst else None,
            }
            for each in evaluation.services
        },
    }


def main() -> int:
    """Plan all cases in all ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    cases = {"opposite": days(1.0), "at once": days(0.0)}
    if (args.traces / CONVERSATION).is_file():
        cases = {"azure": azure(args.traces), **cases}
    report = {
        name: {str(rates): planned(problem, rates) for rates in RateProfile}
        | {"confirmed": confirmed(problem)}
        for name, problem in cases.items()
    }
    if args.format == "json":
        print(json.dumps(report, indent=2))
        return 0
    for name, ways in report.items():
        for rates, each in ways.items():
            if "services" not in each:
                print(f"{name:9} {rates:9} {each['status']}: {each['reasons']}")
                continue
            attained = ", ".join(
                f"{service} {own['attained_frac']:.1%} "
                f"(worst {own['worst_window_frac'] or 0.0:.1%})"
                for service, own in each["services"].items()
            )
            print(f"{name:9} {rates:9} {each['num_gpus']:2} GPUs  {attained}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
