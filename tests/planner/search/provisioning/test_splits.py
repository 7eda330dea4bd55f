"""Hosts counted by what each phase takes of them, each with its own NICs alone."""

import itertools
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from clusters.units import GB
from planner.objective import Goal
from planner.search.provisioning import splits
from planner.search.provisioning.optimum import Target, allocate, relaxed_bound
from planner.search.provisioning.program import ProgramData
from planner.search.provisioning.splits import Split, is_narrow, splits_of
from planner.search.provisioning.worth import allocation_bound
from planner.simulator.system import Phase
from tests.planner.search.provisioning.enumeration import best_rate, flow_of
from tests.planner.search.provisioning.test_program import (
    SPLIT,
    column,
    data_of,
    host_class,
    numbers,
)

MOST = Target(goal=Goal.MAX_GOODPUT)


def apart(nic: float = 1.0, num_hosts: int = 2) -> ProgramData:
    """Each phase takes a whole host and serves 4/s; NICs carry `nic` requests/s."""
    columns = [column(Phase.PREFILL, 4.0, tp=4), column(Phase.DECODE, 4.0, tp=4)]
    return data_of([host_class(4, num_hosts, nic)], columns, kv_bytes=1.0)


def test_a_host_sends_what_its_own_nics_carry():
    # Of two hosts one prefills and one decodes: 1/s, not the 2/s of two hosts' NICs,
    # nor the 4/s of KV caches that stay in the class.
    assert allocate(apart(), MOST).value == pytest.approx(1.0)
    # Of four two send 1/s each.
    assert allocate(apart(num_hosts=4), MOST).value == pytest.approx(2.0)
    assert allocate(apart(nic=5.0), MOST).value == pytest.approx(4.0)


def test_both_phases_on_a_host_need_no_nics():
    # Half a host of each phase serves 1.5/s, on three hosts 4.5/s, over no NIC; with
    # hosts for one phase alone two of them would serve 1/s.
    data = apart(num_hosts=3)
    halves = tuple(column(phase, 1.5, tp=2) for phase in SPLIT)
    found = allocate(replace(data, columns=data.columns + halves), MOST)
    assert found.value == pytest.approx(4.5)
    assert numbers(found) == {"prefill tiny TP2 PP1": 3, "decode tiny TP2 PP1": 3}


def test_stages_on_two_hosts_send_their_part_from_each():
    # Hosts of three GPUs: each has a stage of the prefill replica (two GPUs) and one of
    # the decode replica, so all caches stay.
    columns = [column(Phase.PREFILL, 4.9, 2, 2), column(Phase.DECODE, 0.98, 1, 2)]
    data = data_of([host_class(3, 2, nic=0.1)], columns, kv_bytes=1.0)
    assert data.narrow == (0,)
    assert allocate(data, MOST).value == pytest.approx(0.98, rel=1e-5)


def test_only_hosts_that_outrun_their_nics_are_told_apart():
    # Four GPUs of 2/s each.
    columns = [column(Phase.PREFILL, 4.0, tp=2), column(Phase.DECODE, 1.0)]
    hosts = host_class(4, 2)
    assert is_narrow(hosts, columns, 7.9)
    assert not is_narrow(hosts, columns, 8.0)
    assert not is_narrow(hosts, columns, None)
    assert not is_narrow(hosts, [], 0.0)
    assert data_of([hosts], columns, kv_bytes=0.0).narrow == ()


def test_splits_are_what_groups_can_fill(monkeypatch):
    # Prefill by twos, decode by fours: 0, 2, 4, 6, 8 and 0, 4, 8 of eight GPUs.
    columns = [column(Phase.PREFILL, 1.0, tp=2), column(Phase.DECODE, 1.0, tp=4)]
    hosts = host_class(8, 2)
    pairs = {(s.num_prefill, s.num_decode) for s in splits_of(hosts, columns)}
    assert pairs == {(2, 0), (4, 0), (6, 0), (8, 0), (0, 4), (2, 4), (4, 4), (0, 8)}
    monkeypatch.setattr(splits, "MOST_GROUPS", 15)
    loose = [Split(num_prefill=None, num_decode=number) for number in (0, 4, 8)]
    assert list(splits_of(hosts, columns)) == loose
    monkeypatch.setattr(splits, "MOST_GROUPS", 5)
    assert splits_of(hosts, columns) == ()


