"""DistServe, low node-affinity: units whose KV caches never leave a node.

Reference
    Zhong et al., "DistServe: Disaggregating Prefill and Decoding for Goodput-optimized
    Large Language Model Serving", OSDI 2024, arXiv 2401.09670, Algorithm 2 (section 4.2).

Idea
    Where the network between nodes is slow, a KV cache must travel inside a node. Layers
    are cut in c segments over c nodes; each node holds the same segment of the prefill
    and of the decode instances of a unit, so every layer's KV cache moves between GPUs
    of one node. A unit is simulated whole, then replicated.

Steps
    1. For every number of nodes c, enumerate the shapes whose stages divide into c
       segments, and the numbers of prefill and decode instances that fill a node.
    2. Rank units by what their parts promise (goodput of a phase alone).
    3. Place the most promising units: segment s of all instances on the s-th node.
    4. Simulate one unit, replicate it to the traffic (or the cluster), and simulate the
       whole; requests stay in their unit.

Differences from the paper
    - several instances of a phase in a unit (the ratio), where the paper has one each;
    - several small units may share a node;
    - only the most promising units are simulated whole.

Assumes   one service with open arrivals; nodes of at least two GPUs
Cost      one-phase goodput searches as in `distserve_high`, about 12 units and as many
          wholes
Guarantee heuristic
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.cost import usd_per_hour
from planner.deployment import Deployment
from planner.placement import FreeGpus, StageGpus
from planner.problem import Problem
from planner.search.contract import (
    STOPPED,
    Candidate,
    Ledger,
    SearchContext,
    SearchOutcome,
    why_not_open,
)
from planner.search.phases import rate_alone
from planner.search.ratios import Mix, RatedShape, gpu_budget
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Prefill and decode instances over the same nodes."""

    mix: Mix = spec("Its instances.")
    num_nodes: int = spec("Nodes it is cut over.", unit="nodes", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistServeLow:
    """Units of prefill and decode segments that share nodes."""

    num_finalists: int = spec("Units simulated whole.", unit="1", ge=1, default=12)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "distserve-low"

    def supports(self, problem: Problem) -> str | None:
        """Open arrivals, and a node that can hold both phases."""
        largest = max(len(node.slots) for node in problem.cluster.nodes)
        if largest < 2:
            return "no node has two GPUs for a prefill and a decode segment"
        return why_not_open(problem)

    def search(self, context: SearchContext) -> SearchOutcome:
        """Run steps 1-4."""
        ledger = Ledger()
        planner = context.evaluator.planner
        rated = {
            phase: rate_alone(
                context, usable_shapes(planner, phase, ledger), phase, ledger
            )
            for phase in (Phase.PREFILL, Phase.DECODE)
        }
        # 1. and 2. Units, best promise first.
        units = ranked_units(context.problem, rated[Phase.PREFILL], rated[Phase.DECODE])
        found: list[Candidate] = []
        for unit in units:
            if context.should_stop():
                ledger.reject(STOPPED)
                continue
            if len(found) >= self.num_finalists:
                ledger.reject("promises less than those simulated")
                continue
            # 3. and 4. One unit, then as many as needed.
            candidate = self._replicated(context, unit)
            if candidate is None:
                ledger.reject("does not fit the nodes")
                continue
            ledger.evaluated += 1
            found.append(candidate)
        ranked = sorted(
            found, key=lambda c: (c.rank(context.problem), str(c.deployment))
        )
        return SearchOutcome(
            method=self.name,
            candidates=tuple(ranked),
            ledger=ledger,
            is_stopped=context.is_stopped,
        )

    def _replicated(self, context: SearchContext, unit: Unit) -> Candidate | None:
        one = place_units(context, unit, 1)
        if one is None:
            return None
        problem = context.problem
        best = self._candidate(context, one)
        for count in _repetitions(problem, unit, best.goodput.rate_rps):
            whole = place_units(context, unit, count)
            if whole is None:
                continue
            bigger = self._candidate(context, whole)
            best = min(best, bigger, key=lambda c: c.rank(problem))
            if not problem.objective.needs_rate or best.score(problem) is not None:
                break
        return best

    def _candidate(self, context: SearchContext, deployment: Deployment) -> Candidate:
        candidate = Candidate(
            method=self.name,
            deployment=deployment,
            goodput=context.evaluator.goodput(deployment),
            usd_per_hour=usd_per_hour(context.problem.cluster, deployment),
        )
        context.note(candidate)
        return candidate


def _repetitions(problem: Problem, unit: Unit, rate_rps: float) -> range:
    """Numbers of units to try after one, the likeliest first.

    With a target rate as many as it takes, and more if they do not reach it; without
    one as many as fit.
    """
    most = gpu_budget(problem) // unit.mix.num_gpus
    if problem.search.max_replicas:
        widest = max(count for _, count in unit.mix.counts)
        most = min(most, problem.search.max_replicas // widest)
    if not problem.objective.needs_rate:
        return range(most, 1, -1)
    target = problem.service.workload.rate_rps or 0.0
    if not 0 < rate_rps < target:
        return range(0)
    return range(min(most, math.ceil(target / rate_rps)), most + 1)


def ranked_units(
    problem: Problem, prefills: Sequence[RatedShape], decodes: Sequence[RatedShape]
) -> list[Unit]:
    """All units that a set of nodes can hold, the best promise first."""
    widest = max(len(node.slots) for node in problem.cluster.nodes)
    budget = gpu_budget(problem)
    num_nodes = len(problem.cluster.nodes)
    cap = problem.search.max_replicas or widest
    units = []
    for prefill in prefills:
        for decode in decodes:
            if prefill.shape.gpu_type != decode.shape.gpu_type:
                continue
            stages = (prefill.shape.parallelism.pp, decode.shape.parallelism.pp)
            for cut in range(1, min(num_nodes, *stages) + 1):
                if stages[0] % cut or stages[1] % cut:
                    continue
                room = min(widest * cut, budget)
                for mix in _fillings(prefill, decode, room, cap):
                    units.append(Unit(mix=mix, num_nodes=cut))
    return sorted(units, key=lambda unit: _promise(problem, unit))


def _promise(problem: Problem, unit: Unit) -> tuple[float, ...]:
    """Sort key: the best use of GPUs first; a unit is replicated, so size follows."""
    mix = unit.mix
    if mix.promised_rps <= 0:
        return mix.rank(problem)
    return (-mix.promised_rps / mix.num_gpus, mix.num_gpus)


def _fillings(
    prefill: RatedShape, decode: RatedShape, num_gpus: int, cap: int
) -> list[Mix]:
    """Numbers of instances of both phases that fit `num_gpus` together."""
    found = []
    for x in range(1, min(cap, (num_gpus - decode.num_gpus) // prefill.num_gpus) + 1):
        left = num_gpus - x * prefill.num_gpus
        for y in range(1, min(cap, left // decode.num_gpus) + 1):
            promised = min(x * prefill.rate_rps, y * decode.rate_rps)
            # Nothing promised: a best effort still needs candidates, one of each.
            if promised > 0 or x == y == 1:
                counts = ((prefill, x), (decode, y))
                found.append(Mix(counts=counts, promised_rps=promised))
    return found


def place_units(
    context: SearchContext, unit: Unit, num_units: int
) -> Deployment | None:
    """A deployment of `num_units` units, each on its own set of nodes."""
    planner = context.evaluator.planner
    free = FreeGpus.of(context.problem.cluster)
    shapes, placed, slices = [], [], []
    for index in range(num_units):
        taken = _take_unit(free, unit)
        if taken is None:
            return None
        shapes += list(unit.mix.shapes)
        placed += taken
        slices += [index] * len(taken)
    order = sorted(
        range(len(shapes)), key=lambda i: (shapes[i].phase is not Phase.PREFILL, i)
    )
    return planner.deploy_at(
        [shapes[i] for i in order],
        [placed[i] for i in order],
        [slices[i] for i in order],
    )


def _take_unit(free: FreeGpus, unit: Unit) -> list[StageGpus] | None:
    """GPUs of every instance: segment s of all of them on the s-th host."""
    shapes = unit.mix.shapes
    per_host = unit.mix.num_gpus // unit.num_nodes
    hosts = [
        host
        for host in sorted(free.hosts, key=lambda host: host.num_free)
        if host.gpu_type == shapes[0].gpu_type and host.num_free >= per_host
    ][: unit.num_nodes]
    if len(hosts) < unit.num_nodes:
        return None
    stages: list[list[tuple[int, ...]]] = [[] for _ in shapes]
    for host in hosts:
        by_width = sorted(
            range(len(shapes)), key=lambda i: -shapes[i].parallelism.gpus_per_stage
        )
        for index in by_width:
            parallelism = shapes[index].parallelism
            for _ in range(parallelism.pp // unit.num_nodes):
                stages[index].append(host.take(parallelism.gpus_per_stage))
    return [tuple(each) for each in stages]
