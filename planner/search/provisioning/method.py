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
    1. Host classes and, on each, the replicas that run there, with the goodput that a
       short run promises for one of four that share the arrivals.
    2. Programmes for separate phases and for aggregated replicas, each with one, two or
       more replicas of a phase, since a pool evens out bursts.
    3. The programme with the best answer comes first. Replicas that its answer uses and
       that only a short run has priced are simulated long (`pricing`), and it is solved
       again; otherwise the answer is put on concrete GPUs and simulated whole. That
       ends when no programme's bound is better than what has been simulated.
    4. Where a whole answer falls short of its promise, prefill is also taken to be
       better or worse than it is (a joint SLO is harder than its parts). Where a rate
       is to be served, the programme is asked for as much more.
    5. The best is improved by single replicas more or fewer.

Differences from the paper
    - phases, SLO-aware rates by simulation, pipelines, exact packing of hosts, KV flow

Assumes   one service with open arrivals
Cost      one short goodput search a configuration, a long one for each that an answer
          uses, about 5 whole ones; on large clusters (`refine.is_large`) pools are not
          told apart by size, and single replicas hardly count
Guarantee heuristic; exact for the programme, whose bound is that of branch and bound
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

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
from planner.search.provisioning.host_units import by_host
from planner.search.provisioning.hosts import HostClass, host_classes
from planner.search.provisioning.network import KvNetwork, kv_network
from planner.search.provisioning.optimum import (
    Allocation,
    Target,
    allocate,
    relaxed_bound,
)
from planner.search.provisioning.pricing import (
    ANY_SIZE,
    LARGEST_POOL,
    POOL_SIZES,
    PricedProgramme,
    Prices,
    long_of,
)
from planner.search.provisioning.program import ProgramData
from planner.search.provisioning.reach import within_reach
from planner.search.provisioning.worth import allocation_bound
from planner.search.refine import Simulated, climb, is_large
from planner.search.shapes import usable_gpu_types
from planner.serving import Planner
from planner.simulator.system import Phase

KINDS = ((Phase.PREFILL, Phase.DECODE), (Phase.AGGREGATED,))
"""Phases of a deployment: split, or together."""

TILTS = (0.8, 1.25)
"""Factors on the rates of prefill replicas, where the answer falls short."""

SHORT_FRAC = 0.02
"""A whole answer that lacks so much of its promise falls short."""

_MOST_ANSWERS = 12
"""Programmes whose answers are simulated whole."""

