"""Long rates only for what answers use: the same answer as long rates for all."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from planner.goodput import FINAL, SCREENING
from planner.objective import Goal
from planner.search.contract import Ledger
from planner.search.provisioning.columns import Column, configurations
from planner.search.provisioning.hosts import host_classes
from planner.search.provisioning.optimum import Target, allocate
from planner.search.provisioning.pricing import (
    ANY_SIZE,
    LARGEST_POOL,
    LONG,
    POOL_SIZES,
    PoolSize,
    PricedProgramme,
    Prices,
    effort_of,
    long_of,
)
from planner.search.provisioning.program import ProgramData
from planner.search.provisioning.promises import Place, Promises, place_of
from planner.search.provisioning.reach import within_reach
from planner.simulator.system import Phase
from tests.planner.search.provisioning.test_program import (
    SPLIT,
    column,
    data_of,
    host_class,
    random_data,
)
from tests.planner.tiny_problems import QUICK, context_of, tiny_cluster, tiny_problem


@dataclass
class Known:
    """Long rates as a share of what is promised, and which were asked for."""

    shares: dict[Place, float]
    asked: list[Column] = field(default_factory=list)

    def rate_rps(self, column: Column, pool_size: int) -> float:
        self.asked.append(column)
        return column.rate_rps * self.shares[place_of(column)]


def promised(data: ProgramData) -> Promises:
    """Columns whose bounds are what short runs promise."""
    return Promises(
        given=data,
        simulated=lambda index: data.columns[index],
        alike=range(len(data.columns)),
    )


def settled(prices, data: ProgramData, goal: Goal, rate_rps=None) -> PricedProgramme:
    programme = PricedProgramme(
        prices=prices,
        promises=promised(data),
        sizes=dict.fromkeys(data.phases, ANY_SIZE),
        target=Target(goal=goal, rate_rps=rate_rps),
    )
    while not programme.is_settled:
        before = programme.cost
        programme.settle_once()
        assert programme.cost >= before - 1e-6 * abs(before)  # bounds only tighten
    return programme


@pytest.mark.parametrize("seed", range(12))
def test_the_answer_is_that_of_long_rates_for_all(seed):
    rng = np.random.default_rng(seed)
    data = random_data(rng)
    unique = {place_of(c): c for c in data.columns}
    data = replace(data, columns=tuple(unique.values()))
    prices = Known({place: float(rng.uniform(0.4, 1.0)) for place in unique})
    goal = (Goal.MAX_GOODPUT, Goal.MAX_GOODPUT_PER_GPU)[seed % 2]
    programme = settled(prices, data, goal)
    long = tuple(
        replace(c, rate_rps=c.rate_rps * prices.shares[place_of(c)])
        for c in within_reach(data.classes, data.columns, data.network)
    )
    # Every size has at least one replica of a phase.
    whole = replace(programme.data, columns=long)
    expected = allocate(whole, Target(goal=goal))
    if expected is None:  # one of each phase does not fit
        assert programme.answer is None
        return
    assert programme.answer.value == pytest.approx(expected.value, rel=1e-5)
    assert programme.answer.bound >= expected.value * (1 - 1e-6)
    assert len(prices.asked) <= len(data.columns)


def test_what_no_answer_uses_is_never_simulated():
    good, bad = column(Phase.AGGREGATED, 4.0), column(Phase.AGGREGATED, 1.0, 2)
    prices = Known({place_of(good): 0.5, place_of(bad): 1.0})
    programme = settled(prices, data_of([host_class()], [good, bad]), Goal.MAX_GOODPUT)
    assert prices.asked == [good]
    assert programme.answer.value == pytest.approx(4 * 2.0)


def test_sizes_of_pools_are_kept_and_leave_none_out():
    columns = [column(Phase.PREFILL, 2.0), column(Phase.DECODE, 3.0)]
    data = data_of([host_class()], columns)
    for most in POOL_SIZES:
        sizes = {Phase.PREFILL: most, Phase.DECODE: ANY_SIZE}
        prices = Known(dict.fromkeys(map(place_of, columns), 1.0))
        target = Target(goal=Goal.MAX_GOODPUT)
        found = PricedProgramme(
            prices=prices, promises=promised(data), sizes=sizes, target=target
        )
        while found.answer is None:
            found.promise_once()
        number = sum(
            n for c, n in found.answer.counts if c.shape.phase is Phase.PREFILL
        )
        assert most.fewest <= number <= (most.most or number)
    starts = [size.fewest for size in POOL_SIZES]
    ends = [size.most for size in POOL_SIZES]
    assert starts == [1, *(end + 1 for end in ends[:-1])]
    assert ends[-1] is None


def test_rates_of_pools_are_simulated_once_and_at_most_promised():
    context = context_of(tiny_problem(cluster=tiny_cluster(1, 2)))
    planner = context.evaluator.planner
    classes = host_classes(context.problem.cluster, ["tiny"])
    ledger = Ledger()
    found = {p: configurations(planner, classes, p, ledger) for p in SPLIT}
    prices = Prices(context=context, ledger=ledger, found=found)
    each = found[Phase.PREFILL][0].alone.replicas[0]
    promised = Column(host_class=0, shape=each.shape, rate_rps=1e3)
    alone = prices.rate_rps(promised, 1)
    num = context.evaluator.num_evaluations
    assert prices.rate_rps(promised, 1) == alone
    assert context.evaluator.num_evaluations == num
    assert prices.rate_rps(replace(promised, rate_rps=alone / 2), 1) == alone / 2
    # A pool evens out bursts.
    assert prices.rate_rps(promised, LARGEST_POOL) > alone


def test_a_pool_that_is_a_plan_is_simulated_like_a_finalist():
    context = context_of(tiny_problem(), effort=SCREENING)
    assert effort_of(context, Phase.AGGREGATED, 1) == FINAL
    assert effort_of(context, Phase.AGGREGATED, LARGEST_POOL) == LONG
    assert effort_of(context, Phase.DECODE, 1) == LONG
    assert effort_of(context_of(tiny_problem()), Phase.AGGREGATED, 1) == QUICK


def test_who_asks_for_short_runs_gets_them():
    assert long_of(context_of(tiny_problem(), effort=QUICK)) == QUICK
    assert LONG.max_requests == FINAL.max_requests
    assert PoolSize(fewest=2, most=2).priced == 2
