"""Requests and replicas of the reference simulator: plain lists, sets and dicts."""

import math
from dataclasses import dataclass, field

from planner.simulator.system import Phase, ServingReplica

WATERMARK_FRAC = 0.01
"""Share of the KV blocks that admission leaves free."""


@dataclass(eq=False)
class Job:
    """A request and its times."""

    arrival: float
    input: int
    output: int
    done: int = 0
    admission: int = -1
    prefill_start: float = math.nan
    first_token: float = math.nan
    transfer_start: float = math.nan
    decode_ready: float = math.nan
    finish: float = math.nan
    source: "ReplicaState | None" = None
    is_rejected: bool = False

    @property
    def context(self) -> int:
        return self.input + self.done


@dataclass(eq=False)
class ReplicaState:
    """A replica: who waits, who holds how many blocks, what its stages do."""

    index: int
    given: ServingReplica
    prompts: list[Job] = field(default_factory=list)
    pulls: list[Job] = field(default_factory=list)
    joins: list[Job] = field(default_factory=list)
    idle: list[Job] | None = None
    held: dict[Job, int] = field(default_factory=dict)
    resident: set[Job] = field(default_factory=set)
    in_system: set[Job] = field(default_factory=set)
    num_flying: int = 0

    def __post_init__(self) -> None:
        self.busy = [False for _ in self.given.stages]
        self.batches: list[list[list[Job]]] = [[] for _ in self.given.stages]
        self.groups: list[list[list[Job]]] = [[] for _ in self.given.stages]
        self.capacity = self.given.kv_capacity_tokens // self.given.kv_block_tokens
        self.watermark = int(self.capacity * WATERMARK_FRAC)
        self.decodes = self.given.phase is not Phase.PREFILL
        self.cap = self.given.limits.max_step_context_tokens

    def blocks(self, tokens: int) -> int:
        return math.ceil(tokens / self.given.kv_block_tokens)

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
        tokens = sum(job.input for job in self.in_system)
        if self.given.phase is Phase.DECODE:
            return tokens * (1.0 / self.given.kv_capacity_tokens)
        most = self.given.limits.max_batch_tokens
        slowest = max(t.prefill_step_ms([most]) for t in self.given.stages)
        return tokens * (max(slowest, 1e-9) / most)
