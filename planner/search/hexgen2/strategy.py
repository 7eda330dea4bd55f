"""Strategies: how a group of GPUs runs one replica of a phase, and at which rate."""

from dataclasses import dataclass

from clusters.fields import spec
from clusters.links import GroupLinks
from planner.capacity import replica_capacity_rps
from planner.deployment import Deployment, ReplicaShape
from planner.placement import FreeGpus, StageGpus
from planner.search.contract import Ledger, SearchContext
from planner.search.phases import rate_alone
from planner.search.pipelines.candidates import UnlikeReplicas
from planner.search.ratios import RatedShape
from planner.search.shapes import usable_shapes
from planner.simulator.system import Phase

PHASES = (Phase.PREFILL, Phase.DECODE)
POOL_SIZE = 4
"""Replicas that share the arrivals when a shape is rated, or as many as there are."""

NUM_UNLIKE = 1
"""Pipelines of unlike stages that are rated for a group of several types."""

_SAMPLE_REQUESTS = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One replica on some GPUs of a group."""

    rated: RatedShape = spec("Its shape and rate.")
    stage_gpus: StageGpus = spec("Its GPUs, stage by stage.")
    gpus: tuple[int, ...] = spec("All of them, in that order.")


class Strategies:
    """Best replica of a phase on a set of GPUs; remembers what it has worked out."""

    def __init__(self, context: SearchContext, ledger: Ledger) -> None:
        self._context, self._ledger = context, ledger
        planner = context.evaluator.planner
        problem = planner.problem
        available = problem.search.available_gpus
        self._whole = FreeGpus.of(problem.cluster, available)
        self.unlike = UnlikeReplicas(planner)
        self._shapes: dict[tuple[Phase, str], list[ReplicaShape]] = {}
        for phase in PHASES:
            for alone in usable_shapes(planner, phase, ledger):
                shape = alone.replicas[0].shape
                self._shapes.setdefault((phase, shape.gpu_type), []).append(shape)
        service = planner.problem.service
        self._sample = service.workload.draw(_SAMPLE_REQUESTS, seed=0, rate_rps=1.0)
        self._known: dict[tuple[Phase, tuple[int, ...]], Strategy | None] = {}
        self._bounds: dict[tuple[ReplicaShape, GroupLinks], float] = {}
        self._rates: dict[tuple[ReplicaShape, GroupLinks], RatedShape] = {}

    def least_gpus(self, gpu_type: str) -> int | None:
        """GPUs of the smallest replica of a type; None when it runs none."""
        sizes = [
            shape.parallelism.num_gpus
            for phase in PHASES
            for shape in self._shapes.get((phase, gpu_type), [])
        ]
        return min(sizes, default=None)

    def best(self, gpus: tuple[int, ...], phase: Phase) -> Strategy | None:
        """The replica of the highest rate on these GPUs; None: none fits.

        The SLO's limit on TTFT makes prefill fast enough; decode has the highest rate
        within TPOT. Of equal rates the one that nearly meets the SLO, then the smaller.
        """
        key = (phase, gpus)
        if key not in self._known:
            found = self._work_out(gpus, phase)
            if found is None and self._context.is_stopped:
                return None  # not all was looked at
            self._known[key] = found
        return self._known[key]

    def _work_out(self, gpus: tuple[int, ...], phase: Phase) -> Strategy | None:
        bounded = sorted(
            self._placed(gpus, phase),
            key=lambda each: (-self._bound(each), each.num_gpus),
        )
        best: Strategy | None = None
        for alone in bounded:
            # No schedule exceeds the bound, so no shape after this one can be better.
            if best is not None and best.rated.rate_rps > self._bound(alone):
                break
            rated = self._rate(alone)
            replica = alone.replicas[0]
            if rated is not None and (best is None or _key(rated) < _key(best.rated)):
                best = Strategy(
                    rated=rated,
                    stage_gpus=replica.stage_gpus,
                    gpus=replica.gpu_indices,
                )
        return best

    def _placed(self, gpus: tuple[int, ...], phase: Phase) -> list[Deployment]:
        """One replica of every shape that fits on the GPUs."""
        planner = self._context.evaluator.planner
        topology = planner.problem.cluster.topology
        free = self._whole.copy()
        for host in free.hosts:
            host.islands = [[g for g in island if g in gpus] for island in host.islands]
        gpu_type = topology.gpu(gpus[0]).type.name
        if any(topology.gpu(gpu).type.name != gpu_type for gpu in gpus):
            # Recipes have been counted for the whole cluster.
            best = self.unlike.best(free, phase, NUM_UNLIKE, Ledger())
            return [each.alone for each in best]
        found = []
        for shape in self._shapes.get((phase, gpu_type), []):
            if shape.parallelism.num_gpus <= len(gpus):
                stages = free.copy().take_replica(shape)
                if stages is None:
                    continue
                alone = planner.deploy_if_joined([shape], [stages])
                if alone is not None:
                    found.append(alone)
        return found

    def _links_of(self, alone: Deployment) -> GroupLinks:
        """What of a place decides the latencies of a replica there."""
        topology = self._context.problem.cluster.topology
        return topology.group_links(alone.replicas[0].stage_gpus)

    def _bound(self, alone: Deployment) -> float:
        """Rate that no schedule of the replica exceeds."""
        key = (alone.replicas[0].shape, self._links_of(alone))
        if key not in self._bounds:
            planner = self._context.evaluator.planner
            self._bounds[key] = replica_capacity_rps(
                planner.system(alone).replicas[0],
                self._sample,
                planner.problem.service.slo,
            )
        return self._bounds[key]

    def _rate(self, alone: Deployment) -> RatedShape | None:
        """Simulated rate of the replica in a pool; None when the search is over."""
        shape = alone.replicas[0].shape
        key = (shape, self._links_of(alone))
        if key not in self._rates:
            if self._context.should_stop():
                return None
            size = min(POOL_SIZE, self._whole.most_replicas(shape))
            rated = rate_alone(
                self._context, (alone,), shape.phase, self._ledger, pool_sizes=(size,)
            )
            if not rated:
                return None
            self._rates[key] = rated[0]
        return self._rates[key]


def _key(rated: RatedShape) -> tuple[float, float, int]:
    """Sort key: the best first."""
    return (-rated.rate_rps, -rated.light_load_frac, rated.num_gpus)
