"""No replica serves more than KV caches get into or out of its hosts."""

import pytest

from planner.search.provisioning.network import KvNetwork
from planner.search.provisioning.reach import within_reach
from planner.simulator.system import Phase
from tests.planner.search.provisioning.test_program import column, host_class


def network(kv_bytes: float) -> KvNetwork:
    return KvNetwork(
        vertices=("leaves",),
        links=(),
        kv_bytes_per_request=kv_bytes,
        efficiency_frac=1.0,
    )


def test_nics_and_the_other_gpus_of_the_host_by_hand():
    # Hosts of four GPUs with NICs for 2 requests/s. A decode replica on all four takes
    # what they bring; one on two also what the best prefill does on the two others.
    hosts = (host_class(num_gpus=4, num_hosts=2, nic=20.0),)
    columns = (
        column(Phase.PREFILL, 1.5),
        column(Phase.DECODE, 9.0, tp=4),
        column(Phase.DECODE, 9.0, tp=2),
        column(Phase.DECODE, 4.0, tp=2),
        column(Phase.DECODE, 9.0, tp=4, pp=2),
    )
    found = [c.rate_rps for c in within_reach(hosts, columns, network(10.0))]
    assert found == pytest.approx([1.5, 2.0, 2.0 + 2 * 1.5, 4.0, 4.0])


def test_without_caches_or_phases_nothing_is_in_the_way():
    hosts = (host_class(nic=1.0),)
    split = (column(Phase.PREFILL, 5.0), column(Phase.DECODE, 9.0, tp=4))
    assert within_reach(hosts, split, network(0.0)) == split
    whole = (column(Phase.AGGREGATED, 9.0, tp=4),)
    assert within_reach(hosts, whole, network(10.0)) == whole


def test_stages_that_could_be_on_one_host_may_be_on_two():
    # Hosts of two GPUs. Both stages on one host leave it no prefill, and its NICs bring
    # 0.3/s; on a host each they have two GPUs that prefill beside them.
    hosts = (host_class(num_gpus=2, num_hosts=2, nic=0.3),)
    columns = (column(Phase.PREFILL, 1.7), column(Phase.DECODE, 1.1, pp=2))
    found = within_reach(hosts, columns, network(1.0))
    assert [c.rate_rps for c in found] == pytest.approx([0.3 + 0.55, 1.1])
    alone = (host_class(num_gpus=2, num_hosts=1, nic=0.3),)
    found = within_reach(alone, columns, network(1.0))
    assert [c.rate_rps for c in found] == pytest.approx([0.3 + 0.55, 0.3])
