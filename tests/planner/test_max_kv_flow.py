"""KV flow of deployments by hand: nodes of two GPUs behind one NIC of 2 GB/s each."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from models.memory import kv_bytes
from planner.kv_flow import Binding
from planner.max_kv_flow import kv_flow_of, solve_flow
from planner.objective import Goal
from planner.simulator.system import Phase, Routing
from planner.solve import solve
from tests.planner.tiny_problems import (
    QUICK,
    TINY_LIBRARY,
    context_of,
    planner_of,
    shape,
    tiny_cluster,
    tiny_problem,
)

PREFILL, DECODE = Phase.PREFILL, Phase.DECODE


def planner(num_nodes=2, gpus=2, **space):
    problem = tiny_problem(cluster=tiny_cluster(num_nodes, gpus), **space)
    engine = replace(problem.engine, kv_link_efficiency_frac=1.0)
    return planner_of(replace(problem, engine=engine))


def nic_rps(made):
    """Requests/s whose caches one NIC carries."""
    service = made.problem.service
    return 2e9 / kv_bytes(service.llm, service.workload.mean_input_tokens)


def deployed(made, phases, places):
    return made.deploy_at([shape(p) for p in phases], [((g,),) for g in places])


def test_replicas_bind_where_links_carry_enough():
    made = planner(1)
    whole = deployed(made, (PREFILL, DECODE), (0, 1))
    found = solve_flow(made, whole, {"prefill-0": 3.0, "decode-0": 5.0})
    assert found.rate_rps == pytest.approx(3.0)
    assert found.cut_replicas == (Binding(what="prefill-0", gain=1.0),)
    assert found.cut_links == ()
    assert found.stranded_frac == pytest.approx(0.0, abs=1e-9)
    assert "prefill binds" in found.describe()


def test_a_shared_nic_strands_what_is_behind_it():
    # Prefill on node 0, both decodes on node 1: its NIC carries n requests/s for both.
    made = planner()
    whole = deployed(made, (PREFILL, DECODE, DECODE), (0, 2, 3))
    n = nic_rps(made)
    rates = {"prefill-0": 2.0 * n, "decode-0": n, "decode-1": 0.25 * n}
    found = solve_flow(made, whole, rates)
    assert found.rate_rps == pytest.approx(n)
    # 1.25 n could be decoded, so a fifth is stranded.
    assert found.stranded_frac == pytest.approx(0.2)
    assert found.describe().startswith("20% of decode capacity is stranded behind")
    # One GB/s more is half the NIC more, on whichever end the price is.
    assert sum(each.gain for each in found.cut_links) == pytest.approx(
        n / 2.0, rel=1e-4
    )
    assert sum(r.share_frac for r in found.routes) == pytest.approx(1.0, abs=1e-4)


def test_the_quick_ways_come_first():
    # Each node holds both phases: nothing has to cross the network.
    made = planner()
    whole = deployed(made, (PREFILL, PREFILL, DECODE, DECODE), (0, 2, 1, 3))
    rates = dict.fromkeys(("prefill-0", "prefill-1", "decode-0", "decode-1"), 1.0)
    found = solve_flow(made, whole, rates)
    used = {(r.source, r.target): r.share_frac for r in found.routes}
    assert used[("prefill-0", "decode-0")] == pytest.approx(0.5, abs=1e-3)
    assert used[("prefill-1", "decode-1")] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_the_value_is_the_maximum_flow_over_the_nics(seed):
    # One GPU each on four nodes: every transfer crosses two NICs and nothing else that
    # binds, so a graph with a vertex a NIC has the same maximum flow.
    rng = np.random.default_rng(seed)
    made = planner(4, 1)
    whole = deployed(made, (PREFILL, PREFILL, DECODE, DECODE), range(4))
    n = nic_rps(made)
    rates = {r.name: float(rng.uniform(0.2, 2.0) * n) for r in whole.replicas}
    graph = nx.DiGraph()
    for replica in whole.replicas:
        most = min(rates[replica.name], n)
        ends = ("source", replica.name)
        if replica.phase is DECODE:
            ends = (replica.name, "sink")
        graph.add_edge(*ends, capacity=most)
    for route in whole.routes:
        graph.add_edge(route.source, route.target)
    expected = nx.maximum_flow_value(graph, "source", "sink")
    found = solve_flow(made, whole, rates)
    assert found.rate_rps == pytest.approx(expected)
    # The prices prove it: those of all limits together are worth the whole flow.
    worth = sum(b.gain * rates[b.what] for b in found.cut_replicas)
    worth += sum(b.gain * 2.0 for b in found.cut_links)
    assert worth == pytest.approx(found.rate_rps, rel=1e-4)


def test_rates_are_those_of_the_pools_alone():
    context = context_of(tiny_problem(cluster=tiny_cluster(1, 2)))
    made = context.evaluator.planner
    whole = deployed(made, (PREFILL, DECODE), (0, 1))
    found = kv_flow_of(context.evaluator, whole)
    assert found.prefill_rps > 0
    assert found.rate_rps <= min(found.prefill_rps, found.decode_rps) * (1 + 1e-9)
    assert kv_flow_of(context.evaluator, made.deploy([shape(Phase.AGGREGATED)])) is None


def test_a_disaggregated_plan_says_its_flow():
    problem = tiny_problem(cluster=tiny_cluster(1, 2), goal=Goal.MAX_GOODPUT)
    best = solve(problem, TINY_LIBRARY, method="distserve-high", effort=QUICK).best
    assert best.kv_flow.rate_rps >= best.goodput.rate_rps * 0.8


def test_a_flow_without_rates_is_none():
    made = planner(1)
    whole = deployed(made, (PREFILL, DECODE), (0, 1))
    assert solve_flow(made, whole, {"prefill-0": 0.0, "decode-0": 5.0}) is None


@pytest.mark.parametrize("efficiency_frac", [1.0, 0.5])
def test_a_single_route_is_stranded_behind_its_link(efficiency_frac):
    made = planner()
    engine = replace(made.problem.engine, kv_link_efficiency_frac=efficiency_frac)
    made = planner_of(replace(made.problem, engine=engine))
    whole = deployed(made, (PREFILL, DECODE), (0, 2))
    n = nic_rps(made) * efficiency_frac
    found = solve_flow(made, whole, {"prefill-0": 2.0 * n, "decode-0": 3.0 * n})
    assert found.rate_rps == pytest.approx(n)
    assert found.describe().startswith("50% of prefill capacity is stranded behind")
    # 1 GB/s more of a NIC that has 2.
    assert sum(each.gain for each in found.cut_links) == pytest.approx(n / 2.0)


def test_routes_within_a_phase_serve_nobody():
    """Replicas that may be lent send to others of their phase too."""
    made = planner(1, 4)
    engine = replace(made.problem.engine, routing=Routing.SPLITWISE)
    made = planner_of(replace(made.problem, engine=engine))
    whole = deployed(made, (PREFILL, PREFILL, DECODE), (0, 1, 2))
    rates = {"prefill-0": 3.0, "prefill-1": 3.0, "decode-0": 2.0}
    found = solve_flow(made, whole, rates)
    assert found.rate_rps == pytest.approx(2.0)
    assert {route.target for route in found.routes} == {"decode-0"}
