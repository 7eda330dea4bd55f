"""Planned shares: quotas that are kept to a request, whatever the loads."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.capacity import system_capacity_rps
from planner.simulator.build import SimulationOptions
from planner.simulator.outside_schedule import OutsideEvent, OutsideKind
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, Routing, ServingSystem
from tests.planner.simulator.systems import (
    many_requests,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)
from tests.planner.simulator.test_simulator_reference import between_phases, matched

STEPS = tiny_table(prefill_ms=1.0, decode_ms=1.0)
ROUNDING = 1e-6


def shared(shares: list[list[float]], **changes) -> ServingSystem:
    """A prefill replica a row and a decode replica a column, with these shares."""
    num_prefill, num_decode = len(shares), len(shares[0])
    replicas = [tiny_replica(Phase.PREFILL, STEPS)] * num_prefill
    replicas += [tiny_replica(Phase.DECODE, STEPS)] * num_decode
    system = tiny_system(*replicas, routing=Routing.FLOW_SHARES, **changes)
    routes = tuple(
        replace(route, share_frac=shares[route.source][route.target - num_prefill])
        for route in system.routes
    )
    return replace(system, routes=routes)


def served(system: ServingSystem, num_requests: int, gap_ms: float = 3.0):
    rows = [(gap_ms * i, 1 + i % 7, 2 + i % 3) for i in range(num_requests)]
    return simulate(system, tiny_requests(*rows))


def shares_of(least: int) -> st.SearchStrategy[list[list[float]]]:
    """Shares of one to four replicas a phase that add up to 1, some of them 0."""
    weight = st.integers(0, 12) | st.integers(0, 2)
    return (
        st.tuples(st.integers(least, 4), st.integers(least, 4))
        .flatmap(
            lambda size: st.lists(
                st.lists(weight, min_size=size[1], max_size=size[1]),
                min_size=size[0],
                max_size=size[0],
            )
        )
        .filter(lambda rows: sum(map(sum, rows)) > 0)
        .map(lambda rows: (np.array(rows) / np.sum(rows)).tolist())
    )


def assert_within_quota(chosen: np.ndarray, shares: np.ndarray) -> None:
    """After every n of the choices, each share has had floor(n w) to ceil(n w)."""
    had = np.cumsum(chosen[:, None] == np.arange(len(shares)), axis=0)
    quota = np.arange(1, len(chosen) + 1)[:, None] * shares
    assert np.all(had >= np.floor(quota - ROUNDING))
    assert np.all(had <= np.ceil(quota + ROUNDING))


@given(shares_of(1), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_every_share_is_kept_to_a_request_at_all_times(shares, num_requests):
    system = shared(shares)
    result = served(system, num_requests)
    assert not result.is_rejected.any()  # everyone is served, and only once
    assert np.isfinite(result.finish_ms).all()
    matrix = np.array(shares)
    arriving = matrix.sum(axis=1)
    assert_within_quota(result.prefill_replica, arriving)
    for source in np.flatnonzero(arriving):
        # Requests leave a prefill replica in the order in which they came.
        mine = result.decode_replica[result.prefill_replica == source] - len(shares)
        if len(mine):
            assert_within_quota(mine, matrix[source] / arriving[source])


@given(between_phases(Routing.FLOW_SHARES), many_requests())
@settings(max_examples=60, deadline=None)
def test_systems_of_any_kind_match_the_reference(system, requests):
    matched(system, requests)


@given(shares_of(1))
@settings(max_examples=20, deadline=None)
def test_nobody_gets_what_has_no_share(shares):
    result = served(shared(shares), 60, gap_ms=0.0)
    pairs = zip(result.prefill_replica, result.decode_replica, strict=True)
    assert all(shares[source][target - len(shares)] > 0 for source, target in pairs)


def test_the_next_is_the_one_who_would_be_behind_first():
    """Shares of 5, 2 and 1 eighth: a whole request behind after 1.6, 4 and 8 requests.

    0 is due at 1.6 and 3.2, then 1 at 4; 0 at 4.8 and 6.4; 1 at 8, the first of three
    that are; 0; and 2.
    """
    result = served(shared([[5 / 8], [2 / 8], [1 / 8]]), 24)
    assert result.prefill_replica.tolist() == [0, 0, 1, 0, 0, 1, 0, 2] * 3


def test_the_same_again_whatever_the_seed():
    system = shared([[0.2, 0.3], [0.4, 0.1]])
    other = replace(system, router=replace(system.router, seed=7))
    one, two = served(system, 80), served(other, 80)
    assert one.prefill_replica.tolist() == two.prefill_replica.tolist()
    assert one.decode_replica.tolist() == two.decode_replica.tolist()
    assert one.finish_ms.tolist() == two.finish_ms.tolist()


def test_without_shares_the_least_work_decides():
    system = shared([[0.0, 0.0], [0.0, 0.0]])
    assert system.replica_shares() is None
    by_work = replace(system, routing=Routing.SHORTEST_QUEUE)
    mine, other = served(system, 40), served(by_work, 40)
    assert mine.finish_ms.tolist() == other.finish_ms.tolist()
    assert mine.decode_replica.tolist() == other.decode_replica.tolist()


def test_shares_stay_in_their_slice():
    system = shared([[0.5, 0.5], [0.5, 0.5]])
    apart = replace(
        system,
        replicas=tuple(
            replace(each, slice=index % 2) for index, each in enumerate(system.replicas)
        ),
    )
    assert apart.replica_shares() == (0.5, 0.5, 0.5, 0.5)
    result = served(apart, 40)
    assert (result.decode_replica - 2 == result.prefill_replica).all()


def test_others_take_over_while_a_replica_is_away():
    """Replica 1 of three is away from 100 to 200 ms: 0 and 2 then share as 1 to 3, and
    when it is back all have their own shares again."""
    system = shared([[0.2], [0.2], [0.6]])
    events = (
        OutsideEvent(kind=OutsideKind.DRAIN, replica=1, at_ms=99.9),
        OutsideEvent(kind=OutsideKind.RECOVER, replica=1, at_ms=199.9),
    )
    rows = [(float(i), 1, 2) for i in range(300)]
    options = SimulationOptions(events=events)
    result = simulate(system, tiny_requests(*rows), options=options)
    assert np.isfinite(result.finish_ms).all()
    before, away, after = np.split(result.prefill_replica, [100, 200])
    assert np.bincount(before).tolist() == [20, 20, 60]
    assert np.bincount(away).tolist() == [25, 0, 75]
    assert np.bincount(after).tolist() == pytest.approx([20, 20, 60], abs=1)


def test_the_replica_that_is_full_first_bounds_the_rate():
    """One request a step of 1 ms: 1000 requests/s each, 1250 with 80 % on one."""
    prefill = tiny_replica(Phase.PREFILL, STEPS, max_num_seqs=1, max_batch_tokens=1)
    system = shared([[0.8, 0.0], [0.0, 0.2]])
    system = replace(system, replicas=(prefill, prefill, *system.replicas[2:]))
    sample = tiny_requests(*[(float(i), 1, 2) for i in range(50)])
    even = replace(system, routing=Routing.SHORTEST_QUEUE)
    assert system_capacity_rps(even, sample) == pytest.approx(2000.0)
    assert system_capacity_rps(system, sample) == pytest.approx(1250.0)