def random_data(rng: np.random.Generator) -> ProgramData:
    """Two or three hosts of up to four GPUs with slow NICs, up to six columns."""
    num_hosts = int(rng.integers(2, 4))
    num_gpus = int(rng.integers(2, 5 if num_hosts == 2 else 4))
    classes = [host_class(num_gpus, num_hosts, nic=float(rng.uniform(0.1, 3.0)))]
    columns = []
    for phase in SPLIT:
        for _ in range(int(rng.integers(1, 4))):
            tp, pp = int(rng.integers(1, num_gpus + 1)), int(rng.integers(1, 4))
            rate = float(rng.uniform(0.5, 3.0)) * (tp * pp) ** 0.9
            columns.append(column(phase, rate, tp, pp))
    return data_of(classes, columns, kv_bytes=1.0)


def enumerated(data: ProgramData) -> float:
    """The most that any numbers of replicas serve, wherever they are."""
    (hosts,) = data.classes
    most = hosts.num_gpus * hosts.num_hosts
    ranges = (range(most // each.num_gpus + 1) for each in data.columns)
    return max(
        best_rate(data, counts) or 0.0
        for counts in itertools.product(*ranges)
        if sum(c.num_gpus * n for c, n in zip(data.columns, counts, strict=True))
        <= most
    )


def value_of(data: ProgramData) -> float:
    found = allocate(data, MOST)
    return 0.0 if found is None else found.value


@pytest.mark.parametrize("seed", range(30))
def test_no_placement_of_replicas_is_better(seed, monkeypatch):
    data = random_data(np.random.default_rng(seed))
    best, found = enumerated(data), value_of(data)
    assert found == pytest.approx(best, rel=1e-5)
    # What tells less apart promises no less.
    monkeypatch.setattr(splits, "MOST_GROUPS", 5 * len(data.columns))
    loose = value_of(data)
    monkeypatch.setattr(splits, "MOST_GROUPS", 0)
    added_up = value_of(data)
    assert best <= loose * (1 + 1e-5) <= added_up * (1 + 2e-5)
    if data.narrow and best > 0:
        assert relaxed_bound(data, MOST).value >= best * (1 - 1e-6)


def test_hosts_filled_unlike_may_share_their_nics():
    # Two prefill GPUs of a split are one group of 1.12/s, or two of 1.92/s each; their
    # hosts' NICs (1.45/s) are added up. It stays a bound, 2.2 % above what can be.
    columns = [
        column(Phase.PREFILL, 1.1177848, tp=2),
        column(Phase.PREFILL, 5.7532419, pp=3),
        column(Phase.DECODE, 4.4823095, pp=2),
    ]
    data = data_of([host_class(3, 3, nic=1.4451162)], columns, kv_bytes=1.0)
    assert enumerated(data) < value_of(data) <= 1.03 * enumerated(data)


def test_the_flow_over_hosts_is_the_maximum_flow():
    rng = np.random.default_rng(0)
    for _ in range(20):
        hosts = [tuple(rng.uniform(0.0, 4.0, size=3)) for _ in range(3)]
        graph = nx.DiGraph()
        for place, (made, taken, nic) in enumerate(hosts):
            graph.add_edge("source", f"from{place}", capacity=made)
            graph.add_edge(f"to{place}", "sink", capacity=taken)
            graph.add_edge(f"from{place}", f"to{place}")
            graph.add_edge(f"from{place}", "leaf", capacity=nic)
            graph.add_edge("leaf", f"to{place}", capacity=nic)
        flow = nx.maximum_flow_value(graph, "source", "sink")
        pairs = [flow_of(*host) for host in hosts]
        assert min(map(sum, zip(*pairs, strict=True))) == pytest.approx(flow)


def test_faster_nics_are_worth_what_they_let_through():
    # One host sends 1/s to the other; with one more GB/s each, 1e9 more (of a byte).
    data = apart()
    found = allocation_bound(
        MOST.goal, data, allocate(data, MOST), relaxed_bound(data, MOST)
    )
    gains = {each.limit: each.gain for each in found.worth}
    assert gains["GB/s of the NICs of every node of 4 tiny"] == pytest.approx(GB)
    # Half a host more for each phase sends 1/2 more: 1/8 a GPU.
    assert gains["GPU tiny (in a node of 4)"] == pytest.approx(1.0 / 8.0)
    fast = apart(nic=5.0)
    told = allocation_bound(
        MOST.goal, fast, allocate(fast, MOST), relaxed_bound(fast, MOST)
    )
    assert [each.limit for each in told.worth] == ["GPU tiny (in a node of 4)"]
