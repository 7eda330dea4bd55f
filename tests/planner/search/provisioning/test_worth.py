"""What would help most, by hand."""

from dataclasses import replace

import pytest

from clusters.links import Edge
from planner.objective import Goal
from planner.plan import AllocationBound
from planner.search.provisioning.network import KvNetwork
from planner.search.provisioning.optimum import Target, allocate, relaxed_bound
from planner.search.provisioning.program import ProgramData
from planner.search.provisioning.worth import allocation_bound
from planner.simulator.system import Phase
from tests.planner.search.provisioning.test_program import column, host_class

NOWHERE = KvNetwork(
    vertices=("leaves",), links=(), kv_bytes_per_request=0.0, efficiency_frac=1.0
)


def bound_of(data: ProgramData, goal: Goal, rate_rps=None) -> AllocationBound:
    target = Target(goal=goal, rate_rps=rate_rps)
    relaxed, whole = relaxed_bound(data, target), allocate(data, target)
    return allocation_bound(goal, data, whole, relaxed)


def test_one_more_gpu_is_worth_its_share_of_both_phases():
    # A GPU prefills 2 or decodes 1 requests/s: a request takes 1/2 + 1 GPU seconds, so
    # 3 GPUs serve 2 requests/s, and one more 2/3.
    columns = (column(Phase.PREFILL, 2.0), column(Phase.DECODE, 1.0))
    hosts = (host_class(num_gpus=3),)
    data = ProgramData(classes=hosts, columns=columns, network=NOWHERE)
    found = bound_of(data, Goal.MAX_GOODPUT)
    assert found.value == pytest.approx(2.0)
    assert found.whole_gap_frac == pytest.approx(0.0)
    (gpu,) = found.worth
    assert gpu.limit == "GPU tiny (in a node of 3)"
    assert gpu.gain == pytest.approx(2.0 / 3.0)


def test_whole_replicas_lose_what_does_not_go_in():
    # Two of the four GPUs for each phase at best: min(2*2, 2*1) = 2 with 2 and 2, or
    # min(2, 3) = 2 with 1 and 3. In parts 4 * 2/3.
    columns = (column(Phase.PREFILL, 2.0), column(Phase.DECODE, 1.0))
    data = ProgramData(classes=(host_class(),), columns=columns, network=NOWHERE)
    found = bound_of(data, Goal.MAX_GOODPUT)
    assert found.whole_value == pytest.approx(2.0)
    assert found.value == pytest.approx(2.0)
    assert found.relaxed_value == pytest.approx(8.0 / 3.0)
    assert found.whole_gap_frac == pytest.approx(0.25)


def test_the_bottleneck_link_is_worth_requests_and_the_other_nothing():
    # Class 0 (leaf a) only prefills, class 1 (leaf b) only decodes: 10 bytes a request
    # over a link of 30 bytes/s from a to b limit the rate to 3; the way back is idle.
    hosts = (
        replace(host_class(), leaf="a"),
        replace(host_class(name="other"), leaf="b"),
    )
    columns = (
        column(Phase.PREFILL, 5.0, host_class=0),
        column(Phase.DECODE, 5.0, host_class=1),
    )
    there = Edge(source="leaf:a", target="leaf:b", bytes_per_s=30.0, latency_ms=0.0)
    back = Edge(source="leaf:b", target="leaf:a", bytes_per_s=30.0, latency_ms=0.0)
    network = KvNetwork(
        vertices=("leaf:a", "leaf:b"),
        links=(there, back),
        kv_bytes_per_request=10.0,
        efficiency_frac=1.0,
    )
    data = ProgramData(classes=hosts, columns=columns, network=network)
    found = bound_of(data, Goal.MAX_GOODPUT)
    gains = {each.limit: each.gain for each in found.worth}
    assert found.value == pytest.approx(3.0)
    assert gains["GB/s from a to b"] == pytest.approx(1e9 / 10.0)
    assert gains["GB/s from b to a"] == 0.0
    assert gains["GPU tiny (in a node of 4)"] == 0.0
    assert found.worth[0].limit == "GB/s from a to b"


def test_one_more_cheap_gpu_saves_money():
    # One request/s takes a GPU, for 1 $/h or 3: the second of two has to be a dear one.
    hosts = (
        host_class(num_gpus=1, price=1.0),
        host_class(num_gpus=2, price=3.0, name="dear"),
    )
    columns = tuple(column(Phase.AGGREGATED, 1.0, host_class=k) for k in (0, 1))
    data = ProgramData(classes=hosts, columns=columns, network=NOWHERE)
    found = bound_of(data, Goal.MIN_COST, rate_rps=2.0)
    assert found.value == pytest.approx(4.0)
    gains = {each.limit: each.gain for each in found.worth}
    assert gains["GPU tiny (in a node of 1)"] == pytest.approx(2.0)
    assert gains["GPU dear (in a node of 2)"] == 0.0
