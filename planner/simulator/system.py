"""What the simulator simulates: replicas with their step tables, limits and routes."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from clusters.fields import InputError, check_fields, spec
from models.latency.step_table import StepTable
from planner.simulator.batch_limits import Batching, BatchLimits
from planner.simulator.control import RouterSettings
from planner.simulator.prefix_settings import EarlyRejection, PrefixCache
from planner.simulator.transfer_settings import KvTransfer, TransferMode

__all__ = [
    "BatchLimits",
    "Batching",
    "EdgeShare",
    "KvRoute",
    "Phase",
    "Routing",
    "ServingReplica",
    "ServingSystem",
    "kv_phases",
]


class Phase(StrEnum):
    """What a replica does."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"


class Routing(StrEnum):
    """How requests are spread over the replicas of a phase.

    `SHORTEST_QUEUE` takes the one with the fewest prompt tokens in the system,
    `PENDING_TOKENS` the one with the fewest that are not prefilled yet.
    `POWER_OF_TWO` takes the one with less work of two drawn at random. `TETRIINFER`
    sends arrivals to the shortest queue, and prefilled requests to one of two decode
    replicas by their mix of long and short outputs. `SPLITWISE` chooses both replicas
    at the arrival, and lends those of one phase to the other when it has too few. The
    last two are `SHORTEST_QUEUE` where replicas are not of both phases. `CACHE_AWARE`
    sends arrivals where the expected TTFT is least, prefilled requests by work.
    `FLOW_SHARES` gives every replica and KV route its planned share of the requests,
    and is `SHORTEST_QUEUE` where no route has a share.
    """

    ROUND_ROBIN = "round_robin"
    SHORTEST_QUEUE = "shortest_queue"
    PENDING_TOKENS = "pending_tokens"
    RANDOM = "random"
    POWER_OF_TWO = "power_of_two"
    TETRIINFER = "tetriinfer"
    SPLITWISE = "splitwise"
    CACHE_AWARE = "cache_aware"
    FLOW_SHARES = "flow_shares"


def kv_phases(routing: Routing) -> tuple[tuple[Phase, Phase], ...]:
    """Phases between which KV caches travel, as (source, target).

    A replica that is lent to the other phase sends to others of its own, or gets from
    them.
    """
    pairs = ((Phase.PREFILL, Phase.DECODE),)
    if routing is not Routing.SPLITWISE:
        return pairs
    return (*pairs, (Phase.PREFILL, Phase.PREFILL), (Phase.DECODE, Phase.DECODE))


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
    prefix_cache: PrefixCache | None = spec(
        "Cache of past prompts, for replicas that prefill.", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.prefix_cache is not None and self.limits.is_batch_padded:
            raise InputError("is_batch_padded", True, "False with a prefix cache")
        if not self.stages:
            raise InputError("stages", self.stages, "at least one pipeline stage")
        is_request_level = self.limits.policy is Batching.REQUEST_LEVEL
        if is_request_level and self.phase is not Phase.AGGREGATED:
            raise InputError(
                "phase", self.phase, "aggregated with the policy request_level"
            )


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
    share_frac: float = spec(
        "Share of all requests that goes over it with the routing flow_shares; only "
        "the proportions matter.",
        unit="1",
        ge=0,
        le=1,
        default=0.0,
    )

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
    switch_routes: tuple[KvRoute, ...] = spec(
        "KV routes of pairs that come about when replicas change their phase.",
        default=(),
    )
    kv_bytes_per_token: float = spec("KV cache of one token.", unit="bytes/token", ge=0)
    routing: Routing = spec("Routing policy.", default=Routing.SHORTEST_QUEUE)
    router: RouterSettings = spec(
        "What the routing policy goes by.", default_factory=RouterSettings
    )
    kv_transfer: KvTransfer = spec(
        "How KV caches are sent.", default_factory=KvTransfer
    )
    num_layers: int = spec(
        "Layers that a layer-wise transfer sends one by one.",
        unit="1",
        ge=1,
        default=1,
    )
    early_rejection: EarlyRejection | None = spec(
        "Refusal of requests that are bound to miss their limits.", default=None
    )

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
        is_serialized = self.kv_transfer.mode is TransferMode.SERIALIZED
        if self.routing is Routing.SPLITWISE and self.is_split and not is_serialized:
            raise InputError(
                "kv_transfer.mode", self.kv_transfer.mode, "serialized (splitwise)"
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
        phases = [replica.phase for replica in self.replicas]
        kinds = kv_phases(self.routing)
        pairs = {
            (source, target)
            for source, target in product(range(len(phases)), repeat=2)
            if source != target and (phases[source], phases[target]) in kinds
        }
        known: set[tuple[int, int]] = set()
        for index, route in enumerate(self.routes):
            pair = (route.source, route.target)
            if pair not in pairs or pair in known:
                raise InputError(
                    f"routes[{index}]",
                    f"{route.source}->{route.target}",
                    "one route from a prefill to a decode replica, each pair once"
                    + (", or within a phase" if len(kinds) > 1 else ""),
                )
            known.add(pair)
        for source, target in sorted(pairs - known):
            if self.replicas[source].slice == self.replicas[target].slice:
                raise InputError(
                    "routes", f"{source}->{target} missing", "a KV route a pair"
                )

        for index, route in enumerate(self.switch_routes):
            pair = (route.source, route.target)
            last = len(self.replicas) - 1
            if pair in pairs or pair in known or max(pair) > last or len({*pair}) == 1:
                raise InputError(
                    f"switch_routes[{index}]",
                    f"{route.source}->{route.target}",
                    f"two replicas of 0 to {last} without a KV route, each pair once",
                )
            known.add(pair)

    def indices(self, phase: Phase) -> tuple[int, ...]:
        """Indices of the replicas of exactly this phase."""
        return tuple(i for i, r in enumerate(self.replicas) if r.phase is phase)

    def replica_shares(self) -> tuple[float, ...] | None:
        """Planned share of each replica in the requests of its phase.

        None where the routing does not go by shares, or no route has one.
        """
        if self.routing is not Routing.FLOW_SHARES:
            return None
        shares = [0.0] * len(self.replicas)
        for route in self.routes:
            if self.has_share(route):
                shares[route.source] += route.share_frac
                shares[route.target] += route.share_frac
        total = 0.5 * sum(shares)
        return tuple(share / total for share in shares) if total > 0 else None

    def has_share(self, route: KvRoute) -> bool:
        """Whether requests are to go over a route: those of other slices cannot."""
        ends = self.replicas[route.source], self.replicas[route.target]
        return route.share_frac > 0 and ends[0].slice == ends[1].slice

    @property
    def is_split(self) -> bool:
        """Whether there are replicas of both phases."""
        return bool(self.indices(Phase.PREFILL) and self.indices(Phase.DECODE))
