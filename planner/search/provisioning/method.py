"""Provisioning: GPU types, parallelism and numbers of replicas of each phase at once.

Reference
    Gilmore and Gomory, "A Linear Programming Approach to the Cutting-Stock Problem",
    Operations Research 9(6), 1961 (packings as columns); Griggs et al., "Mélange:
    Cost Efficient Large Language Model Serving by Exploiting GPU Heterogeneity",
    arXiv 2404.14527 (GPU types by integer programme).

Idea
    A replica of a given phase, GPU type and parallelism serves a rate that can be
    simulated once. How many of each to run, on which kind of host, so that prefill and
    decode keep up with each other and KV caches get through the network, is an integer
    programme that does not grow with the cluster: hosts alike are counted, not named.

Steps
    1. Host classes and, on each, the replicas that run there, with the goodput of one:
       alone, and as one of four that share the arrivals (a pool evens out bursts).
    2. The programme for separate phases and for aggregated replicas, for the goal.
       Prefill is also taken to be better or worse than promised (a joint SLO is harder
       than its parts), which shifts GPUs between the phases.
    3. Concrete GPUs for each answer, simulated whole. Where a rate is to be served and
       an answer falls short, the programme is asked for as much more.
    4. The best is improved by single replicas more or fewer.

Differences from the paper
    - phases, SLO-aware rates by simulation, pipelines, exact packing of hosts, KV flow

Assumes   one service with open arrivals
Cost      one goodput search a configuration, and about 6 whole ones a kind; on large
          clusters (`refine.is_large`) half as many, and 3 whole ones:
          pools are never small there, and single replicas hardly count
Guarantee heuristic; exact for the programme, whose linear relaxation bounds it
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from clusters.fields import check_fields, spec
from models.memory import kv_bytes
from planner.deployment import Deployment
from planner.plan import AllocationBound
from planner.problem import Problem
from planner.search.contract import (
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.provisioning.assignment import assign
from planner.search.provisioning.columns import Column, configurations, promises
from planner.search.provisioning.hosts import HostClass, host_classes
from planner.search.provisioning.network import KvNetwork, kv_network
from planner.search.provisioning.optimum import (
    Allocation,
    Target,
    allocate,
    relaxed_bound,
)
from planner.search.provisioning.program import ProgramData
from planner.search.provisioning.worth import allocation_bound, loosest
from planner.search.refine import Simulated, climb, is_large
from planner.search.shapes import usable_gpu_types
from planner.serving import Planner
from planner.simulator.system import Phase

KINDS = ((Phase.PREFILL, Phase.DECODE), (Phase.AGGREGATED,))
"""Phases of a deployment: split, or together."""

TILTS = (1.0, 0.8, 1.25)
"""Factors on the rates of prefill replicas, the likeliest first."""

POOL_SIZES = (1, 4)
"""Replicas that share the arrivals when a column is priced."""

_MAX_ROUNDS = 5
_MARGIN = 1.02
"""A short answer is asked again for this much more than what it lacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioning:
    """The configuration programme, its answers simulated."""

    solve_limit_s: float = spec("For one programme.", unit="s", gt=0, default=5.0)
    solve_gap_frac: float = spec(
        "Distance from its optimum that is good enough: rates are less exact.",
        unit="1",
        ge=0,
        default=1e-3,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "provisioning"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals only."""
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-4."""
        ledger = Ledger()
        planner = context.evaluator.planner
        simulated = Simulated(self.name, context, ledger, planner.deploy)
        classes = host_classes(
            context.problem.cluster, usable_gpu_types(context.problem)
        )
        few = is_large(context.problem)
        bounds: list[AllocationBound] = []
        for kind in KINDS:
            found = {p: configurations(planner, classes, p, ledger) for p in kind}
            for pool_size in POOL_SIZES[-1:] if few else POOL_SIZES:
                # 1. Columns.
                columns = [
                    column
                    for phase in kind
                    for column in promises(
                        context, found[phase], phase, ledger, pool_size=pool_size
                    )
                ]
                # 2, 3. Answers, simulated.
                data = program_data(planner, classes, columns)
                tilts = TILTS if kind[0] is Phase.PREFILL else TILTS[:1]
                self._try_answers(simulated, data, tilts[: 2 if few else None])
                if not context.is_stopped:
                    bounds += self._bounds(context.problem, data)
        if not simulated.candidates:
            self._best_effort(simulated, classes, ledger)
        # 4. Neighbours of the best.
        if not few:
            climb(simulated)
        return SearchOutcome(
            method=self.name,
            candidates=simulated.ranked,
            ledger=ledger,
            is_stopped=context.is_stopped,
            allocation=loosest(context.problem.objective.goal, bounds),
        )

    def _target(self, problem: Problem) -> Target:
        return Target(
            goal=problem.objective.goal,
            then=problem.objective.then,
            give_up_frac=problem.objective.give_up_frac,
            rate_rps=target_rps(problem),
            time_limit_s=self.solve_limit_s,
            gap_frac=self.solve_gap_frac,
        )

    def _try_answers(
        self, simulated: Simulated, data: ProgramData, tilts: Sequence[float]
    ) -> None:
        """Simulate the answers to the goal, with prefill as promised and tilted."""
        for tilt in tilts:
            if simulated.context.should_stop():
                return
            target = self._target(simulated.context.problem)
            self._ask(simulated, tilted(data, tilt), target)

    def _bounds(self, problem: Problem, data: ProgramData) -> list[AllocationBound]:
        """The relaxation of a programme beside its whole answer; [] without one."""
        target = self._target(problem)
        relaxed = relaxed_bound(data, target)
        whole = None if relaxed is None else allocate(data, target)
        if relaxed is None or whole is None:
            return []
        return [allocation_bound(problem.objective.goal, data, whole, relaxed)]

    def _best_effort(
        self, simulated: Simulated, classes: tuple[HostClass, ...], ledger: Ledger
    ) -> None:
        """Nothing meets the SLO at any rate: one replica of what comes nearest."""
        context = simulated.context
        for kind in KINDS:
            nearest = []
            for phase in kind:
                planner = context.evaluator.planner
                found = configurations(planner, classes, phase, Ledger())
                columns = promises(context, found, phase, ledger)
                if columns:
                    nearest.append(max(columns, key=lambda c: c.light_load_frac))
            if len(nearest) == len(kind):
                simulated.try_counts(tuple((column.shape, 1) for column in nearest))

    def _ask(self, simulated: Simulated, data: ProgramData, target: Target) -> None:
        """Ask for the target, and for more while its answer serves too little."""
        wanted = target.rate_rps
        for _ in range(_MAX_ROUNDS):
            allocation = allocate(data, target)
            if allocation is None:
                return
            deployment = deploy(
                simulated.context.evaluator.planner, data.classes, allocation
            )
            if deployment is None:
                simulated.ledger.reject("does not fit the nodes")
                return
            candidate = simulated.try_deployment(deployment)
            if candidate is None:
                return
            rate_rps = candidate.goodput.rate_rps
            if wanted is None or target.rate_rps is None or rate_rps >= wanted:
                return
            if rate_rps <= 0 or simulated.context.should_stop():
                return
            more = target.rate_rps * wanted / rate_rps * _MARGIN
            target = replace(target, rate_rps=more)


def program_data(
    planner: Planner, classes: tuple[HostClass, ...], columns: list[Column]
) -> ProgramData:
    """The programme's data from priced columns."""
    problem = planner.problem
    return ProgramData(
        classes=classes,
        columns=tuple(column for column in columns if column.rate_rps > 0),
        network=_network(problem, classes),
        max_gpus=problem.search.max_gpus,
        max_replicas=problem.search.max_replicas,
        max_usd_per_hour=problem.search.max_usd_per_hour,
        max_power_w=problem.search.max_power_w,
        available_gpus=problem.search.available_gpus,
    )


def _network(problem: Problem, classes: tuple[HostClass, ...]) -> KvNetwork:
    service = problem.service
    return kv_network(
        problem.cluster,
        classes,
        kv_bytes_per_request=kv_bytes(service.llm, service.workload.mean_input_tokens),
        efficiency_frac=problem.engine.kv_link_efficiency_frac,
    )


def tilted(data: ProgramData, factor: float) -> ProgramData:
    """The same data with the rates of prefill replicas multiplied."""
    return replace(data, columns=tuple(_tilt(data.columns, factor)))


def _tilt(columns: tuple[Column, ...], factor: float) -> Iterator[Column]:
    for column in columns:
        is_prefill = column.shape.phase is Phase.PREFILL
        rate_rps = column.rate_rps * (factor if is_prefill else 1.0)
        yield replace(column, rate_rps=rate_rps)


def target_rps(problem: Problem) -> float | None:
    """The rate to serve, where the goal asks for one."""
    rate = problem.service.workload.rate_rps
    return rate if problem.objective.needs_rate else None


def deploy(
    planner: Planner, classes: tuple[HostClass, ...], allocation: Allocation
) -> Deployment | None:
    """An allocation on concrete GPUs, or None when it does not fit them."""
    placed = assign(classes, allocation)
    if placed is None:
        return None
    shapes, stages = zip(*placed, strict=True)
    return planner.deploy_if_joined(shapes, stages)
