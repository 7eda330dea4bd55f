"""Deployments by place: what the simulator says of them."""

from planner.evaluate import Evaluator
from planner.places.deployments import by_rules, deployed_apart, other_places
from planner.serving import place_in_order
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.places.place_parts import hosts_of
from tests.planner.tiny_problems import QUICK, planner_of, shape, tiny_problem

PREFILL, DECODE = shape(Phase.PREFILL), shape(Phase.DECODE)
WIDE = shape(Phase.DECODE, tp=2)
SLO = Slo(ttft_ms=60.0, tpot_ms=30.0)


def planner_on(cluster):
    return planner_of(tiny_problem(cluster=cluster, slo=SLO))


def rate(planner, deployment):
    evaluator = Evaluator(planner=planner, effort=QUICK)
    return evaluator.goodput(deployment).rate_rps


def test_two_wide_replicas_do_not_fill_the_host_that_prefill_needs():
    # By rule both go on the first of two hosts; all caches would cross the NICs.
    planner = planner_on(hosts_of(4, 4, nic_bytes_per_s=4e4))
    shapes = sorted([PREFILL, PREFILL, WIDE, WIDE], key=place_in_order)
    first = by_rules(planner, shapes)[0]
    ruled = planner.deploy_at(shapes, first)
    found = planner.deploy(shapes)
    hosts = {r.name: r.gpu_indices[0] // 4 for r in found.replicas}
    assert hosts["prefill-0"] != hosts["prefill-1"]
    assert hosts["decode-0"] != hosts["decode-1"]
    apart = deployed_apart(planner, shapes)
    rates = [rate(planner, each) for each in (ruled, found, apart)]
    assert rates[0] < rates[1] < 0.7 * rates[2]


def test_without_another_phase_or_with_ample_links_there_is_one_place():
    planner = planner_on(hosts_of(4, 2, nic_bytes_per_s=1e12))
    shapes = [PREFILL, DECODE]
    assert deployed_apart(planner, shapes) is None
    assert other_places(planner, planner.deploy(shapes), 4) == []
    joint = [shape(Phase.AGGREGATED)] * 2
    assert len(by_rules(planner, joint)) == 1
    assert deployed_apart(planner, joint) is None


def test_other_places_are_of_the_same_replicas_and_hold_the_rules_own():
    planner = planner_on(hosts_of(1, 2, 4, nic_bytes_per_s=4e4))
    shapes = sorted([PREFILL, PREFILL, DECODE, WIDE], key=place_in_order)
    given = planner.deploy(shapes)
    found = other_places(planner, given, 4)
    assert {d.describe() for d in found} == {given.describe()}
    rules = by_rules(planner, shapes)
    assert found[-1] in [planner.deploy_at(shapes, each) for each in rules[:2]]
    assert any(len({r.slice for r in d.replicas}) > 1 for d in found)
    assert planner.deploy(shapes[::-1]) == given
