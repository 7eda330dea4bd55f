"""Small clusters on which everything can be tried: who is exact, and who may not be.

    python benchmarks/exactness.py [--num N] [--seed S] [--format json]

Random clusters of 2 to 8 GPUs of one to three types, OPT-13B (latencies from the
datasheets), a random SLO, goal and rate. For each:

* the configuration programme against every allocation, at the rates it works with,
  but for its links (the tests enumerate with maximum flows on random rates);
* every other method against the exhaustive search, with the same simulations and all
  routed to the shortest queue;
* `check_plan` on the best of every method, and the bounds against their values.
"""

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.node import Node, NodeType
from models.latency.library import LatencyLibrary
from models.llm import LlmSpec
from planner.bound import gpu_rates, shape_rates
from planner.check import check_deployment
from planner.evaluate import Evaluator
from planner.flow_routing import by_queue
from planner.goodput import Effort
from planner.objective import Goal, Objective
from planner.problem import Problem, SearchSpace, Service
from planner.search.contract import Candidate, Ledger, SearchContext
from planner.search.provisioning.columns import configurations, promises
from planner.search.provisioning.hosts import host_classes
from planner.search.provisioning.method import KINDS, program_data
from planner.search.provisioning.optimum import Target, allocate
from planner.search.provisioning.program import ProgramData
from planner.search.registry import methods_of
from planner.serving import Planner
from planner.simulator.system import Phase, Routing
from planner.slo import Slo
from planner.stop import Never
from planner.whole_bound import whole_bound
from planner.workload.workload import Workload

NODE_TYPES = ("dgx_h100", "dgx_a100", "g6e.48xlarge")
"""H100, A100-80 and L40S, here with one to four GPUs a node."""

METHODS = (
    "aggregated",
    "distserve-high",
    "distserve-low",
    "provisioning",
    "hexgen2",
    "per-type",
)
GOALS = (Goal.MAX_GOODPUT, Goal.MAX_GOODPUT_PER_GPU, Goal.MIN_GPUS, Goal.MIN_COST)

SHORT = Effort(min_requests=60, max_requests=60, tolerance_frac=0.05)
"""One run of one length for all: exactness does not depend on it."""

_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What was found on one cluster."""

    seed: int
    num_gpus: int
    num_gpu_types: int
    goal: str
    num_deployments: int
    left_out: tuple[str, ...]
    programme_faults: int
    beaten_by: tuple[str, ...]
    unchecked: tuple[str, ...]
    bound_faults: tuple[str, ...]


def random_cluster(rng: np.random.Generator) -> Cluster:
    """Two to eight GPUs on nodes of one, two or four."""
    kinds = [str(k) for k in rng.permutation(NODE_TYPES)[: int(rng.integers(1, 4))]]
    nodes: list[Node] = []
    left = int(rng.integers(2, 9))
    while left > 0:
        size = int(rng.choice([n for n in (1, 2, 4) if n <= left]))
        kind = kinds[len(nodes) % len(kinds)]
        whole = NodeType.load(kind)
        part = replace(
            whole,
            name=f"{kind} x{size}",
            num_gpus=size,
            num_nics=1,
            num_sockets=1,
            usd_per_hour=float(size * (1 + NODE_TYPES.index(kind))),
        )
        nodes.append(Node(name=f"node{len(nodes)}", type=part))
        left -= size
    return Cluster(name="small", nodes=tuple(nodes), fabric=Fabric())


def random_problem(rng: np.random.Generator) -> Problem:
    """Short prompts and answers, so that runs are short."""
    service = Service(
        llm=LlmSpec.load("opt-13b"),
        workload=Workload.poisson(
            rate_rps=float(rng.uniform(2.0, 30.0)), lengths="512x16"
        ),
        slo=Slo(
            ttft_ms=float(rng.uniform(100.0, 600.0)),
            tpot_ms=float(rng.uniform(25.0, 80.0)),
        ),
    )
    return Problem(
        cluster=random_cluster(rng),
        services=(service,),
        objective=Objective(goal=GOALS[int(rng.integers(len(GOALS)))]),
        search=SearchSpace(
            tp=(1, 2), max_pp=1, max_replicas=2, is_batching_searched=False
        ),
    )


def run(seed: int) -> Case:
    """All checks on one cluster."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng)
    library = LatencyLibrary.default().with_sources("roofline")
    planner = Planner(problem=problem, library=library)
    evaluator = Evaluator(planner=planner, seed=seed, effort=SHORT)
    context = SearchContext(evaluator, Never())
    whole = methods_of("exhaustive")[0].search(context)
    found: dict[str, Candidate] = {}
    for name in METHODS:
        method = methods_of(name)[0]
        if method.supports(problem) is None:
            candidates = method.search(context).candidates
            if candidates:
                found[name] = to_the_queue(evaluator, candidates[0])
    best = whole.candidates[0] if whole.candidates else None
    if best is not None:
        found["exhaustive"] = best
    return Case(
        seed=seed,
        num_gpus=problem.cluster.num_gpus,
        num_gpu_types=len(problem.cluster.gpu_types()),
        goal=str(problem.objective.goal),
        num_deployments=whole.ledger.enumerated,
        left_out=whole.left_out,
        programme_faults=sum(programme_faults(context)),
        beaten_by=tuple(
            name
            for name, each in found.items()
            if best is None or each.rank(problem) < best.rank(problem)
        ),
        unchecked=tuple(
            n for n, each in found.items() if not is_checked(problem, each)
        ),
        bound_faults=tuple(bound_faults(planner, found)),
    )


