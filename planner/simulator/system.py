"""What the simulator simulates: replicas with their step tables, limits and routes."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from clusters.fields import InputError, check_fields, spec
from models.latency.step_table import StepTable
from planner.simulator.control import DecodeAdmission, PromptOrder, RouterSettings
from planner.simulator.prefix_settings import EarlyRejection, PrefixCache
from planner.simulator.transfer_settings import KvTransfer, TransferMode


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
    """

    ROUND_ROBIN = "round_robin"
    SHORTEST_QUEUE = "shortest_queue"
    PENDING_TOKENS = "pending_tokens"
    RANDOM = "random"
    POWER_OF_TWO = "power_of_two"
    TETRIINFER = "tetriinfer"
    SPLITWISE = "splitwise"
    CACHE_AWARE = "cache_aware"


def kv_phases(routing: Routing) -> tuple[tuple[Phase, Phase], ...]:
    """Phases between which KV caches travel, as (source, target).

    A replica that is lent to the other phase sends to others of its own, or gets from
    them.
    """
    pairs = ((Phase.PREFILL, Phase.DECODE),)
    if routing is not Routing.SPLITWISE:
        return pairs
    return (*pairs, (Phase.PREFILL, Phase.PREFILL), (Phase.DECODE, Phase.DECODE))


class Batching(StrEnum):
    """How an engine forms the steps of a replica.

    `PREFILL_FIRST` runs whole prompts in steps of their own whenever there are any
    (vLLM V0); `CHUNKED` lets prompt chunks ride in the steps of the decodes under one
    token budget (Sarathi-Serve, vLLM V1); `PREFILL_FIRST_CHUNKED` cuts prompts to the
    budget too, in steps without decodes (SGLang). `ORCA` puts whole prompts into the
    steps of the decodes, with the KV cache of the whole output reserved;
    `REQUEST_LEVEL` admits a batch when the one before has ended (FasterTransformer).
    """

    PREFILL_FIRST = "prefill_first"
    PREFILL_FIRST_CHUNKED = "prefill_first_chunked"
    CHUNKED = "chunked"
    ORCA = "orca"
    REQUEST_LEVEL = "request_level"

    @property
    def mixes_decodes(self) -> bool:
        """Whether a step may hold prompt tokens and decodes."""
        return self in (Batching.CHUNKED, Batching.ORCA)

    @property
    def cuts_prompts(self) -> bool:
        """Whether a prompt may be prefilled over several steps."""
        return self in (Batching.CHUNKED, Batching.PREFILL_FIRST_CHUNKED)

    @property
    def reserves_output(self) -> bool:
        """Whether it needs the blocks of the whole output from the start."""
        return self in (Batching.ORCA, Batching.REQUEST_LEVEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How a serving engine forms a step, and the limits on one."""

    policy: Batching = spec("Batching policy.", default=Batching.PREFILL_FIRST)
    max_batch_tokens: int = spec(
        "Token budget of a step: its prompt tokens and, where a step holds both, a "
        "token for each decode. A prompt that is not cut may exceed it alone.",
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
    chunk_tile_tokens: int = spec(
        "GPU tile: a step in which the budget cuts a prompt has a multiple of this "
        "many tokens. 1: no rounding.",
        unit="tokens",
        gt=0,
        default=1,
    )
    max_chunk_tokens: int | None = spec(
        "Tokens of one prompt in one chunked step. None: the budget alone.",
        unit="tokens",
        gt=0,
        default=None,
    )
    max_partial_prompts: int | None = spec(
        "Prompts that may be half prefilled at a time. None: any number.",
        unit="requests",
        gt=0,
        default=None,
    )
    max_step_prompts: int | None = spec(
        "Prompts that one step has tokens of. None: as many as max_num_seqs.",
        unit="requests",
        gt=0,
        default=None,
    )
    has_chunks_in_turn: bool = spec(
        "The next chunk of a prompt waits until the one before has left the pipeline "
        "(Sarathi, vLLM V0); else its chunks follow each other through the stages.",
        default=False,
    )
    is_output_reserved: bool = spec(
        "Blocks of the whole output are taken at admission, so nobody is preempted "
        "(TensorRT-LLM's no-evict); orca and request_level always do.",
        default=False,
    )
    reserved_output_tokens: int | None = spec(
        "Output tokens reserved for a request, its max_tokens; a longer output has its "
        "own. None: the true output, as when requests ask for just what they get.",
        unit="tokens",
        gt=0,
        default=None,
    )
    is_batch_padded: bool = spec(
        "Request level: prompts are computed at the length of the longest, ended "
        "requests to the end of the batch.",
        default=False,
    )
    prompt_order: PromptOrder = spec(
        "Order of the waiting prompts of a window.", default=PromptOrder.FCFS
    )
    prompt_window: int = spec(
        "Prompts that are put in order at a time; the next ones follow after the last.",
        unit="requests",
        gt=0,
        default=16,
    )
    decode_admission: DecodeAdmission = spec(
        "When a prefilled request is fetched.", default=DecodeAdmission.GREEDY
    )
    graph_batch_sizes: tuple[int, ...] = spec(
        "Captured decode batches, rising: a step takes the time of the next one (CUDA "
        "graphs). Steps with prompts and larger batches run as they are.",
        unit="requests",
        default=(),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        sizes = self.graph_batch_sizes
        if any(size < 1 for size in sizes) or sorted(set(sizes)) != list(sizes):
            raise InputError("graph_batch_sizes", sizes, "rising numbers >= 1")
        if self.chunk_tile_tokens > self.max_batch_tokens:
            most = f"at most max_batch_tokens ({self.max_batch_tokens})"
            raise InputError("chunk_tile_tokens", self.chunk_tile_tokens, most)
        self._check_policy()

    def _check_policy(self) -> None:
        """Nothing is set that the policy would not read."""
        cuts = self.policy.cuts_prompts
        is_plain = self.policy is Batching.PREFILL_FIRST and not self.reserves_output
        is_request_level = self.policy is Batching.REQUEST_LEVEL
        for name, unused, is_read in (
            ("chunk_tile_tokens", 1, cuts),
            ("max_chunk_tokens", None, cuts),
            ("max_partial_prompts", None, cuts),
            ("has_chunks_in_turn", False, cuts),
            ("reserved_output_tokens", None, self.reserves_output),
            ("is_batch_padded", False, is_request_level),
            ("max_step_context_tokens", None, is_plain),
            ("decode_admission", DecodeAdmission.GREEDY, not self.is_capped),
            ("prompt_window", 16, self.prompt_order is not PromptOrder.FCFS),
        ):
            value = getattr(self, name)
            if value != unused and not is_read:
                raise InputError(
                    name, value, f"{unused} with this policy ({self.policy})"
                )

    @property
    def is_capped(self) -> bool:
        """Whether the context of a decode step has a limit."""
        return self.max_step_context_tokens is not None

    @property
    def reserves_output(self) -> bool:
        """Whether the blocks of the whole output are taken at admission."""
        return self.is_output_reserved or self.policy.reserves_output

    def step_batch(self, num_decodes: int) -> int:
        """The decode batch whose time a step of `num_decodes` takes."""
        for size in self.graph_batch_sizes:
            if size >= num_decodes:
                return size
        return num_decodes


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

    @property
    def is_split(self) -> bool:
        """Whether there are replicas of both phases."""
        return bool(self.indices(Phase.PREFILL) and self.indices(Phase.DECODE))
