"""Serving: step tables, KV sizes and KV routes of a deployment, by hand."""

from dataclasses import replace

import pytest

from clusters.cluster import Cluster
from clusters.fields import InputError
from planner.check import check_deployment
from planner.kv_paths import KvPaths, edge_loads
from planner.problem import EngineSettings
from planner.serving import deciding_edges
from planner.simulator.control import RouterSettings
from planner.simulator.prefix_settings import PrefixCache
from planner.simulator.system import Phase, Routing
from planner.simulator.transfer_settings import KvTransfer, TransferMode
from tests.models.conftest import TINY
from tests.planner.tiny_problems import planner_of, shape, tiny_cluster, tiny_problem

PAIR = (((0,),), ((1,),))
ACROSS = (((0,),), ((4,),))


def one_pair(placed, *, cluster=None, **engine):
    problem = tiny_problem(cluster=cluster or tiny_cluster(2))
    settings = replace(problem.engine, **engine)
    planner = planner_of(replace(problem, engine=settings))
    shapes = [shape(Phase.PREFILL), shape(Phase.DECODE)]
    return planner.system(planner.deploy_at(shapes, placed))


def test_kv_bytes_of_a_token_are_those_of_the_model():
    # 2 layers x 2 KV heads x 2 wide x (K and V) x 2 bytes.
    assert one_pair(PAIR).kv_bytes_per_token == 32.0


def test_a_layer_with_a_window_sends_no_more_than_the_window():
    windowed = replace(TINY, name="tiny_windowed", windows=(4, None))
    problem = tiny_problem()
    service = replace(problem.service, llm=windowed)
    planner = planner_of(replace(problem, services=(service,)))
    system = planner.system(planner.deploy([shape(Phase.AGGREGATED)]))
    # Prompts of 100 tokens: 16 bytes a layer, 4 tokens in one and 100 in the other.
    assert system.kv_bytes_per_token == pytest.approx(16 * (4 + 100) / 100)


