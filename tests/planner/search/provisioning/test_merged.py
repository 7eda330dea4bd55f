"""The programme without leaves: as good where it can be dealt, never worse."""

from dataclasses import replace

import numpy as np
import pytest

from clusters.links import Edge
from planner.objective import Goal
from planner.search.provisioning.merged import Merged
from planner.search.provisioning.network import KvNetwork
from planner.search.provisioning.optimum import Target, allocate
from planner.simulator.system import Phase
from tests.planner.search.provisioning.test_program import (
    SPLIT,
    column,
    data_of,
    host_class,
)

GOODPUT = Target(goal=Goal.MAX_GOODPUT)


def under_leaves(num_hosts, columns, kv_bytes=0.0, link_rps=1e9):
    """The same columns on hosts of four GPUs under each of some leaves."""
    classes = [
        replace(host_class(4, number), leaf=f"leaf{index}")
        for index, number in enumerate(num_hosts)
    ]
    data = data_of(
        classes,
        [replace(c, host_class=k) for k in range(len(classes)) for c in columns],
    )
    leaves = [f"leaf:leaf{index}" for index in range(len(classes))]
    links = [
        edge
        for leaf in leaves
        for edge in (link(leaf, "spine", link_rps), link("spine", leaf, link_rps))
    ]
    network = KvNetwork(
        vertices=(*leaves, "spine"),
        links=tuple(links),
        kv_bytes_per_request=kv_bytes,
        efficiency_frac=1.0,
    )
    return replace(data, network=network)


def link(source, target, rate_rps, kv_bytes=10.0):
    return Edge(
        source=source,
        target=target,
        bytes_per_s=rate_rps * kv_bytes,
        latency_ms=0.0,
    )


def test_hosts_of_a_kind_are_one_class_with_the_best_rate():
    columns = [column(Phase.PREFILL, 2.0), column(Phase.DECODE, 3.0, tp=2)]
    data = under_leaves([1, 2], columns)
    slower = replace(data.columns[0], rate_rps=1.0)
    other = replace(host_class(2, 1), leaf="leaf1")
    data = replace(
        data,
        classes=(*data.classes, other),
        columns=(slower, *data.columns[1:], replace(columns[0], host_class=2)),
    )
    merged = Merged.of(data)
    assert merged.is_smaller
    assert [hosts.num_hosts for hosts in merged.data.classes] == [3, 1]
    assert [c.rate_rps for c in merged.data.columns] == [2.0, 3.0, 2.0]
    assert merged.members == ((0, 2), (1, 3), (4,))
    assert not Merged.of(replace(data, classes=data.classes[2:], columns=())).is_smaller


def test_a_pipeline_stays_under_one_leaf():
    # Two groups of four GPUs: a host each.
    columns = [column(Phase.AGGREGATED, 8.0, tp=4, pp=2)]
    merged = Merged.of(under_leaves([1, 2], columns))
    whole = allocate(merged.data, GOODPUT)
    assert whole.value == pytest.approx(8.0)
    found = merged.dealt(whole, GOODPUT)
    assert [(c.host_class, n) for c, n in found.counts] == [(1, 1)]
    # Two hosts would do, but not under two leaves.
    apart = under_leaves([1, 1], columns)
    merged = Merged.of(apart)
    whole = allocate(merged.data, GOODPUT)
    assert whole.value == pytest.approx(8.0)
    assert merged.columns_of(whole) == list(apart.columns)
    assert merged.dealt(whole, GOODPUT) is None
    assert allocate(apart, GOODPUT) is None


def test_links_between_leaves_decide_where_replicas_are():
    # Of six GPUs two prefill 4/s each and four decode 2/s each: 8/s. Links for 1/s
    # leave no other way than one prefill GPU under each leaf.
    columns = [column(Phase.PREFILL, 4.0), column(Phase.DECODE, 2.0)]
    data = under_leaves([1, 1], columns, kv_bytes=10.0, link_rps=1.0)
    data = replace(data, max_gpus=6)
    merged = Merged.of(data)
    whole = allocate(merged.data, GOODPUT)
    found = merged.dealt(whole, GOODPUT)
    assert found.value == pytest.approx(whole.value) == pytest.approx(8.0)
    prefills = data.columns[0], data.columns[2]
    prefill = {c.host_class: n for c, n in found.counts if c in prefills}
    assert prefill == {0: 1, 1: 1}


@pytest.mark.parametrize("seed", range(16))
def test_what_can_be_dealt_is_as_good_as_anything(seed):
    rng = np.random.default_rng(seed)
    shapes = {
        (phase, int(rng.integers(1, 5)), int(rng.integers(1, 3)))
        for phase in SPLIT
        for _ in range(2)
    }
    columns = [
        column(phase, float(rng.uniform(0.5, 3.0)) * (tp * pp) ** 0.9, tp, pp)
        for phase, tp, pp in sorted(shapes)
    ]
    data = under_leaves(
        [int(n) for n in rng.integers(1, 4, size=3)],
        columns,
        kv_bytes=10.0,
        link_rps=float(rng.choice([0.5, 2.0, 1e9])),
    )
    goal = (Goal.MAX_GOODPUT, Goal.MIN_GPUS)[seed % 2]
    rate_rps = 2.0 if goal.needs_rate else None
    target = Target(goal=goal, rate_rps=rate_rps)
    expected = allocate(data, target)
    merged = Merged.of(data)
    whole = allocate(merged.data, target)
    if expected is None:
        assert whole is None or merged.dealt(whole, target) is None
        return
    sign = 1.0 if goal.is_upper else -1.0
    assert sign * whole.bound >= sign * expected.value - 1e-6
    found = merged.dealt(whole, target)
    if found is not None:
        assert found.value == pytest.approx(expected.value, rel=1e-5)
        assert found.rate_rps >= (rate_rps or 0.0) - 1e-6