_LARGE_GAP_FRAC = 5e-3
"""The same on a large cluster."""

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
        """Run steps 1-5."""
        ledger = Ledger()
        planner = context.evaluator.planner
        simulated = Simulated(
            self.name, context, ledger, planner.deploy, effort=long_of(context)
        )
        classes = host_classes(
            context.problem.cluster, usable_gpu_types(context.problem)
        )
        # 1, 2. Columns and programmes.
        programmes = [
            programme
            for kind in KINDS
            for programme in self._programmes(context, classes, kind, ledger)
        ]
        # 3, 4. Answers, simulated.
        self._race(simulated, programmes)
        if not simulated.candidates:
            self._best_effort(simulated, classes, ledger)
        # 5. Neighbours of the best.
        if not is_large(context.problem):
            climb(simulated)
        simulated.try_other_places()
        return SearchOutcome(
            method=self.name,
            candidates=simulated.ranked,
            ledger=ledger,
            is_stopped=context.is_stopped,
            allocation=self._bound(context, programmes),
        )

    def _programmes(
        self,
        context: SearchContext,
        classes: tuple[HostClass, ...],
        kind: tuple[Phase, ...],
        ledger: Ledger,
    ) -> list[PricedProgramme]:
        """Programmes of one kind, by numbers of replicas, at promised rates."""
        planner = context.evaluator.planner
        found = {p: configurations(planner, classes, p, ledger) for p in kind}
        columns = [
            column
            for phase in kind
            for column in promises(
                context, found[phase], phase, ledger, pool_size=LARGEST_POOL
            )
        ]
        data = program_data(planner, classes, columns)
        prices = Prices(context=context, ledger=ledger, found=found)
        sizes = (ANY_SIZE,) if is_large(context.problem) else POOL_SIZES
        return [
            PricedProgramme(
                prices=prices,
                data=data,
                sizes=dict(zip(kind, chosen, strict=True)),
                target=self._target(context.problem),
            )
            for chosen in product(sizes, repeat=len(kind))
        ]

    def _race(
        self, simulated: Simulated, programmes: Sequence[PricedProgramme]
    ) -> None:
        """Simulate answers, the most promising first, until no bound beats the best."""
        context = simulated.context
        waiting = [each for each in programmes if each.answer is not None]
        # What short runs promise: the pool may be larger than priced.
        for kind in KINDS:
            alike = [each for each in waiting if tuple(each.sizes) == kind]
            if alike and not context.should_stop():
                first = min(alike, key=lambda each: each.cost)
                self._ask(simulated, first.data, first.target, first.answer)
        for _ in range(_MOST_ANSWERS):
            while waiting and not context.should_stop():
                first = min(waiting, key=lambda each: each.cost)
                if first.is_settled:
                    break
                first.settle_once()
                waiting = [each for each in waiting if each.answer is not None]
            if not waiting or context.should_stop():
                return
            best = simulated.best
            score = None if best is None else best.score(context.problem)
            if score is not None and first.cost >= -score:
                return
            waiting.remove(first)
            self._try_answers(simulated, first)

    def _target(self, problem: Problem) -> Target:
        gap_frac = self.solve_gap_frac
        if is_large(problem):
            gap_frac = max(gap_frac, _LARGE_GAP_FRAC)
        return Target(
            goal=problem.objective.goal,
            then=problem.objective.then,
            give_up_frac=problem.objective.give_up_frac,
            rate_rps=target_rps(problem),
            time_limit_s=self.solve_limit_s,
            gap_frac=gap_frac,
        )

    def _try_answers(self, simulated: Simulated, programme: PricedProgramme) -> None:
        """Simulate the answer; where it falls short, with prefill tilted too."""
        assert programme.answer is not None
        promised_rps = programme.answer.rate_rps
        rate_rps = self._ask(
            simulated, programme.data, programme.target, programme.answer
        )
        tilts = TILTS[: 1 if is_large(simulated.context.problem) else None]
        is_split = Phase.PREFILL in programme.sizes
        if not is_split or rate_rps >= promised_rps * (1.0 - SHORT_FRAC):
            return
        for tilt in tilts:
            if simulated.context.should_stop():
                return
            tilted_rps = self._ask(
                simulated, tilted(programme.data, tilt), programme.target
            )
            rate_rps = max(rate_rps, tilted_rps)
        if rate_rps < promised_rps * (1.0 - SHORT_FRAC) and not is_large(
            simulated.context.problem
        ):
            self._ask_hosts(simulated, programme)

    def _ask_hosts(self, simulated: Simulated, programme: PricedProgramme) -> None:
        """Every host for itself, where KV caches between hosts may be what is slow."""
        if programme.target.rate_rps is not None:
            return
        planner = simulated.context.evaluator.planner
        deployment = by_host(planner, programme.data, programme.target)
        if deployment is not None:
            simulated.try_deployment(deployment)

    def _bound(
        self, context: SearchContext, programmes: Sequence[PricedProgramme]
    ) -> AllocationBound | None:
        """The bound of the programmes together; None without an answer."""
        answered = [each for each in programmes if each.answer is not None]
        if not answered or context.is_stopped:
            return None
        loosest = min(answered, key=lambda each: each.cost)
        relaxed = relaxed_bound(loosest.data, loosest.target)
        if relaxed is None or loosest.answer is None:
            return None
        goal = context.problem.objective.goal
        return allocation_bound(goal, loosest.data, loosest.answer, relaxed)

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

    def _ask(
        self,
        simulated: Simulated,
        data: ProgramData,
        target: Target,
        answer: Allocation | None = None,
    ) -> float:
        """Ask for the target, and for more while its answer serves too little.

        `answer` is the first, where it is known. The rate that the last answer serves,
        simulated whole.
        """
        wanted, rate_rps = target.rate_rps, 0.0
        for _ in range(_MAX_ROUNDS):
            allocation, answer = answer or allocate(data, target), None
            if allocation is None:
                return rate_rps
            deployment = deploy(
                simulated.context.evaluator.planner, data.classes, allocation
            )
            if deployment is None:
                simulated.ledger.reject("does not fit the nodes")
                return rate_rps
            candidate = simulated.try_deployment(deployment)
            if candidate is None:
                return rate_rps
            shapes = [replica.shape for replica in deployment.replicas]
            apart = simulated.try_apart(shapes, candidate)
            rate_rps = max(each.goodput.rate_rps for each in (candidate, apart) if each)
            if wanted is None or target.rate_rps is None or rate_rps >= wanted:
                return rate_rps
            if rate_rps <= 0 or simulated.context.should_stop():
                return rate_rps
            more = target.rate_rps * wanted / rate_rps * _MARGIN
            target = replace(target, rate_rps=more)
        return rate_rps


def program_data(
    planner: Planner, classes: tuple[HostClass, ...], columns: list[Column]
) -> ProgramData:
    """The programme's data from priced columns."""
    problem = planner.problem
    network = _network(problem, classes)
    served = [column for column in columns if column.rate_rps > 0]
    return ProgramData(
        classes=classes,
        columns=within_reach(classes, served, network),
        network=network,
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
