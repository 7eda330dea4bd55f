"""The method as a whole: small clusters, limits, edges, seeds."""

import pytest

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from planner.check import check_plan
from planner.goodput import Effort
from planner.objective import Goal
from planner.result import Status
from planner.search.hexgen2.method import FACTORS, HexGen2
from planner.search.registry import methods_of
from planner.slo import Slo
from planner.solve import solve
from planner.stop import MaxEvaluations, MaxRuntime
from tests.planner.search.hexgen2.hexgen2_parts import parts_of
from tests.planner.search.tiny_searches import check_outcome, search
from tests.planner.tiny_problems import (
    TINY_LIBRARY,
    context_of,
    mixed_cluster,
    tiny_cluster,
    tiny_problem,
)

QUICK = Effort(
    min_requests=60, max_requests=120, span_s=10.0, num_seeds=2, tolerance_frac=0.02
)


def planned(problem, **changes):
    settings = {"method": "hexgen2", "effort": QUICK, **changes}
    return solve(problem, TINY_LIBRARY, **settings)


@pytest.mark.parametrize("goal", Goal)
def test_plans_of_unlike_gpus_pass_the_check_and_stay_below_the_bound(goal):
    result = planned(tiny_problem(cluster=mixed_cluster(), goal=goal, rate_rps=15.0))
    assert result.status is Status.FEASIBLE
    check_plan(result.best)
    assert result.best.deployment.is_disaggregated
    assert result.bound is not None
    assert result.gap_frac >= 0
    if goal is Goal.MAX_GOODPUT:
        assert result.best.goodput.rate_rps <= result.bound


def test_auto_is_never_below_it():
    problem = tiny_problem(cluster=mixed_cluster(), goal=Goal.MAX_GOODPUT)
    alone, auto = (planned(problem, method=name) for name in ("hexgen2", "auto"))
    assert auto.best.goodput.rate_rps >= alone.best.goodput.rate_rps


def test_swaps_never_end_below_the_starts():
    problem = tiny_problem(cluster=mixed_cluster(), goal=Goal.MAX_GOODPUT)
    found = []
    for max_tried in (0, 50, 400):
        parts = parts_of(problem)
        method = HexGen2(max_tried=max_tried)
        found.append(
            method.explore(parts.context, [parts.judge], parts.moves, parts.strategies)
        )
    assert found[0].rank >= found[1].rank >= found[2].rank


@pytest.mark.parametrize("is_guided", [True, False])
def test_equal_seeds_find_the_same(is_guided):
    problem = tiny_problem(cluster=mixed_cluster(), goal=Goal.MAX_GOODPUT)
    outcomes = []
    for _ in range(2):
        context = context_of(problem, seed=5)
        outcomes.append(HexGen2(is_guided=is_guided).search(context))
        check_outcome(context, outcomes[-1])
    assert outcomes[0].candidates == outcomes[1].candidates
    assert outcomes[0].ledger == outcomes[1].ledger


def test_islands_are_planned_apart():
    nodes = tiny_cluster(2, 2, num_nics=0).nodes
    cluster = Cluster(name="apart", nodes=nodes, fabric=Fabric())
    problem = tiny_problem(cluster=cluster, goal=Goal.MAX_GOODPUT)
    best = search("hexgen2", context_of(problem)).candidates[0].deployment
    nodes_of = {
        replica.slice: {cluster.topology.gpu(g).node for g in replica.gpu_indices}
        for replica in best.replicas
    }
    assert nodes_of == {0: {0}, 1: {1}}


def test_single_gpus_that_nothing_joins_have_no_plan():
    nodes = tiny_cluster(2, 1, num_nics=0).nodes
    cluster = Cluster(name="apart", nodes=nodes, fabric=Fabric())
    result = planned(tiny_problem(cluster=cluster))
    assert result.status is Status.INFEASIBLE


def test_a_network_that_carries_next_to_nothing_is_not_crossed():
    cluster = tiny_cluster(2, 2, nic_bytes_per_s=1e-3)
    problem = tiny_problem(cluster=cluster, goal=Goal.MAX_GOODPUT)
    best = search("hexgen2", context_of(problem)).candidates[0]
    assert best.goodput.rate_rps > 0
    assert all(route.kind == "nvlink" for route in best.deployment.routes)


def test_one_gpu_and_large_clusters_are_declined_with_the_reason():
    one = tiny_problem(cluster=tiny_cluster(1, 1))
    assert HexGen2().supports(one) == "one GPU cannot hold a prefill and a decode group"
    many = tiny_problem(cluster=tiny_cluster(13, 8))
    assert "104 GPUs" in HexGen2().supports(many)
    assert HexGen2().supports(tiny_problem()) is None


def test_auto_leaves_gpus_of_one_type_to_the_others():
    (ours,) = (m for m in methods_of("auto") if m.name == "hexgen2")
    assert "one type" in ours.supports(tiny_problem())
    assert ours.supports(tiny_problem(cluster=mixed_cluster())) is None
    assert methods_of("hexgen2")[0].supports(tiny_problem()) is None


def test_without_prices_goodput_is_planned():
    cluster = tiny_cluster(1, 4, usd_per_hour=None)
    best = planned(tiny_problem(cluster=cluster, goal=Goal.MAX_GOODPUT)).best
    assert best.usd_per_hour is None
    assert best.goodput.rate_rps > 0


def test_an_slo_out_of_reach_gives_a_best_effort():
    result = planned(tiny_problem(slo=Slo(ttft_ms=1.0, tpot_ms=16.0)))
    assert result.status is Status.NOT_FOUND
    assert result.best.deployment.is_disaggregated


@pytest.mark.parametrize("stop", [MaxEvaluations(num=3), MaxRuntime(max_s=0.001)])
def test_a_stopped_search_still_adds_up(stop):
    context = context_of(tiny_problem(cluster=mixed_cluster()), stop=stop)
    outcome = HexGen2().search(context)
    check_outcome(context, outcome)
    assert outcome.is_stopped


def test_prefill_is_taken_as_it_is_alone_worse_and_better():
    assert FACTORS[0] == 1.0
    assert min(FACTORS) < 1.0 < max(FACTORS)


def test_a_type_without_a_usable_shape_is_left_idle():
    problem = tiny_problem(cluster=mixed_cluster(), gpu_types=("other",))
    best = search("hexgen2", context_of(problem)).candidates[0]
    assert {replica.gpu_type for replica in best.deployment.replicas} == {"other"}
