"""DistServe, low affinity: KV caches never leave a node."""

from planner.objective import Goal
from planner.search.distserve_low import DistServeLow
from tests.planner.search.tiny_searches import search
from tests.planner.tiny_problems import context_of, tiny_cluster, tiny_problem


def test_no_kv_cache_crosses_the_network():
    problem = tiny_problem(goal=Goal.MAX_GOODPUT, cluster=tiny_cluster(2, 2))
    for found in search("distserve-low", context_of(problem)).candidates:
        assert {route.kind for route in found.deployment.routes} == {"nvlink"}


def test_it_beats_caches_that_go_anywhere_where_the_network_is_slow():
    # A KV cache of 3200 bytes takes 320 ms at 1e4 bytes/s.
    slow = tiny_cluster(2, 2, nic_bytes_per_s=1e4)
    problem = tiny_problem(goal=Goal.MAX_GOODPUT, cluster=slow)
    context = context_of(problem)
    low = search("distserve-low", context).candidates[0]
    # The other keeps them on hosts too once it has looked at places.
    high = search("distserve-high", context).candidates
    assert low.rank(problem) == high[0].rank(problem)
    anywhere = [c for c in high if {r.slice for r in c.deployment.replicas} == {0}]
    assert low.rank(problem) < anywhere[0].rank(problem)


def test_single_gpus_cannot_hold_both_phases():
    why_not = DistServeLow().supports(tiny_problem(cluster=tiny_cluster(4, 1)))
    assert why_not == "no node has two GPUs for a prefill and a decode segment"


def test_units_are_repeated_until_the_target_is_served():
    problem = tiny_problem(
        goal=Goal.MIN_GPUS, rate_rps=60.0, cluster=tiny_cluster(4, 2)
    )
    best = search("distserve-low", context_of(problem)).candidates[0]
    assert best.goodput.rate_rps >= 60.0
    assert best.deployment.num_gpus <= 8
