"""Place flow: how well replicas lie for their KV caches, told without a simulation.

Reference
    Ahuja, Magnanti and Orlin, "Network Flows", 1993, chapter 17 (links that several
    flows share).

Idea
    Routers share requests out by work, not by links: each prefill replica gets them in
    proportion to its rate, and passes them on to the decode replicas of its slice in
    proportion to theirs. So what a place serves is told by sums. Where a link is the
    first to be full, other GPUs for the same replicas may serve more.

Steps
    1. The rate of each replica in its place that no schedule of it exceeds.
    2. The share of the requests on each route, and of their bytes on each link.
    3. The highest rate at which no replica and no link has more than it can do: none
       where KV caches alone take so long that the SLO is missed. The mean time of a KV
       cache on its way tells places of equal rates apart.

Differences from the reference
    - the flow follows the router, where a maximum flow would avoid slow links

Assumes   one service; of aggregated replicas only the rates are added up
Cost      two numbers a link that is crossed; pairs of places are remembered
Guarantee exact for those rates and shares; the simulator knows queues and limits too
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S
from models.latency.library import LatencyUnavailableError
from models.memory import kv_bytes
from models.parallelism import Parallelism
from planner.capacity import UNLIMITED_RPS, replica_capacity_rps
from planner.deployment import ReplicaShape
from planner.kv_shards import kv_transfer
from planner.placement import StageGpus
from planner.problem import Problem
from planner.simulator.system import Phase
from planner.simulator.transfer_settings import TransferMode
from planner.workload.requests import Requests

if TYPE_CHECKING:
    from planner.serving import Planner

_SAMPLE_REQUESTS = 200
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PlaceFlow:
    """What replicas serve in a place; the larger, the better."""

    rate_rps: float = spec(
        "Highest rate of the router's shares; 0: KV caches come too late.",
        unit="requests/s",
        ge=0,
    )
    in_time_frac: float = spec(
        "Most requests whose KV cache alone leaves time for their limits.",
        unit="1",
        ge=0,
        le=1,
    )
    replicas_rps: float = spec(
        "Of all replicas of both phases, added up.", unit="requests/s", ge=0
    )
    minus_transfer_s: float = spec("Mean time of a KV cache, negated.", unit="s", le=0)
    link_rps: float = spec(
        "Rate at which the first link is full.", unit="requests/s", ge=0
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Seat:
    """A replica in its place, as far as KV transfers ask."""

    parallelism: Parallelism = spec("How the model is split.")
    stage_gpus: StageGpus = spec("GPUs of each stage.")

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """All its GPUs, stage by stage."""
        return tuple(gpu for stage in self.stage_gpus for gpu in stage)


@dataclass(frozen=True, slots=True)
class _Way:
    """Links of a transfer, and the seconds that a request keeps each of them busy."""

    edges: tuple[int, ...] = spec("Links it crosses (indices in the topology).")
    busy_s: tuple[float, ...] = spec("Of each of them, by a request.", unit="s")
    transfer_s: float = spec("Time of a KV cache.", unit="s")
    in_time_frac: float = spec("Requests it can be in time for.", unit="1")


@dataclass(slots=True)
class _Loads:
    """Rates that replicas cannot exceed, and what a request takes of the links."""

    most_rps: list[float]
    busy_s: dict[int, float] = field(default_factory=dict)
    transfer_s: float = 0.0
    in_time_frac: float = 1.0


@dataclass(slots=True)
class PlaceFlows:
    """Flows of places in one problem; rates and ways are worked out once."""

    planner: "Planner"
    _sample: Requests = field(init=False)
    _bytes: float = field(init=False)
    _rates: dict[tuple[ReplicaShape, object], float] = field(default_factory=dict)
    _seen: dict[tuple[ReplicaShape, StageGpus], float] = field(default_factory=dict)
    _ways: dict[tuple[Parallelism, StageGpus, Parallelism, StageGpus], _Way] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        service = self.planner.problem.service
        self._sample = sample_of(self.planner.problem)
        self._bytes = kv_bytes(service.llm, service.workload.mean_input_tokens)

    def flow(
        self,
        shapes: Sequence[ReplicaShape],
        placed: Sequence[StageGpus],
        slices: Sequence[int] | None = None,
    ) -> PlaceFlow | None:
        """The flow of replicas in a place; None where they do not run there.

        `slices` has the slice of every replica, by default one for all.
        """
        parts = slices or [0] * len(shapes)
        try:
            # 1. Rates.
            rates = self.rates_rps(shapes, placed)
            loads = self._loads(shapes, placed, parts, rates)
        except (InputError, LatencyUnavailableError):
            return None
        # 3. What is full first, and what is late.
        link_rps = 1.0 / max(loads.busy_s.values(), default=1.0 / UNLIMITED_RPS)
        most = [link_rps, *loads.most_rps]
        wanted = self.planner.problem.service.slo.attainment_frac
        is_late = loads.in_time_frac < wanted - _ROUNDING
        return PlaceFlow(
            rate_rps=0.0 if is_late else _rounded(min(most), 3),
            in_time_frac=min(1.0, _rounded(loads.in_time_frac, 3)),
            replicas_rps=_rounded(sum(rates), 4),
            minus_transfer_s=-_rounded(loads.transfer_s, 2),
            link_rps=_rounded(link_rps, 2),
        )

    def rates_rps(
        self, shapes: Sequence[ReplicaShape], placed: Sequence[StageGpus]
    ) -> list[float]:
        """Rate of each replica in its place that no schedule of it exceeds.

        Raises
        ------
        InputError, LatencyUnavailableError
            When no way joins its GPUs, or no source covers it there.
        """
        return [self._rate(*each) for each in zip(shapes, placed, strict=True)]

    def _loads(
        self,
        shapes: Sequence[ReplicaShape],
        placed: Sequence[StageGpus],
        parts: Sequence[int],
        rates: Sequence[float],
    ) -> "_Loads":
        """What the router's shares are on the links; step 2."""
        of_phase: dict[Phase, list[int]] = {phase: [] for phase in Phase}
        for index, shape in enumerate(shapes):
            of_phase[shape.phase].append(index)
        first = [*of_phase[Phase.PREFILL], *of_phase[Phase.AGGREGATED]]
        prefill_rps = sum(rates[i] for i in first)
        loads = _Loads(most_rps=[prefill_rps])
        if not of_phase[Phase.PREFILL] or prefill_rps <= 0:
            return loads
        decode_rps: dict[int, float] = {}
        for j in of_phase[Phase.DECODE]:
            decode_rps[parts[j]] = decode_rps.get(parts[j], 0.0) + rates[j]
        came: dict[int, float] = {}
        late = 0.0
        for i in of_phase[Phase.PREFILL]:
            share = rates[i] / prefill_rps
            came[parts[i]] = came.get(parts[i], 0.0) + share
            for j in of_phase[Phase.DECODE]:
                if parts[i] != parts[j] or not rates[j]:
                    continue
                way = self._way((shapes[i], placed[i]), (shapes[j], placed[j]))
                frac = share * rates[j] / decode_rps[parts[j]]
                loads.transfer_s += frac * way.transfer_s
                late += frac * (1.0 - way.in_time_frac)
                for edge, each_s in zip(way.edges, way.busy_s, strict=True):
                    loads.busy_s[edge] = loads.busy_s.get(edge, 0.0) + frac * each_s
        loads.in_time_frac = 1.0 - late
        loads.most_rps += [
            decode_rps.get(part, 0.0) / share for part, share in came.items() if share
        ]
        return loads

    def _rate(self, shape: ReplicaShape, stages: StageGpus) -> float:
        """Rate that no schedule of a replica there exceeds."""
        if (shape, stages) not in self._seen:
            topology = self.planner.problem.cluster.topology
            key = (shape, topology.group_links(stages))
            if key not in self._rates:
                alone = self.planner.deploy_at([shape], [stages])
                self._rates[key] = replica_capacity_rps(
                    self.planner.system(alone).replicas[0],
                    self._sample,
                    self.planner.problem.service.slo,
                )
            self._seen[shape, stages] = self._rates[key]
        return self._seen[shape, stages]

    def _way(
        self,
        source: tuple[ReplicaShape, StageGpus],
        target: tuple[ReplicaShape, StageGpus],
    ) -> "_Way":
        key = (source[0].parallelism, source[1], target[0].parallelism, target[1])
        if key not in self._ways:
            problem = self.planner.problem
            edges = problem.cluster.topology.edges
            transfer = kv_transfer(problem, Seat(*key[:2]), Seat(*key[2:]))
            sent = self._bytes / problem.engine.kv_link_efficiency_frac
            self._ways[key] = _Way(
                edges=transfer.edges,
                busy_s=tuple(
                    share * sent / edges[edge].bytes_per_s
                    for edge, share in zip(transfer.edges, transfer.shares, strict=True)
                ),
                transfer_s=sent / transfer.bytes_per_s + transfer.latency_ms / MS_PER_S,
                in_time_frac=in_time_frac(
                    problem, self._sample, MS_PER_S * sent / transfer.bytes_per_s
                ),
            )
        return self._ways[key]


