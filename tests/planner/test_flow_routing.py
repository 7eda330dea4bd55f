"""Plans routed by the shares of their flow: where that serves more, and only there."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from planner.check import check_deployment
from planner.deployment import Deployment
from planner.evaluate import Evaluator
from planner.explain import explain
from planner.finalists import better_routed, verify_kind
from planner.flow_routing import describe_routing, may_gain, with_shares
from planner.kv_flow import RouteShare
from planner.max_kv_flow import kv_flow_of, routed_by_flow
from planner.objective import Goal
from planner.replay import ReplayOptions, replay
from planner.search.contract import Candidate
from planner.simulator.system import Phase, Routing
from planner.solve import solve
from tests.planner.tiny_problems import (
    QUICK,
    TINY_LIBRARY,
    context_of,
    shape,
    tiny_cluster,
    tiny_problem,
)

PREFILL, DECODE = Phase.PREFILL, Phase.DECODE
PAIRED = ((PREFILL, PREFILL, DECODE, DECODE), (0, 2, 1, 3))
"""A prefill and a decode replica on each of two nodes, 24 ms apart."""
ALONE = ((PREFILL, DECODE), (0, 1))


def problem_of(routing=Routing.SHORTEST_QUEUE):
    problem = tiny_problem(cluster=tiny_cluster(2, 2), goal=Goal.MAX_GOODPUT)
    return replace(problem, engine=replace(problem.engine, routing=routing))


def candidate_of(evaluator, phases, places):
    shapes = [shape(phase) for phase in phases]
    deployment = evaluator.planner.deploy_at(shapes, [((gpu,),) for gpu in places])
    return Candidate(
        method="test", deployment=deployment, goodput=evaluator.goodput(deployment)
    )


def used(deployment: Deployment) -> dict[tuple[str, str], float]:
    return {
        (route.source, route.target): route.share_frac
        for route in deployment.routes
        if route.share_frac
    }


def test_shares_that_keep_caches_in_their_node_serve_more_and_are_taken():
    """A cache that crosses the network comes 24 ms late: 2.4 ms more a token, and the
    limit is 16. The queues do not see it; the flow takes the quick ways."""
    evaluator = context_of(problem_of()).evaluator
    by_work = candidate_of(evaluator, *PAIRED)
    (found,) = verify_kind(evaluator, [by_work], QUICK)
    assert found.deployment.routing is Routing.FLOW_SHARES
    assert used(found.deployment) == {
        ("prefill-0", "decode-0"): pytest.approx(0.5, abs=1e-3),
        ("prefill-1", "decode-1"): pytest.approx(0.5, abs=1e-3),
    }
    assert found.goodput.rate_rps > 1.2 * by_work.goodput.rate_rps
    check_deployment(evaluator.planner.problem, found.deployment)


def test_shares_that_serve_less_are_not_taken(monkeypatch):
    evaluator = context_of(problem_of()).evaluator
    by_work = candidate_of(evaluator, *PAIRED)
    across = [
        RouteShare(source="prefill-0", target="decode-1", share_frac=0.5),
        RouteShare(source="prefill-1", target="decode-0", share_frac=0.5),
    ]
    monkeypatch.setattr(
        "planner.finalists.routed_by_flow",
        lambda _, deployment: with_shares(deployment, across),
    )
    assert better_routed(evaluator, by_work, QUICK) is by_work


def test_shares_that_a_search_came_with_are_confirmed_against_the_queue():
    """A search may propose shares; the plan says that they serve more, so they must."""
    evaluator = context_of(problem_of()).evaluator
    by_work = candidate_of(evaluator, *PAIRED)
    across = [
        RouteShare(source="prefill-0", target="decode-1", share_frac=0.5),
        RouteShare(source="prefill-1", target="decode-0", share_frac=0.5),
    ]
    for shares, wanted in ((across, Routing.SHORTEST_QUEUE), (None, "flow_shares")):
        routed = (
            with_shares(by_work.deployment, shares)
            if shares
            else routed_by_flow(evaluator, by_work.deployment)
        )
        proposed = replace(
            by_work, deployment=routed, goodput=evaluator.goodput(routed)
        )
        found = better_routed(evaluator, proposed, QUICK)
        assert found.deployment.routing == wanted
        if not shares:
            assert found is proposed
        else:
            assert found.deployment == by_work.deployment
            assert found.goodput.rate_rps > proposed.goodput.rate_rps


def test_like_replicas_and_routes_stay_with_the_shortest_queue():
    evaluator = context_of(problem_of()).evaluator
    one_node = candidate_of(evaluator, (PREFILL, DECODE, DECODE), (0, 2, 3))
    assert not may_gain(one_node.deployment)  # both routes cross the network
    before = evaluator.num_evaluations
    assert better_routed(evaluator, one_node, QUICK) is one_node
    assert evaluator.num_evaluations == before
    assert may_gain(candidate_of(evaluator, *PAIRED).deployment)


def test_shares_that_are_asked_for_are_taken_whatever_they_serve():
    evaluator = context_of(problem_of(Routing.FLOW_SHARES)).evaluator
    alone = candidate_of(evaluator, *ALONE)
    assert alone.deployment.routing is Routing.SHORTEST_QUEUE  # while searching
    found = better_routed(evaluator, alone, QUICK)
    assert found.deployment.routing is Routing.FLOW_SHARES
    assert used(found.deployment) == {("prefill-0", "decode-0"): 1.0}
    # One replica a phase: the same simulation.
    assert found.goodput == alone.goodput
    both = candidate_of(evaluator, (Phase.AGGREGATED,), (0,))
    assert better_routed(evaluator, both, QUICK) is both  # no flow without phases


def test_a_phase_with_room_is_loaded_evenly():
    """One prefill replica feeds two decode replicas of a node that serve more: both
    routes are alike, and a vertex of the programme could fill one of them."""
    evaluator = context_of(problem_of()).evaluator
    deployment = candidate_of(evaluator, (PREFILL, DECODE, DECODE), (0, 2, 3))
    flow = kv_flow_of(evaluator, deployment.deployment)
    shares = [route.share_frac for route in flow.routes]
    # Decode needs u of its rate; nobody is loaded above (1 + u) / 2.
    load = flow.rate_rps / flow.decode_rps
    most = 0.5 * (1.0 + load) * 0.5 * flow.decode_rps / flow.rate_rps
    assert max(shares) <= most + 1e-3
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)


def test_plan_says_how_it_is_routed_and_is_read_back():
    space = {"tp": (1,), "max_pp": 1}
    problem = replace(problem_of(), search=replace(problem_of().search, **space))
    best = solve(problem, TINY_LIBRARY, method="distserve-high", effort=QUICK).best
    assert best is not None
    again = from_mapping(type(best), to_mapping(best))
    assert again.deployment == best.deployment
    text = describe_routing(best.deployment, problem.engine.routing)
    assert best.deployment.routing in (Routing.FLOW_SHARES, Routing.SHORTEST_QUEUE)
    by_shares = best.deployment.routing is Routing.FLOW_SHARES
    assert text is not None
    assert text.startswith("by the shares" if by_shares else "to the shortest queue")
    # The other way to route, and back: the plan's own numbers.
    for routing in Routing:
        if routing in (Routing.FLOW_SHARES, Routing.SHORTEST_QUEUE):
            options = ReplayOptions(routing=str(routing))
            found = replay(best, options, latency=TINY_LIBRARY)
            is_own = routing is best.deployment.routing
            assert (found == best.evaluation) is is_own


def test_plan_says_why_shares_that_were_asked_for_are_not_there():
    asked = Routing.FLOW_SHARES
    evaluator = context_of(problem_of(asked)).evaluator
    both = candidate_of(evaluator, (Phase.AGGREGATED,), (0,)).deployment
    assert describe_routing(both, asked) == (
        "to the shortest queue: there is no KV flow"
    )
    assert describe_routing(both, Routing.SHORTEST_QUEUE) is None
    (one,) = both.replicas
    many = tuple(replace(one, name=f"aggregated-{index}") for index in range(65))
    large = replace(both, replicas=many)
    assert "more than 64 replicas" in (describe_routing(large, asked) or "")


def test_neighbours_of_a_plan_by_shares_go_by_shares(monkeypatch):
    problem = problem_of(Routing.FLOW_SHARES)
    space = replace(problem.search, tp=(1,), max_pp=1, max_replicas=1)
    problem = replace(problem, search=space)
    plan = solve(problem, TINY_LIBRARY, method="distserve-high", effort=QUICK).best
    assert plan is not None
    seen = []
    original = Evaluator.goodput

    def noted(self, deployment, **options):
        seen.append(deployment.routing)
        return original(self, deployment, **options)

    monkeypatch.setattr(Evaluator, "goodput", noted)
    explained = explain(plan, TINY_LIBRARY)
    assert len(seen) == len(explained.ratios) >= 2
    assert set(seen) == {Routing.FLOW_SHARES}


def test_shares_have_to_add_up():
    evaluator = context_of(problem_of()).evaluator
    deployment = routed_by_flow(evaluator, candidate_of(evaluator, *PAIRED).deployment)
    routes = tuple(replace(r, share_frac=0.5 * r.share_frac) for r in deployment.routes)
    halved = replace(deployment, routes=routes)
    with pytest.raises(InputError, match="add up to 1"):
        check_deployment(evaluator.planner.problem, halved)


def test_plans_of_cells_have_no_shares(monkeypatch):
    problem = problem_of()
    space = replace(problem.search, tp=(1,), max_pp=1, max_replicas=1)
    problem = replace(problem, search=space)
    plan = solve(problem, TINY_LIBRARY, method="distserve-high", effort=QUICK).best
    assert plan is not None
    assert plan.kv_flow is not None
    by_shares = ReplayOptions(routing="flow_shares")
    assert replay(plan, by_shares, latency=TINY_LIBRARY).num_requests > 0
    monkeypatch.setattr("planner.cells.MOST_REPLICAS", 1)
    with pytest.raises(InputError, match="at most 64 replicas"):
        replay(plan, by_shares, latency=TINY_LIBRARY)


@pytest.mark.parametrize("routing", ["shortest", "", "FLOW_SHARES"])
def test_unknown_routings_are_refused(routing):
    with pytest.raises(InputError, match="routing"):
        ReplayOptions(routing=routing)
