"""Requests and replicas of the reference simulator: plain lists, sets and dicts."""

import math
from dataclasses import dataclass, field

from planner.simulator.system import Batching, Phase, ServingReplica

CHUNKED = (Batching.CHUNKED, Batching.PREFILL_FIRST_CHUNKED, Batching.ORCA)
"""Policies of `reference_chunks`."""

DECODE_END, PREFILL_END, TRANSFER_END, OUTSIDE, SERVES = 0, 1, 2, 3, 4
"""Order of events at one time."""

WATERMARK_FRAC = 0.01
"""Share of the KV blocks that admission leaves free."""


@dataclass(eq=False)
class Job:
    """A request and its times."""

    arrival: float
    input: int
    output: int
    done: int = 0
    streamed: int = 0
    padding: int = 0
    cached: int = 0
    admission: int = -1
    prefill_start: float = math.nan
    first_token: float = math.nan
    transfer_start: float = math.nan
    decode_ready: float = math.nan
    finish: float = math.nan
    source: "ReplicaState | None" = None
    target: "ReplicaState | None" = None
    link: float = math.nan
    begun: float = math.nan
    is_rejected: bool = False
    # What the routers know of it and have decided, and whether it has left for another.
    expected: int = 0
    dice: int = 0
    is_heavy: bool = False
    prefiller: "ReplicaState | None" = None
    target: "ReplicaState | None" = None
    has_left: bool = False
    is_decoding: bool = False
    token_times: list[float] = field(default_factory=list)

    @property
    def context(self) -> int:
        return self.input + self.done

    @property
    def uncached(self) -> int:
        """Tokens of the context that a prefix cache does not save."""
        return self.context - self.cached

    @property
    def is_over(self) -> bool:
        return self.is_rejected or not math.isnan(self.finish)


@dataclass(eq=False)
class ReplicaState:
    """A replica: who waits, who holds how many blocks, what its stages do."""

    index: int
    given: ServingReplica
    prompts: list[Job] = field(default_factory=list)
    pulls: list[Job] = field(default_factory=list)
    joins: list[Job] = field(default_factory=list)
    idle: list[list[Job]] = field(default_factory=list)
    held: dict[Job, int] = field(default_factory=dict)
    resident: set[Job] = field(default_factory=set)
    in_system: set[Job] = field(default_factory=set)
    num_flying: int = 0
    num_mixed_steps: int = 0
    num_mixed_tokens: int = 0

    def __post_init__(self) -> None:
        self.busy = [False for _ in self.given.stages]
        places = self.given.limits.max_num_seqs
        is_whole = self.given.limits.policy is Batching.REQUEST_LEVEL
        self.max_micro_batch = math.ceil(places / len(self.busy))
        if is_whole or self.given.phase is Phase.PREFILL:
            self.max_micro_batch = places
        self.batches: list[list[list[Job]]] = [[] for _ in self.given.stages]
        self.groups: list[list[list[Job]]] = [[] for _ in self.given.stages]
        self.capacity = self.given.kv_capacity_tokens // self.given.kv_block_tokens
        self.watermark = int(self.capacity * WATERMARK_FRAC)
        self.decodes = self.given.phase is not Phase.PREFILL
        limits = self.given.limits
        self.is_chunked = limits.policy in CHUNKED
        self.is_request_level = limits.policy is Batching.REQUEST_LEVEL
        self.is_padded = limits.is_batch_padded
        self.num_sorted = 0
        self.reserves = limits.is_output_reserved or limits.policy in (
            Batching.ORCA,
            Batching.REQUEST_LEVEL,
        )
        self.ended: list[Job] = []
        # Chunked: steps under way, those between two stages, and the cached tokens of
        # every prompt whose last chunk has not ended.
        self.steps: list = []
        self.waiting: list[list] = [[] for _ in self.given.stages]
        self.begun: dict[Job, int] = {}
        self.cap = self.given.limits.max_step_context_tokens

    def blocks(self, tokens: int) -> int:
        return math.ceil(tokens / self.given.kv_block_tokens)

    def keeps(self, job: Job) -> bool:
        """Whether a request that is here decodes here."""
        return self.decodes if job.target is None else job.target is self

    def blocks_for(self, job: Job, tokens: int) -> int:
        """Blocks of a context, or of the whole of a request where they are reserved."""
        if self.reserves and self.keeps(job):
            known = self.given.limits.reserved_output_tokens or 0
            tokens = job.input + max(known - job.streamed, job.output)
        return self.blocks(tokens)

    @property
    def free(self) -> int:
        free = self.capacity - sum(self.held.values())
        assert free >= 0, "more blocks than the replica has"
        return free

    def can_admit(self, blocks: int) -> bool:
        if self.free == self.capacity:
            return blocks <= self.capacity
        return blocks + self.watermark <= self.free

    def has_place(self) -> bool:
        return len(self.resident) < self.given.limits.max_num_seqs

    def work(self) -> float:
        """Prompt tokens in the system, weighted by how long this replica takes."""
        return sum(job.input for job in self.in_system) * self.weight

    @property
    def weight(self) -> float:
        """Time this replica takes for a token."""
        if self.given.phase is Phase.DECODE:
            # In a full batch of contexts of 1024 tokens.
            full = self.given.kv_capacity_tokens // 1024
            batch = max(1, min(full, self.given.limits.max_num_seqs))
            times = [t.decode_step_ms(batch, batch * 1024.0) for t in self.given.stages]
            return max(*times, 1e-9) / batch
        most = self.given.limits.max_batch_tokens
        slowest = max(t.prefill_step_ms([most]) for t in self.given.stages)
        return max(slowest, 1e-9) / most
