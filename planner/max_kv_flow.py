"""KV flow: what a plan's replicas and links carry together, by which routes.

Reference
    Ahuja, Magnanti and Orlin, "Network Flows", 1993, chapters 6, 9 and 17: maximum
    flow, minimum-cost flow, and capacities that several flows share.

Idea
    Every request visits one prefill and one decode replica, and its KV cache travels in
    between over links that other routes use too. How much all of it can carry is a
    linear programme over the routes; what binds at its optimum is the minimum cut, and
    what one more unit of it would bring is its dual price.

Steps
    1. The rate of each replica for its phase alone, its pool sharing the arrivals.
    2. The most requests/s over all routes, within replicas, routes and shared links.
    3. Of all such flows one that loads the replicas of each phase evenly: a phase with
       room to spare could be full on some of them and idle on others.
    4. Of all flows that are at least half as even, the one whose transfers take the
       least time: the shares of the routes (`planner.flow_routing`).
    5. What has a price in 2 is the cut. Where links are in it, what the tighter phase
       could serve without them is stranded behind them.

Differences from the reference
    - routes are fixed ways through the topology, as the simulator takes them, and a
      route may use several links of a kind in parallel

Assumes   separate phases, no replica lent to the other; at most `MOST_ROUTES` routes
Cost      a goodput search a pool; three linear programmes with a column a route
Guarantee exact for these rates; the simulator knows queues and a joint SLO besides
"""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linprog

from clusters.units import GB
from models.memory import kv_bytes
from planner.capacity import replica_capacity_rps
from planner.cells import is_of_cells
from planner.deployment import Deployment, Pool, Replica
from planner.evaluate import Evaluator
from planner.flow_routing import with_shares
from planner.kv_flow import Binding, KvFlow, RouteShare
from planner.kv_shards import kv_transfer
from planner.search.phases import phase_slo
from planner.serving import Planner
from planner.simulator.system import Phase, Routing
from planner.step_costs import FloatArray

MOST_ROUTES = 2_048
"""Beyond this many routes the programmes take too long to be worth it."""

_MOST_RATED = 8
"""Replicas of a pool that are simulated together for their rate."""

_SAMPLE_REQUESTS = 300
_ROUNDING = 1e-6


def kv_flow_of(evaluator: Evaluator, deployment: Deployment) -> KvFlow | None:
    """The highest KV flow of a deployment; None without routes, or with too many."""
    if not 0 < len(deployment.routes) <= MOST_ROUTES:
        return None
    # 1. Rates of the replicas.
    rates = {
        replica.name: rate
        for pool in deployment.pools()
        for replica, rate in _rates(evaluator, pool)
    }
    return solve_flow(evaluator.planner, deployment, rates)


def routed_by_flow(evaluator: Evaluator, deployment: Deployment) -> Deployment | None:
    """The same, routed by the shares of its highest flow; None where it has none.

    Large deployments are cells, and a flow goes over the whole.
    """
    if is_of_cells(len(deployment.replicas)) or deployment.routing is Routing.SPLITWISE:
        return None
    flow = kv_flow_of(evaluator, deployment)
    return None if flow is None else with_shares(deployment, flow.routes)


def solve_flow(
    planner: Planner, deployment: Deployment, rates_rps: Mapping[str, float]
) -> KvFlow | None:
    """The highest flow for given rates of the replicas; None when none serves."""
    problem = _Routes(planner, deployment, rates_rps)
    # 2. The most.
    most = linprog(
        -np.ones(problem.num_routes),
        A_ub=problem.rows,
        b_ub=problem.limits,
    )
    value = -float(most.fun or 0.0)
    if value <= 0 or most.x is None:
        return None
    # 3. and 4. The quickest of that value, evenly loaded.
    whole = -value * (1.0 - _ROUNDING)
    quickest = linprog(
        problem.transfer_s,
        A_ub=np.vstack([problem.rows, -np.ones(problem.num_routes)]),
        b_ub=np.append(problem.even_limits(whole), whole),
    )
    flows = most.x if quickest.x is None else quickest.x
    # 5. The cut.
    prices = -np.asarray(most.ineqlin.marginals)
    return problem.result(value, flows, prices)


