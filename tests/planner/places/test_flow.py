"""Place flow: shares of the router on replicas and links, by hand."""

from dataclasses import replace

import pytest

from models.memory import kv_bytes
from planner.places.flow import PlaceFlows, in_time_frac, sample_of
from planner.simulator.system import Phase
from planner.simulator.transfer_settings import KvTransfer, TransferMode
from planner.slo import Slo
from tests.planner.places.place_parts import hosts_of
from tests.planner.tiny_problems import planner_of, shape, tiny_problem

PREFILL, DECODE = shape(Phase.PREFILL), shape(Phase.DECODE)
PATIENT = Slo(ttft_ms=60.0, tpot_ms=60_000.0)


def flows_on(cluster, slo=PATIENT):
    return PlaceFlows(planner_of(tiny_problem(cluster=cluster, slo=slo)))


def test_within_a_host_the_tighter_phase_binds():
    flows = flows_on(hosts_of(3))
    place = [((0,),), ((1,),), ((2,),)]
    shapes = [PREFILL, DECODE, DECODE]
    prefill, *decodes = flows.rates_rps(shapes, place)
    found = flows.flow(shapes, place)
    assert found.rate_rps == pytest.approx(min(prefill, sum(decodes)), rel=1e-2)
    assert found.in_time_frac == 1.0
    assert found.link_rps > 8 * found.rate_rps


def test_half_the_requests_cross_the_nic_where_half_the_decodes_are():
    # 80 % of 1e5 bytes/s carries 25 caches of 3,200 bytes a second; half of the
    # requests go there, so the link is full at 50.
    cluster = hosts_of(2, 1)
    flows = flows_on(cluster)
    assert kv_bytes(flows.planner.problem.service.llm, 100.0) == 3200.0
    found = flows.flow([PREFILL, DECODE, DECODE], [((0,),), ((1,),), ((2,),)])
    assert found.link_rps == pytest.approx(50.0)
    # Half of them take 40 ms, the others next to nothing, and all the links' latency.
    topology = cluster.topology
    latency_ms = [topology.path(0, gpu).latency_ms for gpu in (1, 2)]
    mean_s = 0.5 * (0.040 + sum(latency_ms) / 1000.0)
    assert found.minus_transfer_s == pytest.approx(-mean_s, rel=0.05)


def test_slices_keep_caches_off_the_nic_and_fill_up_with_their_own_prefill():
    flows = flows_on(hosts_of(2, 2))
    shapes = [PREFILL, PREFILL, DECODE, DECODE]
    place = [((0,),), ((2,),), ((1,),), ((3,),)]
    kept = flows.flow(shapes, place, [0, 1, 0, 1])
    assert kept.link_rps > 1000 * flows.flow(shapes, place).link_rps
    # All prefill in the slice of one decode replica: that one is all there is.
    lone = flows.flow(shapes, [((0,),), ((1,),), ((2,),), ((3,),)], [0, 0, 0, 1])
    decode = flows.rates_rps(shapes, place)[2]
    assert lone.rate_rps <= decode * 1.01


def test_caches_that_are_late_alone_serve_nothing():
    # 3,200 bytes take 400 ms at 80 % of 1e4 bytes/s; 10 tokens of 16 ms leave 160.
    flows = flows_on(hosts_of(1, 1, nic_bytes_per_s=1e4), Slo(ttft_ms=60, tpot_ms=16))
    found = flows.flow([PREFILL, DECODE], [((0,),), ((1,),)])
    assert (found.rate_rps, found.in_time_frac) == (0.0, 0.0)


def test_only_what_follows_the_first_token_can_be_late():
    problem = tiny_problem(slo=Slo(ttft_ms=60, tpot_ms=16))
    requests = sample_of(problem)
    assert in_time_frac(problem, requests, 159.0) == 1.0
    assert in_time_frac(problem, requests, 161.0) == 0.0
    layer_wise = KvTransfer(mode=TransferMode.LAYER_WISE)
    engine = replace(problem.engine, kv_transfer=layer_wise)
    meanwhile = replace(problem, engine=engine)
    assert in_time_frac(meanwhile, requests, 161.0) == 1.0
    whole = replace(problem.service, slo=Slo(e2e_ms=160.0))
    assert in_time_frac(replace(problem, services=(whole,)), requests, 161.0) == 0.0


def test_places_that_nothing_joins_have_no_flow():
    cluster = hosts_of(1, 1)
    apart = [
        replace(node, type=replace(node.type, num_nics=0)) for node in cluster.nodes
    ]
    flows = flows_on(replace(cluster, nodes=tuple(apart)))
    assert flows.flow([PREFILL, DECODE], [((0,),), ((1,),)]) is None


def test_aggregated_replicas_add_up():
    flows = flows_on(hosts_of(2, 1))
    shapes = [shape(Phase.AGGREGATED)] * 3
    place = [((0,),), ((1,),), ((2,),)]
    found = flows.flow(shapes, place)
    assert found.rate_rps == pytest.approx(
        sum(flows.rates_rps(shapes, place)), rel=1e-2
    )
    assert found.minus_transfer_s == 0.0
