"""KV flow: rates of replicas, shared NICs, and networks that nothing crosses."""

import networkx as nx
import pytest
from networkx.algorithms.flow import preflow_push

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from models.memory import kv_bytes
from planner.search.hexgen2.kv_flow import KvFlows
from planner.slo import Slo
from tests.planner.search.hexgen2.hexgen2_parts import DECODE, PREFILL, parts_of
from tests.planner.tiny_problems import tiny_cluster, tiny_problem

PATIENT = Slo(ttft_ms=60.0, tpot_ms=60_000.0)
"""However long a KV cache takes, it is in time."""


def one_gpu_each(problem, prefill, decode):
    """Replicas of one GPU each on the given GPUs, with their flow."""
    strategies = parts_of(problem).strategies
    prefills = [strategies.best((gpu,), PREFILL) for gpu in prefill]
    decodes = [strategies.best((gpu,), DECODE) for gpu in decode]
    return prefills, decodes, KvFlows(problem)


def rate(strategies):
    return sum(each.rated.rate_rps for each in strategies)


def test_within_a_node_the_rates_of_the_phases_bind():
    prefills, decodes, flows = one_gpu_each(tiny_problem(), (0,), (1, 2, 3))
    found = flows.flow(prefills, decodes)
    assert found.rate_rps == pytest.approx(min(rate(prefills), rate(decodes)))
    # 20 ms a prompt and 10 steps of >= 10 ms an answer: three decode replicas are more.
    assert rate(prefills) < rate(decodes)
    assert (found.cut_prefills, found.cut_decodes, found.cut_links) == ((0,), (), ())
    assert found.prefilled_rps == pytest.approx((found.rate_rps,))
    assert sum(found.decoded_rps) == pytest.approx(found.rate_rps)


def test_a_slow_nic_is_shared_and_in_the_cut():
    # Caches of 100 tokens at 2,000 bytes/s of NIC, 80 % reached.
    cluster = tiny_cluster(2, 2, nic_bytes_per_s=2000.0)
    problem = tiny_problem(cluster=cluster, slo=PATIENT)
    size = kv_bytes(problem.service.llm, 100.0)
    prefills, decodes, flows = one_gpu_each(problem, (0, 1), (2, 3))
    found = flows.flow(prefills, decodes)
    assert found.rate_rps == pytest.approx(0.8 * 2000.0 / size)
    assert found.cut_links == ("out of node 0",)


def test_a_nic_that_takes_longer_than_the_slo_has_time_for_carries_none():
    # 80 % of 2,000 bytes/s: 2 s for the cache of a prompt, but 10 tokens of 16 ms
    # after the first leave 160 ms.
    problem = tiny_problem(cluster=tiny_cluster(2, 2, nic_bytes_per_s=2000.0))
    assert kv_bytes(problem.service.llm, 100.0) == 3200.0
    prefills, decodes, flows = one_gpu_each(problem, (0, 1), (2, 3))
    assert flows.flow(prefills, decodes).rate_rps == 0.0
    prefills, decodes, flows = one_gpu_each(problem, (0,), (1, 2))
    assert flows.flow(prefills, decodes).decoded_rps[1] == 0.0


def test_a_decode_replica_beside_the_prefill_needs_no_nic():
    problem = tiny_problem(cluster=tiny_cluster(2, 2, nic_bytes_per_s=1e-3))
    prefills, decodes, flows = one_gpu_each(problem, (0, 2), (1, 3))
    found = flows.flow(prefills, decodes)
    assert found.rate_rps == pytest.approx(min(rate(prefills), rate(decodes)), 1e-3)


def test_nothing_flows_between_nodes_without_nics():
    nodes = tiny_cluster(2, 2, num_nics=0).nodes
    cluster = Cluster(name="apart", nodes=nodes, fabric=Fabric())
    problem = tiny_problem(cluster=cluster)
    prefills, decodes, flows = one_gpu_each(problem, (0, 1), (2, 3))
    assert flows.flow(prefills, decodes).rate_rps == 0.0
    prefills, decodes, flows = one_gpu_each(problem, (0, 1, 2), (3,))
    found = flows.flow(prefills, decodes)
    assert 0 < found.rate_rps <= prefills[2].rated.rate_rps
    assert found.prefilled_rps[:2] == (0.0, 0.0)


@pytest.mark.parametrize("nic", [1e3, 1e4, 1e5])
def test_the_flow_is_that_of_preflow_push(nic):
    cluster = tiny_cluster(3, 2, nic_bytes_per_s=nic)
    problem = tiny_problem(cluster=cluster, slo=PATIENT)
    prefills, decodes, flows = one_gpu_each(problem, (0, 1, 2), (3, 4, 5))
    graph = nx.DiGraph()
    for arc in flows.arcs(prefills, decodes):
        limit = {} if arc.capacity == float("inf") else {"capacity": arc.capacity}
        graph.add_edge(arc.source, arc.target, **limit)
    expected = preflow_push(graph, 0, 1).graph["flow_value"]
    assert flows.flow(prefills, decodes).rate_rps == pytest.approx(expected)
