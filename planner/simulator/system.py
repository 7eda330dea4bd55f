"""What the simulator simulates: replicas with their step tables, limits and routes."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from clusters.fields import InputError, check_fields, spec
from models.latency.step_table import StepTable


class Phase(StrEnum):
    """What a replica does."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"


class Routing(StrEnum):
    """How requests are spread over the replicas of a phase."""

    ROUND_ROBIN = "round_robin"
    SHORTEST_QUEUE = "shortest_queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Limits of a serving engine on one batch."""

    max_batch_tokens: int = spec(
        "Prompt tokens of one prefill step; a longer prompt runs alone.",
        unit="tokens",
        gt=0,
        default=8192,
    )
    max_num_seqs: int = spec(
        "Requests resident on a decoding replica, and prompts of one prefill step.",
        unit="requests",
        gt=0,
        default=256,
    )
    max_step_context_tokens: int | None = spec(
        "Context tokens of one decode step; requests beyond take turns. None: any.",
        unit="tokens",
        gt=0,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingReplica:
    """One model replica as the simulator sees it."""

    phase: Phase = spec("What it does.")
    stages: tuple[StepTable, ...] = spec("Step latencies, one table a pipeline stage.")
    limits: BatchLimits = spec("Batch limits.", default_factory=BatchLimits)
    kv_capacity_tokens: int = spec(
        "KV cache of the whole replica.", unit="tokens", gt=0
    )
    kv_block_tokens: int = spec(
        "Tokens of one KV block.", unit="tokens", gt=0, default=16
    )
    slice: int = spec(
        "Pairing group: KV caches go only to decode replicas of the same slice.",
        unit="index",
        ge=0,
        default=0,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.stages:
            raise InputError("stages", self.stages, "at least one pipeline stage")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeShare:
    """A link on a KV route, and how long a byte of the transfer occupies it."""

    edge: str = spec("Name of the link; routes that name the same link share it.")
    ms_per_byte: float = spec(
        "Time on this link for each byte of KV.", unit="ms/byte", ge=0
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvRoute:
    """How KV caches travel from one prefill replica to one decode replica."""

    source: int = spec("Index of the prefill replica.", unit="index", ge=0)
    target: int = spec("Index of the decode replica.", unit="index", ge=0)
    latency_ms: float = spec("Fixed time of a transfer.", unit="ms", ge=0)
    ms_per_byte: float = spec("Time for each byte of KV, alone.", unit="ms/byte", ge=0)
    edges: tuple[EdgeShare, ...] = spec("Links shared with other routes.", default=())

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSystem:
    """Replicas of one LLM and the routes between them.

    Prefill replicas need a route to every decode replica of their slice. With decode
    replicas only, requests arrive with their KV cache in place; with prefill replicas
    only, they leave with their first token: that is how one phase is studied alone.
    """

    replicas: tuple[ServingReplica, ...] = spec("Replicas, in order.")
    routes: tuple[KvRoute, ...] = spec("KV routes, one a pair.", default=())
    kv_bytes_per_token: float = spec("KV cache of one token.", unit="bytes/token", ge=0)
    routing: Routing = spec("Routing policy.", default=Routing.SHORTEST_QUEUE)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.replicas:
            raise InputError("replicas", self.replicas, "at least one replica")
        phases = {replica.phase for replica in self.replicas}
        if Phase.AGGREGATED in phases and len(phases) > 1:
            raise InputError(
                "replicas",
                sorted(phases),
                "either 'aggregated' or 'prefill' and 'decode'",
            )
        self._check_slices()
        self._check_routes()

    def _check_slices(self) -> None:
        slices = {self.replicas[i].slice for i in self.indices(Phase.DECODE)}
        for index in self.indices(Phase.PREFILL):
            if slices and self.replicas[index].slice not in slices:
                raise InputError(
                    f"replicas[{index}].slice",
                    self.replicas[index].slice,
                    "a slice with a decode replica",
                )

    def _check_routes(self) -> None:
        """One route at most for each pair, and one for each pair of a slice."""
        pairs = set(product(self.indices(Phase.PREFILL), self.indices(Phase.DECODE)))
        known: set[tuple[int, int]] = set()
        for index, route in enumerate(self.routes):
            pair = (route.source, route.target)
            if pair not in pairs or pair in known:
                raise InputError(
                    f"routes[{index}]",
                    f"{route.source}->{route.target}",
                    "one route from a prefill to a decode replica, each pair once",
                )
            known.add(pair)
        for source, target in sorted(pairs - known):
            if self.replicas[source].slice == self.replicas[target].slice:
                raise InputError(
                    "routes", f"{source}->{target} missing", "a KV route a pair"
                )

    def indices(self, phase: Phase) -> tuple[int, ...]:
        """Indices of the replicas of exactly this phase."""
        return tuple(i for i, r in enumerate(self.replicas) if r.phase is phase)