def to_the_queue(evaluator: Evaluator, candidate: Candidate) -> Candidate:
    """As the exhaustive search routes: finalists of all try shares only later."""
    if candidate.deployment.routing is not Routing.FLOW_SHARES:
        return candidate
    deployment = by_queue(candidate.deployment)
    goodput = evaluator.goodput(deployment)
    return replace(candidate, deployment=deployment, goodput=goodput)


def is_checked(problem: Problem, candidate: Candidate) -> bool:
    """Whether the independent check accepts a deployment."""
    try:
        check_deployment(problem, candidate.deployment)
    except ValueError:
        return False
    return True


def bound_faults(planner: Planner, found: dict[str, Candidate]) -> Iterator[str]:
    """Methods whose best is better than the proven bound."""
    problem = planner.problem
    shapes = shape_rates(planner)
    bound = whole_bound(problem, gpu_rates(planner, shapes=shapes), shapes)
    if bound is None:
        return
    sign = -1.0 if problem.objective.needs_rate else 1.0
    for name, each in found.items():
        score = each.score(problem)
        if score is not None and score > sign * bound * (1.0 + sign * _ROUNDING):
            yield name


def programme_faults(context: SearchContext) -> Iterator[bool]:
    """For each kind of deployment: whether the programme missed its optimum."""
    problem = context.problem
    planner = context.evaluator.planner
    types = [gpu.name for gpu in problem.cluster.gpu_types()]
    classes = host_classes(problem.cluster, types)
    goal = problem.objective.goal
    needs_rate = problem.objective.needs_rate
    wanted = problem.service.workload.rate_rps if needs_rate else None
    for kind in KINDS:
        columns = [
            column
            for phase in kind
            for column in promises(
                context,
                configurations(planner, classes, phase, Ledger()),
                phase,
                Ledger(),
            )
        ]
        data = program_data(planner, classes, columns)
        data = replace(data, network=replace(data.network, kv_bytes_per_request=0.0))
        answer = allocate(data, Target(goal=goal, rate_rps=wanted))
        best = enumerated(data, kind, goal, wanted)
        if answer is None or best is None:
            yield (answer is None) != (best is None)
        else:
            sign = -1.0 if needs_rate else 1.0
            is_bound = sign * answer.bound >= sign * best - abs(best) * _ROUNDING
            yield abs(answer.value - best) > abs(best) * _ROUNDING or not is_bound


