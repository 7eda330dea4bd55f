"""Columns simulated on demand: the same optimum as with all of them simulated."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from planner.objective import Goal
from planner.search.contract import STOPPED, Ledger
from planner.search.provisioning.columns import configurations
from planner.search.provisioning.columns import promises as all_promises
from planner.search.provisioning.hosts import host_classes
from planner.search.provisioning.method import Provisioning, program_data
from planner.search.provisioning.optimum import Target, allocate, relaxed_bound
from planner.search.provisioning.pricing import (
    ANY_SIZE,
    LARGEST_POOL,
    PricedProgramme,
)
from planner.search.provisioning.promises import (
    HOPELESS,
    NOT_NEEDED,
    Promises,
    place_of,
    promises_of,
)
from planner.search.provisioning.reach import within_reach
from planner.simulator.system import Phase
from planner.stop import MaxEvaluations
from tests.planner.search.provisioning.enumeration import best_rate
from tests.planner.search.provisioning.test_program import (
    column,
    data_of,
    host_class,
    random_data,
)
from tests.planner.tiny_problems import context_of, tiny_cluster, tiny_problem


def bounded(data, bounds, asked):
    """Promises of the data's columns, which start at bounds instead."""

    def simulated(index):
        asked.append(index)
        return data.columns[index]

    columns = tuple(
        replace(c, rate_rps=b) for c, b in zip(data.columns, bounds, strict=True)
    )
    return Promises(
        given=replace(data, columns=columns),
        simulated=simulated,
        alike=range(len(columns)),
    )


def programme_of(promises, target):
    return PricedProgramme(
        prices=None,
        promises=promises,
        sizes=dict.fromkeys(promises.data.phases, ANY_SIZE),
        target=target,
    )


def answered(programme):
    while programme.answer is None and not programme.is_out_of_reach:
        before = programme.cost
        programme.promise_once()
        assert programme.cost >= before - 1e-6 * abs(before)
    return programme.answer


@pytest.mark.parametrize("seed", range(24))
def test_the_optimum_is_that_of_all_columns_simulated(seed):
    """Whole and relaxed, with slow NICs and fast ones, for three goals."""
    rng = np.random.default_rng(seed)
    data = random_data(rng)
    unique = {place_of(c): c for c in data.columns}
    data = replace(data, columns=tuple(unique.values()))
    bounds = [c.rate_rps * float(rng.uniform(1.0, 2.0)) for c in data.columns]
    goal = (Goal.MAX_GOODPUT, Goal.MAX_GOODPUT_PER_GPU, Goal.MIN_GPUS)[seed % 3]
    rate_rps = 2.0 if goal.needs_rate else None
    target = Target(goal=goal, rate_rps=rate_rps)
    asked: list[int] = []
    programme = programme_of(bounded(data, bounds, asked), target)
    found = answered(programme)
    reached = within_reach(data.classes, data.columns, data.network)
    whole = replace(programme.data, columns=reached)
    expected = allocate(whole, target)
    if expected is None:
        assert found is None
        return
    assert found.value == pytest.approx(expected.value, rel=1e-5)
    assert found.bound == pytest.approx(expected.bound, rel=1e-5)
    relaxed = relaxed_bound(whole, target)
    assert programme.relaxed.value == pytest.approx(relaxed.value, rel=1e-6)
    assert len(asked) == len(set(asked))  # each once
    # An answer to another question is of promised columns too.
    harder = replace(target, rate_rps=0.9 * expected.rate_rps)
    for tilt in (0.8, 1.25):
        again = programme.best_for(harder, tilt=tilt)
        if again is not None:
            assert not programme.promises.open_of(again.columns)


def narrow_data(rng):
    """Up to two classes of slow and fast NICs; a fifth of the columns serve nothing."""
    classes, columns = [], []
    for index in range(int(rng.integers(1, 3))):
        num_gpus, num_hosts = (2, 2) if index else (int(rng.integers(2, 4)), 2)
        nic = float(rng.choice([0.3, 1.0, 50.0]))
        classes.append(host_class(num_gpus, num_hosts, nic=nic))
        for phase in (Phase.PREFILL, Phase.DECODE):
            for _ in range(int(rng.integers(1, 3))):
                tp, pp = int(rng.integers(1, num_gpus + 1)), int(rng.integers(1, 3))
                rate = float(rng.uniform(0.5, 3.0)) * (tp * pp) ** 0.9
                is_none = rng.random() < 0.2
                columns.append(column(phase, 0.0 if is_none else rate, tp, pp, index))
    data = data_of(classes, columns, kv_bytes=1.0)
    unique = {place_of(c): c for c in data.columns}
    return replace(data, columns=tuple(unique.values()))