class _Routes:
    """The programme of a deployment: a column a route; rows of replicas, then links."""

    def __init__(
        self, planner: Planner, deployment: Deployment, rates_rps: Mapping[str, float]
    ) -> None:
        topology = planner.problem.cluster.topology
        service, engine = planner.problem.service, planner.problem.engine
        of = {replica.name: replica for replica in deployment.replicas}
        bytes_each = kv_bytes(service.llm, service.workload.mean_input_tokens)
        self.deployment, self._rates = deployment, rates_rps
        # Replicas that are lent to the other phase have routes within a phase too.
        self._routes = [
            route
            for route in deployment.routes
            if of[route.source].phase is not of[route.target].phase
        ]
        self._edges = topology.edges
        self.num_routes = len(self._routes)
        self._replicas = {r.name: i for i, r in enumerate(deployment.replicas)}
        self._links: dict[int, int] = {}
        efficiency = engine.kv_link_efficiency_frac
        entries: list[tuple[int, int, float]] = []
        for column, route in enumerate(self._routes):
            entries += [
                (self._replicas[n], column, 1.0) for n in (route.source, route.target)
            ]
            transfer = kv_transfer(planner.problem, of[route.source], of[route.target])
            for edge, share in zip(transfer.edges, transfer.shares, strict=True):
                row = self._links.setdefault(edge, len(self._links))
                load = share * bytes_each / (GB * efficiency)
                entries.append((len(self._replicas) + row, column, load))
        num_rows = len(self._replicas) + len(self._links)
        self.rows: FloatArray = np.zeros((num_rows, self.num_routes))
        for row, column, value in entries:
            self.rows[row, column] += value
        # What a route carries alone follows: its rate is that of its tightest link.
        carried = [topology.edges[edge].bytes_per_s / GB for edge in self._links]
        of_phase = [self._total(phase) for phase in (Phase.PREFILL, Phase.DECODE)]
        # No more can pass than the other phase serves; numbers stay alike in size.
        served = [min(rates_rps[name], *of_phase) for name in self._replicas]
        self.limits: FloatArray = np.array([*served, *carried], dtype=np.float64)
        self.transfer_s: FloatArray = np.array(
            [bytes_each / (r.bytes_per_s * efficiency) for r in self._routes]
        )

    def even_limits(self, whole: float) -> FloatArray:
        """The limits, those of replicas nearer to loads that are alike in a phase.

        `whole` is minus the flow. The least load of the fullest replica of a phase, as
        a share of its rate, is found; halfway from there to all of it is allowed.
        """
        phases = [Phase.PREFILL, Phase.DECODE]
        num, num_replicas = self.num_routes, len(self._replicas)
        loads = np.zeros((len(self.rows), len(phases)))
        for row, replica in enumerate(self.deployment.replicas):
            loads[row, phases.index(replica.phase)] = -self.limits[row]
        limits = np.where(np.arange(len(self.rows)) < num_replicas, 0.0, self.limits)
        even = linprog(
            np.append(np.zeros(num), np.ones(len(phases))),
            A_ub=np.vstack(
                [
                    np.hstack([self.rows, loads]),
                    np.append(-np.ones(num), np.zeros(len(phases))),
                ]
            ),
            b_ub=np.append(limits, whole),
            bounds=[(0, None)] * num + [(0, 1)] * len(phases),
        )
        if even.x is None:
            return self.limits
        allowed = 0.5 * (1.0 + even.x[num:])
        limits = self.limits.copy()
        for row, replica in enumerate(self.deployment.replicas):
            limits[row] *= allowed[phases.index(replica.phase)]
        return limits

    def result(self, value: float, flows: FloatArray, prices: FloatArray) -> KvFlow:
        """What the solution says."""
        names = list(self._replicas)
        num = len(names)
        largest_first = sorted(
            zip(self._routes, flows.tolist(), strict=True),
            key=lambda each: (
                -round(each[1] / value, 9),
                each[0].source,
                each[0].target,
            ),
        )
        links = {}
        for edge, row in self._links.items():
            gain = float(prices[num + row])
            if gain > _ROUNDING:
                links[
                    _link_name(self._edges[edge].source, self._edges[edge].target)
                ] = gain
        return KvFlow(
            rate_rps=value,
            prefill_rps=self._total(Phase.PREFILL),
            decode_rps=self._total(Phase.DECODE),
            routes=tuple(
                RouteShare(
                    source=route.source,
                    target=route.target,
                    share_frac=min(1.0, flow / value),
                )
                for route, flow in largest_first
                if flow > value * _ROUNDING
            ),
            cut_replicas=tuple(
                Binding(what=name, gain=float(price))
                for name, price in zip(names, prices[:num], strict=True)
                if price > _ROUNDING
            ),
            cut_links=tuple(Binding(what=w, gain=g) for w, g in sorted(links.items())),
        )

    def _total(self, phase: Phase) -> float:
        return sum(self._rates[r.name] for r in self.deployment.of_phase(phase))


def _rates(evaluator: Evaluator, pool: Pool) -> list[tuple[Replica, float]]:
    """Every replica of a pool with its rate, for its phase alone."""
    problem = evaluator.planner.problem
    phase = pool.shape.phase
    some = pool.replicas[:_MOST_RATED]
    system = evaluator.planner.system(Deployment(replicas=some))
    part = phase_slo(problem.service.slo, phase)
    if part is None:
        sample = problem.service.workload.draw(_SAMPLE_REQUESTS, seed=0, rate_rps=1.0)
        rate = replica_capacity_rps(system.replicas[0], sample)
    else:
        rate = evaluator.system_goodput(system, part).rate_rps / len(some)
    return [(replica, rate) for replica in pool.replicas]


def _link_name(source: str, target: str) -> str:
    """A link as people write it, e.g. ``rack2 -> spine``."""
    ends = [end.removeprefix("leaf:") for end in (source, target)]
    return " -> ".join(ends)