def sample_of(problem: Problem) -> Requests:
    """Some requests of the service's workload."""
    return problem.service.workload.draw(_SAMPLE_REQUESTS, seed=0, rate_rps=1.0)


def in_time_frac(problem: Problem, requests: Requests, transfer_ms: float) -> float:
    """Requests whose cache, with no other under way, leaves time for the limits.

    `transfer_ms` is that of the mean prompt. Caches that go while a prompt is
    prefilled are taken to be in time.
    """
    engine, slo = problem.engine, problem.service.slo
    if engine.kv_transfer.mode is not TransferMode.SERIALIZED:
        return 1.0
    tokens = requests.input_tokens
    each_ms = transfer_ms * tokens / max(1.0, float(tokens.mean()))
    after = np.maximum(requests.output_tokens - 1, 0)
    is_late = np.zeros(len(tokens), dtype=np.bool_)
    if slo.tpot_ms is not None:
        is_late |= each_ms > slo.tpot_ms * after
    if slo.e2e_ms is not None:
        is_late |= each_ms > slo.e2e_ms
    return 1.0 - float((is_late & (after > 0)).mean())


def _rounded(value: float, num_digits: int) -> float:
    """Few digits: what is nearly equal leaves the place as the rules have it."""
    return float(f"{min(value, UNLIMITED_RPS):.{num_digits}g}")
