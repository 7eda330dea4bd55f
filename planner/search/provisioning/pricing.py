"""Pricing: rates of replicas, long simulations only for those that an answer uses.

A short run starts with an empty system and flatters replicas whose requests stay for
long, decode replicas above all. A long run of every replica takes too long. So columns
start with what a short run in a pool promises, and those that the programme's answer
uses are simulated long; a rate can only fall by it. When the answer uses none but
these, no allocation at the long rates of all columns would be better, as long as no
promise of a short run is too low.

One or two aggregated replicas are a whole plan, which the finalists are simulated for
on several seeds. So are their rates: one seed may be a tenth off where many requests
are hardly in time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from clusters.fields import check_fields, spec
from planner.goodput import FINAL, SCREENING, Effort
from planner.search.chunk_budget import with_limits
from planner.search.contract import Ledger, SearchContext
from planner.search.phases import phase_slo
from planner.search.provisioning.columns import Column, Configuration
from planner.search.provisioning.optimum import Allocation, Target, allocate
from planner.search.provisioning.program import ProgramData
from planner.simulator.system import Phase

LONG = Effort(
    min_requests=1000,
    max_requests=FINAL.max_requests,
    span_s=FINAL.span_s,
    tolerance_frac=0.01,
)
"""As long as what the finalists are simulated for, with one seed."""

LARGEST_POOL = 4
"""Replicas that share the arrivals when a column of a larger pool is priced."""


def long_of(context: SearchContext) -> Effort:
    """How long to simulate where a search looks closer: as asked for, if not usual."""
    usual = context.evaluator.effort
    return LONG if usual == SCREENING else usual


def effort_of(context: SearchContext, phase: Phase, pool_size: int) -> Effort:
    """How long a pool is simulated: as finalists are, where it is a plan by itself."""
    effort = long_of(context)
    is_plan = phase is Phase.AGGREGATED and pool_size < LARGEST_POOL
    return FINAL if is_plan and effort == LONG else effort


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSize:
    """How many replicas of a phase a programme has."""

    fewest: int = spec("Fewest.", unit="replicas", ge=1)
    most: int | None = spec("Most; None: any number.", unit="replicas", default=None)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def priced(self) -> int:
        """Replicas that share the arrivals when a rate is simulated."""
        return LARGEST_POOL if self.most is None else self.most


POOL_SIZES = (
    PoolSize(fewest=1, most=1),
    PoolSize(fewest=2, most=2),
    PoolSize(fewest=3),
)
ANY_SIZE = PoolSize(fewest=1)


@dataclass(slots=True)
class Prices:
    """Long rates, each simulated once."""

    context: SearchContext
    ledger: Ledger
    found: Mapping[Phase, Sequence[Configuration]]
    _known: dict[object, float] = field(default_factory=dict)

    def rate_rps(self, column: Column, pool_size: int) -> float:
        """Rate of one of so many replicas that share the arrivals.

        At most what the column promises.
        """
        shape = column.shape
        each = next(
            c
            for c in self.found[shape.phase]
            if c.host_class == column.host_class
            and c.alone.replicas[0].parallelism == shape.parallelism
        )
        key = (shape, each.hosts_alike, pool_size)
        if key not in self._known:
            self._known[key] = self._simulated(column, each, pool_size)
        return min(column.rate_rps, self._known[key])

    def _simulated(self, column: Column, each: Configuration, size: int) -> float:
        part = phase_slo(self.context.problem.service.slo, column.shape.phase)
        if part is None:
            return column.rate_rps  # by capacity
        evaluator = self.context.evaluator
        planner = evaluator.planner
        alone = each.alone
        if column.shape.limits is not None:
            alone = with_limits(planner, alone, column.shape.limits)
        system = planner.system(alone)
        pool = replace(system, replicas=system.replicas * size)
        self.ledger.evaluated += 1
        effort = effort_of(self.context, column.shape.phase, size)
        found = evaluator.system_goodput(pool, part, effort=effort)
        return found.rate_rps / size


@dataclass(slots=True)
class PricedProgramme:
    """A programme with numbers of replicas of each phase, and its answer so far."""

    prices: Prices
    data: ProgramData
    sizes: Mapping[Phase, PoolSize]
    target: Target
    answer: Allocation | None = None
    _is_long: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = replace(
            self.data,
            pool_sizes={p: (s.fewest, s.most) for p, s in self.sizes.items()},
        )
        self._is_long = [False] * len(self.data.columns)
        self.answer = allocate(self.data, self.target)

    @property
    def cost(self) -> float:
        """Bound on what the answer may reach of the goal: the smaller, the better."""
        if self.answer is None:
            return math.inf
        return -self.answer.bound if self.target.goal.is_upper else self.answer.bound

    @property
    def is_settled(self) -> bool:
        """Whether all rates that the answer uses are long ones."""
        return self.answer is None or not self._promised()

    def settle_once(self) -> None:
        """Simulate what the answer uses, and solve again."""
        columns = list(self.data.columns)
        for index in self._promised():
            size = self.sizes[columns[index].shape.phase].priced
            rate_rps = self.prices.rate_rps(columns[index], size)
            columns[index] = replace(columns[index], rate_rps=rate_rps)
            self._is_long[index] = True
        self.data = replace(self.data, columns=tuple(columns))
        self.answer = allocate(self.data, self.target)

    def _promised(self) -> list[int]:
        """Columns of the answer that no long run has priced."""
        if self.answer is None:
            return []
        used = {(column.host_class, column.shape) for column, _ in self.answer.counts}
        return [
            index
            for index, column in enumerate(self.data.columns)
            if (column.host_class, column.shape) in used and not self._is_long[index]
        ]
