"""From a deployment to what the simulator runs: step tables, KV sizes and KV routes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

from clusters.fields import InputError, spec
from clusters.gpu import GpuType
from clusters.topology import Topology
from clusters.units import MS_PER_S
from models.latency.library import LatencyChoice, LatencyLibrary, LatencyRequest
from models.latency.unlike import UnlikeRequest, choose_unlike
from models.memory import MemoryBreakdown, kv_bytes, memory_of
from models.parallelism import Parallelism
from planner.cells import deal, slices_by_part
from planner.deployment import Deployment, Replica, ReplicaShape, Route
from planner.kv_paths import Transfer
from planner.kv_shards import kv_transfer
from planner.placement import StageGpus
from planner.places.deployments import deployed
from planner.places.search import PlaceSearch
from planner.problem import Problem
from planner.simulator.outside_schedule import switch_pairs
from planner.simulator.prefix_settings import EarlyRejection
from planner.simulator.system import (
    BatchLimits,
    EdgeShare,
    KvRoute,
    Phase,
    Routing,
    ServingReplica,
    ServingSystem,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """A problem with the latencies that answer it: makes deployments and systems."""

    problem: Problem = spec("The problem.")
    library: LatencyLibrary = spec("Where step latencies come from.")
    _known: dict[tuple[Parallelism, StageGpus], LatencyChoice] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _search: "list[PlaceSearch]" = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    _deployed: dict[tuple[ReplicaShape, ...], Deployment | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def latency(self, shape: ReplicaShape, stage_gpus: StageGpus) -> LatencyChoice:
        """Step tables of a replica in its place.

        Raises
        ------
        LatencyUnavailableError
            When no source covers it.
        """
        key = (shape.parallelism, stage_gpus)
        if key not in self._known:
            self._known[key] = self._chosen(shape, stage_gpus)
        return self._known[key]

    def _chosen(self, shape: ReplicaShape, stage_gpus: StageGpus) -> LatencyChoice:
        topology = self.problem.cluster.topology
        service, parallelism = self.problem.service, shape.parallelism
        if shape.has_unlike_stages:
            unlike = UnlikeRequest(
                llm=service.llm,
                parallelism=parallelism,
                gpus=stage_types(topology, stage_gpus),
                links=topology.group_links(stage_gpus),
            )
            return choose_unlike(self.library, unlike)
        has_ranks = parallelism.num_ranks > 1
        request = LatencyRequest(
            llm=service.llm,
            parallelism=parallelism,
            gpu=topology.gpu(stage_gpus[0][0]).type,
            links=topology.group_links(
                stage_gpus, tp=parallelism.tp if has_ranks else None
            ),
            prompt_tokens=service.workload.mean_input_tokens if has_ranks else None,
        )
        return self.library.choose(request)

    @property
    def place_search(self) -> PlaceSearch:
        """What finds places in this problem."""
        if not self._search:
            self._search.append(PlaceSearch(self))
        return self._search[0]

    def deploy(self, shapes: Sequence[ReplicaShape]) -> Deployment | None:
        """A deployment of `shapes` on concrete GPUs; None when they do not fit."""
        ordered = tuple(sorted(shapes, key=place_in_order))
        if ordered not in self._deployed:
            self._deployed[ordered] = deployed(self, ordered)
        return self._deployed[ordered]

    def deploy_if_joined(
        self,
        shapes: Sequence[ReplicaShape],
        placed: Sequence[StageGpus],
        slices: Sequence[int] | None = None,
    ) -> Deployment | None:
        """`deploy_at`, or None where no way joins GPUs that have to talk.

        Those of a pipeline, and of prefill and decode replicas of one slice. Without
        `slices`, parts of the cluster that nothing joins are slices of their own.
        """
        topology = self.problem.cluster.topology
        try:
            for stage_gpus in placed:
                for stage, following in pairwise(stage_gpus):
                    topology.path(stage[0], following[0])
            slices = slices or slices_by_part(self.problem.cluster, shapes, placed)
            return self.deploy_at(shapes, placed, slices)
        except InputError:
            return None

    def deploy_at(
        self,
        shapes: Sequence[ReplicaShape],
        placed: Sequence[StageGpus],
        slices: Sequence[int] | None = None,
    ) -> Deployment:
        """A deployment of `shapes` on the GPUs (and in the slices) given for each.

        Without `slices`, many replicas are dealt into cells (`planner.cells`). The
        order in which replicas are given does not matter: routers break ties by it, so
        a deployment has one order.
        """
        slices = slices or deal(self.problem.cluster, shapes)
        given = sorted(
            zip(slices, shapes, placed, strict=True),
            key=lambda each: (
                each[1].phase is not Phase.PREFILL,
                each[0],
                place_in_order(each[1]),
                each[2],
            ),
        )
        engine = self.problem.engine
        counts: dict[Phase, int] = dict.fromkeys(Phase, 0)
        replicas = []
        for part, shape, stage_gpus in given:
            gpus = stage_types(self.problem.cluster.topology, stage_gpus)
            limits = shape.limits or engine.limits
            memory = replica_memory(self.problem, shape.parallelism, gpus, limits)
            replicas.append(
                Replica(
                    name=f"{shape.phase}-{counts[shape.phase]}",
                    phase=shape.phase,
                    gpu_type=shape.gpu_type,
                    parallelism=shape.parallelism,
                    stage_gpus=stage_gpus,
                    limits=limits,
                    kv_capacity_tokens=memory.max_kv_tokens,
                    kv_block_tokens=engine.memory.block_tokens,
                    slice=part,
                    stage_gpu_types=shape.stage_gpu_types,
                )
            )
            counts[shape.phase] += 1
        routing = engine.routing
        if routing is Routing.FLOW_SHARES:  # the shares come when plans are confirmed
            routing = Routing.SHORTEST_QUEUE
        deployment = Deployment(replicas=tuple(replicas), routing=routing)
        routes = kv_routes(self.problem, deployment)
        return replace(deployment, routes=routes)

    def system(
        self,
        deployment: Deployment,
        *,
        crowding: Mapping[int, float] | None = None,
        switching: frozenset[int] = frozenset(),
    ) -> ServingSystem:
        """What the simulator runs for `deployment`.

        `crowding` tells by what factor links are slower since others cross them too,
        `switching` which replicas may change their phase.
        """
        cache = self.problem.service.prefix_cache
        replicas = tuple(
            ServingReplica(
                phase=replica.phase,
                stages=self.latency(replica.shape, replica.stage_gpus).stages,
                limits=replica.limits,
                kv_capacity_tokens=replica.kv_capacity_tokens,
                kv_block_tokens=replica.kv_block_tokens,
                slice=replica.slice,
                prefix_cache=None if replica.phase is Phase.DECODE else cache,
            )
            for replica in deployment.replicas
        )
        known = deployment.routes
        more = self._switch_routes(deployment, switching)
        routes = self._simulated_routes(deployment, (*known, *more), crowding or {})
        return ServingSystem(
            replicas=replicas,
            routes=routes[: len(known)],
            switch_routes=routes[len(known) :],
            kv_bytes_per_token=self._sent_bytes_per_token(),
            routing=deployment.routing,
            router=self.problem.engine.router,
            kv_transfer=self.problem.engine.kv_transfer,
            num_layers=self.problem.service.llm.num_layers,
            early_rejection=self._early_rejection(),
        )

    def _early_rejection(self) -> EarlyRejection | None:
        """What is refused on arrival, by the limits of the service."""
        admission, service = self.problem.engine.admission, self.problem.service
        if admission is None:
            return None
        return admission.early_rejection(service.slo, service.workload)

    def _sent_bytes_per_token(self) -> float:
        """KV bytes of a prompt for each of its tokens, at the workload's mean length.

        Layers with a sliding window send no more than their window.
        """
        service = self.problem.service
        tokens = service.workload.mean_input_tokens
        return kv_bytes(service.llm, tokens) / tokens

    def _switch_routes(
        self, deployment: Deployment, switching: frozenset[int]
    ) -> tuple[Route, ...]:
        """Routes of the pairs that come about when replicas change their phase."""
        replicas = deployment.replicas
        phases = [replica.phase for replica in replicas]
        slices = [replica.slice for replica in replicas]
        pairs: tuple[tuple[int, int], ...] = ()
        if switching:
            pairs = switch_pairs(phases, slices, switching, deployment.routing)
        return tuple(_route(self.problem, replicas[a], replicas[b]) for a, b in pairs)

    def _simulated_routes(
        self,
        deployment: Deployment,
        routes: Sequence[Route],
        crowding: Mapping[int, float],
    ) -> tuple[KvRoute, ...]:
        engine = self.problem.engine
        edges = self.problem.cluster.topology.edges
        index = {r.name: i for i, r in enumerate(deployment.replicas)}
        by_name = {replica.name: replica for replica in deployment.replicas}
        transfers = [
            kv_transfer(self.problem, by_name[route.source], by_name[route.target])
            for route in routes
        ]
        per_byte_s = {
            edge: crowding.get(edge, 1.0) / edges[edge].bytes_per_s
            for transfer in transfers
            for edge in transfer.edges
        }
        kept = deciding_edges(per_byte_s, transfers)
        efficiency = engine.kv_link_efficiency_frac
        return tuple(
            KvRoute(
                source=index[route.source],
                target=index[route.target],
                latency_ms=route.latency_ms + engine.kv_setup_ms,
                ms_per_byte=MS_PER_S / (route.bytes_per_s * efficiency),
                share_frac=route.share_frac or 0.0,
                edges=tuple(
                    EdgeShare(
                        edge=str(edge),
                        ms_per_byte=share * MS_PER_S * per_byte_s[edge] / efficiency,
                    )
                    for edge, share in sorted(
                        zip(transfer.edges, transfer.shares, strict=True)
                    )
                    if edge in kept
                ),
            )
            for route, transfer in zip(routes, transfers, strict=True)
        )


@lru_cache(maxsize=4096)
def place_in_order(shape: ReplicaShape) -> tuple[bool, int, str]:
    """Sort key of replicas in a deployment: prefill first, then the largest."""
    is_prefill = shape.phase is Phase.PREFILL
    return (not is_prefill, -shape.parallelism.num_gpus, repr(shape))


def stage_types(topology: Topology, stage_gpus: StageGpus) -> tuple[GpuType, ...]:
    """GPU type of each stage of a replica."""
    return tuple(topology.gpu(gpus[0]).type for gpus in stage_gpus)


def replica_memory(
    problem: Problem,
    parallelism: Parallelism,
    gpus: Sequence[GpuType],
    limits: BatchLimits,
) -> MemoryBreakdown:
    """Memory of a replica: a budget that cuts prompts bounds its activations too.

    `gpus` has the type of each stage.
    """
    settings = problem.engine.memory
    if limits.policy.cuts_prompts:
        most = min(settings.max_batch_tokens, limits.max_batch_tokens)
        settings = replace(settings, max_batch_tokens=most)
    return memory_of(problem.service.llm, parallelism, gpus, settings)


def kv_routes(problem: Problem, deployment: Deployment) -> tuple[Route, ...]:
    """A route wherever a KV cache may have to go, GPU to GPU in parallel."""
    pairs = deployment.kv_pairs()
    return tuple(_route(problem, source, target) for source, target in pairs)


def _route(problem: Problem, source: Replica, target: Replica) -> Route:
    transfer = kv_transfer(problem, source, target)
    return Route(
        source=source.name,
        target=target.name,
        bytes_per_s=transfer.bytes_per_s,
        latency_ms=transfer.latency_ms,
        kind=str(transfer.kind),
        edges=transfer.edges,
    )


def deciding_edges(
    per_byte_s: Mapping[int, float], transfers: Sequence[Transfer]
) -> set[int]:
    """Edges that can delay a transfer: of those loaded alike, only the slowest.

    Two edges that carry the same share of the same routes are busy together, and the
    slower one is busy for longer; edges of one route only never decide, since the
    route's own rate does, unless transfers of that route follow each other.
    """
    used: dict[tuple[tuple[int, float], ...], int] = {}
    by_edge: dict[int, list[tuple[int, float]]] = {}
    for route, transfer in enumerate(transfers):
        for edge, share in zip(transfer.edges, transfer.shares, strict=True):
            by_edge.setdefault(edge, []).append((route, round(share, 9)))
    for edge, users in sorted(by_edge.items()):
        key = tuple(users)
        best = used.get(key)
        if best is None or per_byte_s[edge] > per_byte_s[best]:
            used[key] = edge
    return set(used.values())