@pytest.mark.parametrize("seed", range(12))
def test_nothing_on_slow_hosts_is_better_than_the_bound(seed):
    """Every number of replicas, wherever their stages are; bounds above the rates."""
    rng = np.random.default_rng(seed)
    data = narrow_data(rng)
    bounds = [max(c.rate_rps, 0.5) * rng.uniform(1.0, 2.0) for c in data.columns]
    programme = programme_of(bounded(data, bounds, []), Target(goal=Goal.MAX_GOODPUT))
    found = answered(programme)
    served = replace(data, columns=tuple(c for c in data.columns if c.rate_rps > 0))
    sizes = [
        data.classes[c.host_class].num_gpus * data.classes[c.host_class].num_hosts
        for c in served.columns
    ]
    ranges = [
        range(size // c.num_gpus + 1)
        for size, c in zip(sizes, served.columns, strict=True)
    ]
    while math.prod(map(len, ranges)) > 2000:  # fewer of the most numerous
        longest = max(range(len(ranges)), key=lambda i: len(ranges[i]))
        ranges[longest] = ranges[longest][:-1]
    best = max(best_rate(served, n) or 0.0 for n in itertools.product(*ranges))
    bound = 0.0 if found is None else found.bound
    assert best <= bound * (1 + 1e-5)


def test_what_is_bounded_below_the_best_is_never_simulated():
    # 4 x 3/s on four GPUs; 4 x 2.5/s at best, and 2.9/s of two GPUs.
    data = data_of(
        [host_class()],
        [
            column(Phase.AGGREGATED, 3.0),
            column(Phase.AGGREGATED, 1.0, tp=2),
            column(Phase.AGGREGATED, 0.0, pp=2),
        ],
    )
    asked: list[int] = []
    promises = bounded(data, [3.5, 2.9, 0.0], asked)
    found = answered(programme_of(promises, Target(goal=Goal.MAX_GOODPUT)))
    assert found.value == pytest.approx(12.0)
    assert asked == [0]
    ledger = Ledger()
    promises.count_open(ledger, is_stopped=False)
    assert ledger.rejected == {NOT_NEEDED: 1, HOPELESS: 1}
    ledger = Ledger()
    promises.count_open(ledger, is_stopped=True)
    assert ledger.rejected[STOPPED] == 1


def test_reach_by_the_rate_of_another_waits_for_it():
    # The NICs bring a decode replica 1/s, the two other GPUs of its host prefill 2 x
    # 1.5/s, if their bound of 5/s is not taken for it.
    hosts = host_class(num_gpus=4, num_hosts=1, nic=10.0)
    columns = [column(Phase.PREFILL, 1.5), column(Phase.DECODE, 9.0, tp=2)]
    data = data_of([hosts], columns, kv_bytes=10.0)
    asked: list[int] = []
    promises = bounded(data, [5.0, 9.0], asked)
    assert promises.open_of([promises.data.columns[1]]) == [0, 1]
    promises.promise([1])
    assert promises.open_of([promises.data.columns[1]]) == [0]
    promises.promise([0])
    assert promises.open_of(promises.data.columns) == []
    assert promises.data.columns[1].rate_rps == pytest.approx(1.0 + 2 * 1.5)


def test_a_search_that_is_stopped_leaves_columns_out():
    data = data_of([host_class()], [column(Phase.AGGREGATED, 3.0)])
    promises = Promises(given=data, simulated=lambda index: None, alike=[0])
    assert answered(programme_of(promises, Target(goal=Goal.MAX_GOODPUT))) is None
    assert promises.data.columns == ()


def tiny_promises(context, kind):
    planner = context.evaluator.planner
    classes = host_classes(context.problem.cluster, ["tiny"])
    found = [
        each
        for phase in kind
        for each in configurations(planner, classes, phase, Ledger())
    ]
    data = program_data(planner, classes, [])
    return classes, promises_of(context, data, found, Ledger(), pool_size=LARGEST_POOL)


@pytest.mark.parametrize("phase", list(Phase))
def test_no_promise_exceeds_its_bound_and_order_does_not_matter(phase):
    problem = tiny_problem(cluster=tiny_cluster(1, 4))
    context = context_of(problem)
    classes, promises = tiny_promises(context, (phase,))
    bounds = [c.rate_rps for c in promises.given.columns]
    promises.promise(reversed(range(len(bounds))))
    backwards = promises.data.columns
    assert promises.num_open == promises.num_hopeless == 0
    bound_of = {place_of(c): c.rate_rps for c in promises.given.columns}
    for each in backwards:
        assert 0 < each.rate_rps <= bound_of[place_of(each)] * (1 + 1e-9)
    again = context_of(problem)
    found = configurations(again.evaluator.planner, classes, phase, Ledger())
    forwards = {
        place_of(c): (c.shape, c.rate_rps)
        for c in all_promises(again, found, phase, Ledger(), pool_size=LARGEST_POOL)
    }
    for each in backwards:
        shape, rate_rps = forwards[place_of(each)]
        assert shape == each.shape
        # There the search for a rate starts at a guess, here it does not.
        assert rate_rps == pytest.approx(each.rate_rps, rel=0.1)


def test_everything_is_counted_with_and_without_a_stop():
    for stop in (None, MaxEvaluations(num=12)):
        context = context_of(tiny_problem(cluster=tiny_cluster(2, 4)))
        if stop is not None:
            context.stop = stop
        ledger = Provisioning().search(context).ledger
        assert ledger.rejected[STOPPED if stop else NOT_NEEDED] > 0
        assert ledger.enumerated == ledger.evaluated + sum(ledger.rejected.values())