def test_pools_that_lend_have_routes_within_each_phase():
    """Two prefill and two decode replicas: 4 pairs across, 2 within each phase."""
    problem = tiny_problem()
    router = RouterSettings(max_pending_tokens=17)
    engine = replace(problem.engine, routing=Routing.SPLITWISE, router=router)
    problem = replace(problem, engine=engine)
    planner = planner_of(problem)
    shapes = [shape(phase) for phase in (Phase.PREFILL, Phase.DECODE) for _ in "ab"]
    deployment = planner.deploy(shapes)
    assert deployment is not None
    check_deployment(problem, deployment)
    system = planner.system(deployment)
    assert system.routing is Routing.SPLITWISE
    assert system.router.max_pending_tokens == 17
    pairs = {(route.source, route.target) for route in system.routes}
    across = {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert pairs == across | {(0, 1), (1, 0), (2, 3), (3, 2)}
    lacking = replace(deployment, routes=deployment.routes[:-1])
    with pytest.raises(InputError, match="a KV route a pair"):
        check_deployment(problem, lacking)


def test_a_route_between_nodes_runs_at_the_rate_of_the_nic():
    (route,) = one_pair(ACROSS, kv_link_efficiency_frac=0.5, kv_setup_ms=3.0).routes
    # 2 GB/s at one half: 1e9 bytes take 1000 ms.
    assert route.ms_per_byte * 1e9 == pytest.approx(1000.0)
    # The links' own latency and the set-up.
    assert route.latency_ms > 3.0


def test_a_route_inside_a_node_runs_at_the_rate_of_nvlink():
    (route,) = one_pair(PAIR, kv_link_efficiency_frac=1.0).routes
    assert route.ms_per_byte * 1e9 == pytest.approx(10.0)  # 100 GB/s


def test_parallel_shards_of_a_replica_share_the_nic():
    problem = tiny_problem(cluster=tiny_cluster(2))
    planner = planner_of(problem)
    shapes = [shape(Phase.PREFILL, tp=2), shape(Phase.DECODE, tp=2)]
    deployment = planner.deploy_at(shapes, [((0, 1),), ((4, 5),)])
    # Two shards through one NIC: together 2 GB/s, not 4.
    assert deployment.routes[0].bytes_per_s == pytest.approx(2e9)


def test_edge_loads_are_shares_of_the_bytes():
    topology = tiny_cluster(2).topology
    # Two sources to one target: each source's own links carry one half.
    loads = edge_loads(topology, [0, 1], [4])
    into_target = topology.path(0, 4).edges[-1]
    assert loads[into_target] == pytest.approx(1.0)
    out_of_first = topology.path(0, 4).edges[0]
    assert loads[out_of_first] == pytest.approx(0.5)


def test_of_links_loaded_alike_only_the_slowest_is_kept():
    cluster = tiny_cluster(2)
    topology = cluster.topology
    transfer = KvPaths.of(cluster).transfer((0,), (4,))
    per_byte_s = {e: 1.0 / topology.edges[e].bytes_per_s for e in transfer.edges}
    kept = deciding_edges(per_byte_s, [transfer])
    assert len(kept) == 1
    assert per_byte_s[kept.pop()] == max(per_byte_s.values())


def test_two_routes_through_one_nic_name_the_same_link():
    planner = planner_of(tiny_problem(cluster=tiny_cluster(2)))
    shapes = [shape(Phase.PREFILL)] * 2 + [shape(Phase.DECODE)]
    deployment = planner.deploy_at(shapes, [((0,),), ((1,),), ((4,),)])
    first, second = (
        {share.edge for share in route.edges}
        for route in planner.system(deployment).routes
    )
    assert first & second


def test_routes_join_only_replicas_of_a_slice():
    planner = planner_of(tiny_problem())
    shapes = [shape(Phase.PREFILL)] * 2 + [shape(Phase.DECODE)] * 2
    placed = [((0,),), ((1,),), ((2,),), ((3,),)]
    deployment = planner.deploy_at(shapes, placed, [0, 1, 0, 1])
    pairs = {(route.source, route.target) for route in deployment.routes}
    assert pairs == {("prefill-0", "decode-0"), ("prefill-1", "decode-1")}


def test_deploy_puts_prefill_first_whatever_the_order():
    planner = planner_of(tiny_problem())
    deployment = planner.deploy([shape(Phase.DECODE), shape(Phase.PREFILL)])
    assert [replica.name for replica in deployment.replicas] == [
        "prefill-0",
        "decode-0",
    ]


def test_deploy_answers_none_when_the_cluster_is_too_small():
    assert planner_of(tiny_problem()).deploy([shape(Phase.AGGREGATED, tp=8)]) is None


def test_what_no_way_joins_is_not_deployed():
    # Two nodes of two GPUs without a NIC.
    apart = tiny_cluster(2, 2, num_nics=0)
    planner = planner_of(tiny_problem(cluster=apart))
    pair = [shape(Phase.PREFILL, tp=2), shape(Phase.DECODE, tp=2)]
    pipeline = [shape(Phase.AGGREGATED, tp=2, pp=2)]
    assert planner.deploy(pair) is None
    assert planner.deploy(pipeline) is None
    placed = [((0, 1),), ((2, 3),)]
    assert planner.deploy_if_joined(pair, placed) is None
    # In slices of their own, or without a KV route, nothing has to be joined.
    both = [shape(Phase.AGGREGATED, tp=2)] * 2
    assert planner.deploy_if_joined(both, placed).gpu_indices == (0, 1, 2, 3)


def test_step_tables_come_from_the_library():
    planner = planner_of(tiny_problem())
    deployment = planner.deploy([shape(Phase.AGGREGATED, tp=2)])
    (stage,) = planner.system(deployment).replicas[0].stages
    assert stage.prefill_step_ms([100]) == pytest.approx(10.0)  # 20 ms over two GPUs


def test_engine_settings_reach_the_replicas():
    settings = EngineSettings()
    replica = one_pair(PAIR, limits=settings.limits).replicas[0]
    assert replica.limits == settings.limits


def test_a_prefix_cache_of_the_service_is_on_every_replica_that_prefills():
    cache = PrefixCache(capacity_bytes=3200.0)  # 100 tokens of 32 bytes
    problem = tiny_problem()
    service = replace(problem.service, prefix_cache=cache)
    planner = planner_of(replace(problem, services=(service,)))
    shapes = [shape(Phase.PREFILL), shape(Phase.DECODE)]
    system = planner.system(planner.deploy(shapes))
    assert [replica.prefix_cache for replica in system.replicas] == [cache, None]
    assert cache.tokens(system.kv_bytes_per_token) == 100


def test_a_change_of_phase_brings_routes_the_other_way():
    problem = tiny_problem(cluster=tiny_cluster(2))
    planner = planner_of(problem)
    shapes = [shape(Phase.PREFILL), shape(Phase.DECODE), shape(Phase.DECODE)]
    deployment = planner.deploy_at(shapes, [((0,),), ((1,),), ((4,),)])
    system = planner.system(deployment, switching=frozenset({1}))
    assert [(r.source, r.target) for r in system.routes] == [(0, 1), (0, 2)]
    # Replica 1 may prefill for 2; between 0 and 1 nothing changes.
    (route,) = system.switch_routes
    assert (route.source, route.target) == (1, 2)
    assert route.ms_per_byte == system.routes[1].ms_per_byte  # the NIC, too
    assert planner.system(deployment).switch_routes == ()


def test_the_engine_says_how_kv_caches_are_sent():
    transfer = KvTransfer(mode=TransferMode.BY_SIZE, block_ms=0.25)
    system = one_pair(ACROSS, kv_transfer=transfer)
    assert system.kv_transfer == transfer
    assert system.num_layers == TINY.num_layers


def test_the_order_in_which_replicas_are_named_does_not_matter():
    planner = planner_of(tiny_problem(cluster=tiny_cluster(2)))
    shapes = [
        shape(Phase.DECODE, tp=2),
        shape(Phase.PREFILL),
        shape(Phase.DECODE),
        shape(Phase.PREFILL, pp=2),
        shape(Phase.DECODE, tp=2),
    ]
    first = planner.deploy(shapes)
    assert planner.deploy(shapes[::-1]) == first
    assert planner.deploy(shapes[2:] + shapes[:2]) == first
    placed = [replica.stage_gpus for replica in first.replicas]
    given = [replica.shape for replica in first.replicas]
    slices = [replica.slice for replica in first.replicas]
    turned = planner.deploy_at(given[::-1], placed[::-1], slices[::-1])
    assert turned == first


def test_of_unlike_hosts_the_one_that_holds_both_phases():
    # A node of one GPU and one of four: filling the small one first would send every
    # KV cache over its NIC.
    small, large = (tiny_cluster(1, n).nodes[0] for n in (1, 4))
    nodes = (replace(small, name="small"), replace(large, name="large"))
    cluster = Cluster(name="unlike", nodes=nodes)
    planner = planner_of(tiny_problem(cluster=cluster))
    pair = [shape(Phase.PREFILL), shape(Phase.DECODE)]
    (route,) = planner.deploy(pair).routes
    assert route.kind == "nvlink"
    # Five GPUs take both; decode replicas alone have no caches to send.
    assert planner.deploy([*pair, shape(Phase.DECODE, tp=2)]).num_gpus == 4
    assert planner.deploy([*pair, *[shape(Phase.DECODE)] * 3]).num_gpus == 5