def enumerated(
    data: ProgramData, kind: tuple[Phase, ...], goal: Goal, wanted: float | None
) -> float | None:
    """Best value over all numbers of replicas that fit; None where none is."""
    limit = data.max_replicas or 8
    best: float | None = None
    parts = [
        [
            counts
            for counts in itertools.product(
                *(range(min(limit, most) + 1) for most in _most(data, data.of(phase)))
            )
            if 0 < sum(counts) <= limit
        ]
        for phase in kind
    ]
    for chosen in itertools.product(*parts):
        number = dict(
            pair
            for phase, counts in zip(kind, chosen, strict=True)
            for pair in zip(data.of(phase), counts, strict=True)
        )
        if not _fit(data, number):
            continue
        rate = min(
            sum(data.columns[i].rate_rps * number[i] for i in data.of(phase))
            for phase in kind
        )
        value = _value(data, number, goal, rate)
        if wanted is not None and (rate < wanted * (1 - 1e-9) or value is None):
            continue
        is_less = wanted is not None
        if value is not None and value > 0:
            if best is None:
                best = value
            best = min(best, value) if is_less else max(best, value)
    return best


def _most(data: ProgramData, columns: Sequence[int]) -> list[int]:
    """Replicas of each column that fit its class alone."""
    found = []
    for index in columns:
        column = data.columns[index]
        hosts = data.classes[column.host_class]
        groups = hosts.num_hosts * (hosts.num_gpus // column.width)
        found.append(groups // column.num_groups)
    return found


def _fit(data: ProgramData, number: dict[int, int]) -> bool:
    """Whether the groups fit the hosts: widest first, which is exact for 1 and 2."""
    for place, hosts in enumerate(data.classes):
        room = [hosts.num_gpus] * hosts.num_hosts
        widths = sorted(
            (
                data.columns[index].width
                for index, count in number.items()
                if data.columns[index].host_class == place
                for _ in range(count * data.columns[index].num_groups)
            ),
            reverse=True,
        )
        for width in widths:
            host = next((h for h, left in enumerate(room) if left >= width), None)
            if host is None:
                return False
            room[host] -= width
    return True


def _value(
    data: ProgramData, number: dict[int, int], goal: Goal, rate: float
) -> float | None:
    gpus = sum(data.columns[i].num_gpus * n for i, n in number.items())
    if goal is Goal.MAX_GOODPUT:
        return rate
    if goal is Goal.MAX_GOODPUT_PER_GPU:
        return rate / gpus
    if goal is Goal.MIN_GPUS:
        return float(gpus)
    price = 0.0
    for index, count in number.items():
        column = data.columns[index]
        usd = data.classes[column.host_class].usd_per_gpu_hour
        if usd is None:
            return None
        price += usd * column.num_gpus * count
    return price


def summary_of(cases: Sequence[Case]) -> dict[str, Any]:
    """How many clusters, and how often what must not happen did."""
    return {
        "num_clusters": len(cases),
        "num_deployments": sum(case.num_deployments for case in cases),
        "exhaustive_not_through": sum(len(case.left_out) > 0 for case in cases),
        "programme_not_optimal": sum(case.programme_faults > 0 for case in cases),
        "exhaustive_beaten": dict(Counter(n for c in cases for n in c.beaten_by)),
        "plans_not_checked": sum(len(case.unchecked) for case in cases),
        "bound_below_value": sum(len(case.bound_faults) for case in cases),
    }


def main() -> None:
    """Run all clusters and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cases = []
    started = time.monotonic()
    for seed in range(given.seed, given.seed + given.num):
        cases.append(run(seed))
        print(f"{time.monotonic() - started:7.1f} s", cases[-1], file=sys.stderr)
    summary = summary_of(cases)
    if given.format == "json":
        shown = {"summary": summary, "cases": [asdict(case) for case in cases]}
        json.dump(shown, sys.stdout, indent=1)
    else:
        print("\n".join(f"{key}: {value}" for key, value in summary.items()))


if __name__ == "__main__":
    main()
