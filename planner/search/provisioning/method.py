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
    1. Host classes and, on each, the replicas that run there, with bounds on their
       goodput. Those that a programme may use get what a short run promises for one of
       four that share the arrivals (`promises`).
    2. Programmes for separate phases and for aggregated replicas, each with one, two or
       more replicas of a phase, since a pool evens out bursts.
    3. The programme with the best bound goes on (`race`). Replicas that it uses and
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
Cost      a short goodput search for a fifth to a half of the configurations, a long one
          for each that an answer uses, about 5 whole ones; on large clusters
          (`refine.is_large`) pools are not told apart by size, and single replicas
          hardly count
Guarantee heuristic; exact for the programme, whose bound is that of branch and bound
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from clusters.fields import check_fields, spec
from models.memory import kv_bytes
from planner.plan import AllocationBound
from planner.problem import Problem
from planner.search.contract import (
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.provisioning.assignment import deploy
from planner.search.provisioning.columns import Column, configurations, promises
from planner.search.provisioning.host_units import near_plans
from planner.search.provisioning.hosts import HostClass, host_classes
from planner.search.provisioning.network import KvNetwork, kv_network
from planner.search.provisioning.optimum import Allocation, Target
from planner.search.provisioning.pricing import (
    ANY_SIZE,
    LARGEST_POOL,
    POOL_SIZES,
    PricedProgramme,
    Prices,
    long_of,
)
from planner.search.provisioning.program import ProgramData
from planner.search.provisioning.promises import promises_of
from planner.search.provisioning.race import first_answered, first_settled
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
        bound = self._bound(context, programmes)
        shared = {id(each.promises): each.promises for each in programmes}
        for each in shared.values():
            each.count_open(ledger, is_stopped=context.is_stopped)
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
            allocation=bound,
        )

    def _programmes(
        self,
        context: SearchContext,
        classes: tuple[HostClass, ...],
        kind: tuple[Phase, ...],
        ledger: Ledger,
    ) -> list[PricedProgramme]:
        """Programmes of one kind, by numbers of replicas, at bounds of their rates."""
        planner = context.evaluator.planner
        found = {p: configurations(planner, classes, p, ledger) for p in kind}
        promises = promises_of(
            context,
            program_data(planner, classes, []),
            [each for phase in kind for each in found[phase]],
            ledger,
            pool_size=LARGEST_POOL,
        )
        prices = Prices(context=context, ledger=ledger, found=found)
        sizes = (ANY_SIZE,) if is_large(context.problem) else POOL_SIZES
        return [
            PricedProgramme(
                prices=prices,
                promises=promises,
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
        # What short runs promise: the pool may be larger than priced.
        for kind in KINDS:
            first = first_answered(context, programmes, kind)
            if first is not None and first.answer is not None:
                self._ask(simulated, first, first.target, answer=first.answer)
        waiting = list(programmes)
        for _ in range(_MOST_ANSWERS):
            first = first_settled(context, waiting)
            if first is None:
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
        target = programme.target
        promised_rps = programme.answer.rate_rps
        rate_rps = self._ask(simulated, programme, target, answer=programme.answer)
        tilts = TILTS[: 1 if is_large(simulated.context.problem) else None]
        is_split = Phase.PREFILL in programme.sizes
        if not is_split or rate_rps >= promised_rps * (1.0 - SHORT_FRAC):
            return
        for tilt in tilts:
            if simulated.context.should_stop():
                return
            tilted_rps = self._ask(simulated, programme, target, tilt=tilt)
            rate_rps = max(rate_rps, tilted_rps)
        if rate_rps < promised_rps * (1.0 - SHORT_FRAC):
            self._ask_hosts(simulated, programme)

    def _ask_hosts(self, simulated: Simulated, programme: PricedProgramme) -> None:
        """Where KV caches between hosts may be what is slow, fewer of them."""
        context = simulated.context
        is_few = not is_large(context.problem)
        programme.promises.promise_fastest(programme.data.narrow)
        plans = programme.promised_plans(
            lambda: list(near_plans(context.evaluator, programme, is_few=is_few))
        )
        for deployment in plans:
            if context.should_stop():
                return
            simulated.try_deployment(deployment)

    def _bound(
        self, context: SearchContext, programmes: Sequence[PricedProgramme]
    ) -> AllocationBound | None:
        """The bound of the programmes together; None without an answer."""
        loosest = first_answered(context, programmes)
        if loosest is None or loosest.answer is None or loosest.relaxed is None:
            return None
        goal = context.problem.objective.goal
        return allocation_bound(goal, loosest.data, loosest.answer, loosest.relaxed)

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
        programme: PricedProgramme,
        target: Target,
        *,
        tilt: float = 1.0,
        answer: Allocation | None = None,
    ) -> float:
        """Ask for the target, and for more while its answer serves too little.

        `answer` is the first, where it is known. The rate that the last answer serves,
        simulated whole.
        """
        wanted, rate_rps = target.rate_rps, 0.0
        classes = programme.data.classes
        for _ in range(_MAX_ROUNDS):
            allocation = answer or programme.best_for(target, tilt=tilt)
            answer = None
            if allocation is None:
                return rate_rps
            deployment = deploy(
                simulated.context.evaluator.planner, classes, allocation
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


def target_rps(problem: Problem) -> float | None:
    """The rate to serve, where the goal asks for one."""
    rate = problem.service.workload.rate_rps
    return rate if problem.objective.needs_rate else None
