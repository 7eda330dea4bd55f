"""Flow routing: a deployment that is routed by the shares of its KV flow.

The flow of a plan (`planner.max_kv_flow`) is what its replicas and links carry
together. Routed by work alone, a request does not know which links are slow: decode
replicas behind a narrow link get as many as those beside the prefill, and the link
fills up. Shares avoid that, and are what a gateway with weights can be told; on the
other hand they do not see queues. Which of the two serves more is simulated.
"""

from collections.abc import Iterable
from dataclasses import replace

from planner.cells import MOST_REPLICAS, is_of_cells
from planner.deployment import Deployment
from planner.kv_flow import RouteShare
from planner.simulator.system import Phase, Routing


def with_shares(deployment: Deployment, shares: Iterable[RouteShare]) -> Deployment:
    """The same, routed by `shares` of its routes; those without any get none."""
    known = {(each.source, each.target): each.share_frac for each in shares}
    total = sum(known.values())
    routes = tuple(
        replace(route, share_frac=known.get((route.source, route.target), 0.0) / total)
        for route in deployment.routes
    )
    return replace(deployment, routes=routes, routing=Routing.FLOW_SHARES)


def by_queue(deployment: Deployment) -> Deployment:
    """The same, routed to the shortest queue, without shares."""
    routes = tuple(replace(route, share_frac=None) for route in deployment.routes)
    return replace(deployment, routes=routes, routing=Routing.SHORTEST_QUEUE)


def may_gain(deployment: Deployment) -> bool:
    """Whether shares may serve more than the shortest queue.

    Not with like replicas and like routes: there nothing beats the shortest queue (for
    exponential times Winston, "Optimality of the Shortest Line Discipline", Journal of
    Applied Probability 14(1), 1977).
    """
    if deployment.routing is not Routing.SHORTEST_QUEUE:
        return False
    phases = (Phase.PREFILL, Phase.DECODE)
    shapes = {r.shape for phase in phases for r in deployment.of_phase(phase)}
    ways = {(r.bytes_per_s, r.latency_ms) for r in deployment.routes}
    return len(deployment.routes) > 1 and (len(ways) > 1 or len(shapes) > len(phases))


def describe_routing(deployment: Deployment, asked: Routing) -> str | None:
    """How a plan is routed and why, in a line; None where shares were no question."""
    if deployment.routing is Routing.FLOW_SHARES:
        if asked is Routing.FLOW_SHARES:
            return "by the shares of the KV flow, as asked"
        return "by the shares of the KV flow, which serve more than the shortest queue"
    is_large = is_of_cells(len(deployment.replicas))
    if asked is Routing.FLOW_SHARES:
        large = f"more than {MOST_REPLICAS} replicas have no shares"
        return f"to the shortest queue: {large if is_large else 'there is no KV flow'}"
    if not is_large and may_gain(deployment):
        return "to the shortest queue; the shares of the KV flow serve no more"
    return None
