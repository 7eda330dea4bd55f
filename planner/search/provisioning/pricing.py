"""Pricing: rates of replicas, long simulations only for those that an answer uses.

A short run starts with an empty system and flatters replicas whose requests stay for
long, decode replicas above all. A long run of every replica takes too long. So columns
start with their bounds (`planner.search.provisioning.promises`), those that solutions
use get what a short run in a pool promises, and those that the programme's answer uses
then are simulated long; a rate can only fall by it. When the answer uses none but
these, no allocation at the long rates of all columns would be better, as long as no
promise of a short run is too low.

One or two aggregated replicas are a whole plan, which the finalists are simulated for
on several seeds. So are their rates: one seed may be a tenth off where many requests
are hardly in time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from clusters.fields import check_fields, spec
from planner.deployment import Deployment
from planner.goodput import FINAL, SCREENING, Effort
from planner.search.chunk_budget import with_limits
from planner.search.contract import Ledger, SearchContext
from planner.search.phases import phase_slo
from planner.search.provisioning.columns import Column, Configuration
from planner.search.provisioning.merged import Merged
from planner.search.provisioning.optimum import (
    Allocation,
    Bound,
    Target,
    allocate,
    relaxed_bound,
)
from planner.search.provisioning.program import ProgramData
from planner.search.provisioning.promises import Place, Promises, place_of
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


class LongRates(Protocol):
    """What tells the rate of a column in a long run."""

    def rate_rps(self, column: Column, pool_size: int) -> float:
        """Rate of one of so many replicas, at most what the column promises."""
        ...


Waits = Callable[[Sequence[Column]], bool]
"""Simulates what a solution that uses these columns has to wait for, if anything."""


@dataclass(slots=True)
class PricedProgramme:
    """A programme with numbers of replicas of each phase, and its answer so far.

    Its relaxation comes first, which is solved in no time: columns that even this does
    not use are hardly used by whole replicas.
    """

    prices: LongRates
    promises: Promises
    sizes: Mapping[Phase, PoolSize]
    target: Target
    answer: Allocation | None = None
    """The best whole replicas, of columns that are promised or long."""
    relaxed: Bound | None = None
    """The relaxation; None: out of reach."""
    cost: float = -math.inf
    """Bound on what an answer may reach of the goal: the smaller, the better."""
    _long: dict[Place, float] = field(default_factory=dict)
    _num_changes: int = 0

    def __post_init__(self) -> None:
        self._relax()

    @property
    def data(self) -> ProgramData:
        """Columns at their bounds, promised or long."""
        data = self.promises.data
        columns = tuple(
            replace(column, rate_rps=min(column.rate_rps, long_rps))
            if (long_rps := self._long.get(place_of(column))) is not None
            else column
            for column in data.columns
        )
        sizes = {p: (s.fewest, s.most) for p, s in self.sizes.items()}
        return replace(data, columns=columns, pool_sizes=sizes)

    @property
    def is_out_of_reach(self) -> bool:
        """Whether no replicas are an answer, at any rates there may be."""
        return self.relaxed is None

    @property
    def is_settled(self) -> bool:
        """Whether all rates that the answer uses are long ones, or there is none."""
        return self.is_out_of_reach or (
            self.answer is not None and not self._short(self.answer.columns)
        )

    def promise_once(self) -> None:
        """One step towards an answer of promised columns: a promise, or the answer."""
        self._renew()
        if self.relaxed is not None and self.answer is None:
            self._step(self.relaxed.used, self._promise)

    def settle_once(self) -> None:
        """One step towards an answer of long rates."""
        self._renew()
        if self.answer is not None:
            self._price(self.answer.columns)
        elif self.relaxed is not None:
            self._step(self.relaxed.used, self._promise_or_price)

    def best_for(self, target: Target, *, tilt: float = 1.0) -> Allocation | None:
        """An answer for another target, of promised columns; prefill rates tilted."""
        while True:
            data = tilted(self.data, tilt)
            relaxed = relaxed_bound(data, target)
            if relaxed is None:
                return None
            if not self._promise(relaxed.used):
                answer, is_waiting = _solved(data, target, self._promise)
                if not is_waiting:
                    return answer

    def promised_plans(
        self, made: Callable[[], Sequence[Deployment]]
    ) -> Sequence[Deployment]:
        """Deployments made from the data, again until all in them is promised."""
        while True:
            plans = made()
            waiting = {i for each in plans for i in self.promises.open_in(each)}
            if not waiting:
                return plans
            self.promises.promise(sorted(waiting))

    def _step(self, used: Sequence[Column], waits: Waits) -> None:
        """Solve the programme, unless simulations come first."""
        if waits(used):
            self._renew()
            return
        answer, is_waiting = _solved(self.data, self.target, waits)
        if is_waiting:
            self._renew()
        elif answer is None:
            self.relaxed, self.cost = None, math.inf
        else:
            self.answer = answer
            self._tighten(answer.bound)

    def _promise(self, used: Sequence[Column]) -> bool:
        """Simulate columns that are not promised; whether there are any."""
        waiting = self.promises.open_of(used)
        self.promises.promise(waiting)
        return bool(waiting)

    def _promise_or_price(self, used: Sequence[Column]) -> bool:
        """The same; where there are none, those that are not long."""
        return self._promise(used) or self._price(used)

    def _price(self, used: Sequence[Column]) -> bool:
        """Simulate columns long that are not; whether there are any."""
        short = self._short(used)
        for column in short:
            size = self.sizes[column.shape.phase].priced
            self._long[place_of(column)] = self.prices.rate_rps(column, size)
        if short:
            self._relax()
        return bool(short)

    def _renew(self) -> None:
        """Take in what other programmes have had promised; an answer stays one."""
        if self.answer is None and self._num_changes != self.promises.num_changes:
            self._relax()

    def _relax(self) -> None:
        """Solve the relaxation at the rates known so far."""
        self.answer = None
        self._num_changes = self.promises.num_changes
        self.relaxed = relaxed_bound(self.data, self.target)
        if self.relaxed is None:
            self.cost = math.inf
        else:
            self._tighten(self.relaxed.value)

    def _tighten(self, bound: float) -> None:
        """Take note of a bound on the goal: rates only fall, so it holds for good."""
        cost = -bound if self.target.goal.is_upper else bound
        self.cost = max(self.cost, cost)

    def _short(self, used: Sequence[Column]) -> list[Column]:
        """Columns that no long run has priced."""
        return [column for column in used if place_of(column) not in self._long]


def _solved(
    data: ProgramData, target: Target, waits: Waits
) -> tuple[Allocation | None, bool]:
    """The best allocation, and whether it is to be solved for again.

    By way of the programme without leaves, which is solved much faster.
    """
    merged = Merged.of(data)
    if merged.is_smaller:
        whole, is_waiting = _asked(
            merged.data, target, lambda each: waits(merged.columns_of(each))
        )
        if is_waiting:
            return None, True
        answer = None if whole is None else merged.dealt(whole, target)
        if answer is not None:
            return answer, False
    return _asked(data, target, lambda each: waits(each.columns))


def _asked(
    data: ProgramData, target: Target, waits: Callable[[Allocation], bool]
) -> tuple[Allocation | None, bool]:
    """The best allocation, and whether it waits: asked for each of the goals."""
    waiting: list[bool] = []

    def is_wanted(each: Allocation) -> bool:
        waiting.append(waits(each))
        return not waiting[-1]

    answer = allocate(data, target, is_wanted=is_wanted)
    if answer is None:
        return None, False
    return answer, waiting[-1] or waits(answer)


def tilted(data: ProgramData, factor: float) -> ProgramData:
    """The same data with the rates of prefill replicas multiplied."""
    if factor == 1.0:
        return data
    columns = tuple(
        replace(column, rate_rps=column.rate_rps * factor)
        if column.shape.phase is Phase.PREFILL
        else column
        for column in data.columns
    )
    return replace(data, columns=columns)
