"""Clusters at the edge of what can be planned: still an answer, or one clear line."""

import pytest

from clusters.cluster import Cluster
from clusters.fields import InputError
from clusters.node import Node
from models.latency.library import LatencyLibrary
from planner.goodput import Effort
from planner.objective import Goal
from planner.result import Status
from planner.slo import Slo
from planner.solve import solve
from tests.planner.tiny_problems import (
    TINY_LIBRARY,
    TinySource,
    mixed_cluster,
    tiny_cluster,
    tiny_problem,
)

QUICK = Effort(
    min_requests=60, max_requests=120, span_s=10.0, num_seeds=2, tolerance_frac=0.02
)


def quick(problem, method="provisioning", library=TINY_LIBRARY):
    return solve(problem, library, method=method, effort=QUICK)


def test_one_gpu_is_planned_aggregated():
    result = quick(tiny_problem(cluster=tiny_cluster(1, 1)))
    assert result.status is Status.FEASIBLE
    assert not result.best.deployment.is_disaggregated
    assert result.best.deployment.num_gpus == 1


@pytest.mark.parametrize("method", ["auto", "hexgen2", "exhaustive"])
def test_islands_are_planned_side_by_side(method):
    # Two nodes of two GPUs without a NIC: nothing crosses, both serve.
    nodes = tiny_cluster(2, 2, num_nics=0).nodes
    cluster = Cluster(name="apart", nodes=nodes)
    result = quick(tiny_problem(cluster=cluster, goal=Goal.MAX_GOODPUT), method)
    assert result.status.is_success
    deployment = result.best.deployment
    assert deployment.num_gpus == 4
    for route in deployment.routes:
        ends = [
            r for r in deployment.replicas if r.name in (route.source, route.target)
        ]
        gpus = [gpu for replica in ends for gpu in replica.gpu_indices]
        assert len({cluster.topology.gpu(gpu).node for gpu in gpus}) == 1


def test_without_prices_goodput_is_planned():
    cluster = tiny_cluster(1, 2, usd_per_hour=None)
    result = quick(tiny_problem(cluster=cluster, goal=Goal.MAX_GOODPUT))
    assert result.status is Status.FEASIBLE
    assert result.best.usd_per_hour is None
    assert result.allocation.value > 0


def test_a_type_without_latencies_is_left_out_and_counted():
    class OnlyTiny(TinySource):
        def why_not_pair(self, llm, gpu):
            return None if gpu.name == "tiny" else "not measured"

    library = LatencyLibrary(sources=(OnlyTiny(),))
    result = quick(tiny_problem(cluster=mixed_cluster()), library=library)
    assert {r.gpu_type for r in result.best.deployment.replicas} == {"tiny"}
    rejected = result.counts[0].rejected
    assert any(why.startswith("no latency") and n for why, n in rejected.items())


def test_an_slo_out_of_reach_gives_a_best_effort():
    # A prompt of 100 tokens takes 20 ms on one GPU and 5 ms on four: 1 ms never.
    result = quick(tiny_problem(slo=Slo(ttft_ms=1.0, tpot_ms=16.0)))
    assert result.status is Status.NOT_FOUND
    assert "at any rate" in result.reasons[0]
    assert result.best is not None
    assert result.best.evaluation.metric("ttft").p50_ms > 1.0


def test_parts_that_nothing_joins_are_refused_by_name():
    node = tiny_cluster(1, 2, num_nics=0).nodes[0]
    apart = Cluster(name="apart", nodes=(node, Node(name="other", type=node.type)))
    with pytest.raises(InputError, match="num_nics"):
        apart.validate()


def test_every_plan_has_a_bound_at_least_its_value():
    for goal in (Goal.MAX_GOODPUT, Goal.MAX_GOODPUT_PER_GPU):
        result = quick(tiny_problem(cluster=mixed_cluster(), goal=goal))
        assert result.bound >= result.best.goodput.rate_rps / (
            1 if goal is Goal.MAX_GOODPUT else result.best.deployment.num_gpus
        )
        found = result.allocation
        assert found.value >= found.whole_value * (1 - 1e-6)
        value = result.best.goodput.rate_rps
        if goal is Goal.MAX_GOODPUT_PER_GPU:
            value /= result.best.deployment.num_gpus
        assert found.value >= value
        assert found.gap_frac == pytest.approx(1.0 - value / found.value)


def test_large_clusters_are_planned_in_pools_and_cells(monkeypatch):
    monkeypatch.setattr("planner.search.refine.LARGE_CLUSTER", 8)
    monkeypatch.setattr("planner.cells.MOST_REPLICAS", 4)
    # Chunked aggregated replicas would win, and they need no cells.
    space = {"is_batching_searched": False, "tp": (1,), "max_pp": 1}
    cluster = tiny_cluster(4)
    result = quick(tiny_problem(cluster=cluster, goal=Goal.MAX_GOODPUT, **space))
    assert result.status is Status.FEASIBLE
    deployment = result.best.deployment
    assert len({replica.slice for replica in deployment.replicas}) > 1
    assert len(result.best.evaluation.replicas) == len(deployment.replicas)
