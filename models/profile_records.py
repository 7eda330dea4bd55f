"""Records of a profiler: the environment, the point, and the time it took.

Units are in the keys. `models.profile_table` reads and writes files of them.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Literal

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import to_mapping
from models.llm import LlmSpec


class Status(StrEnum):
    """How the measurement of a point ended."""

    OK = "ok"
    OOM = "oom"
    UNSTABLE = "unstable"
    NOT_MEASURED = "not_measured"


class Role(StrEnum):
    """What a point is for: to be fitted, to hold the fit to, or to be looked at."""

    FIT = "fit"
    HOLDOUT = "holdout"
    PROBE = "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a measurement depends on beside the point itself."""

    device: str = spec("cuda, cpu, endpoint or synthetic.")
    device_name: str = spec("As the driver says it, e.g. NVIDIA H200.")
    gpu: str = spec("GPU type in the catalogue, or one of your own.")
    memory_bytes: int = spec("Memory of the device.", unit="bytes", ge=0, default=0)
    num_sms: int = spec("Streaming multiprocessors.", unit="1", ge=0, default=0)
    driver: str = spec("Driver version.", default="")
    cuda: str = spec("CUDA version.", default="")
    torch: str = spec("torch version.", default="")
    engine: str = spec("What ran the steps: torch, vllm, ...", default="torch")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """State of the device right after a measurement; None: not readable."""

    sm_clock_mhz: float | None = spec("SM clock.", unit="MHz", ge=0, default=None)
    memory_clock_mhz: float | None = spec(
        "Memory clock.", unit="MHz", ge=0, default=None
    )
    power_w: float | None = spec("Board power.", unit="W", ge=0, default=None)
    temperature_c: float | None = spec("GPU temperature.", unit="C", default=None)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median with how far it can be trusted."""

    ms: float = spec("Median.", unit="ms", gt=0)
    p10_ms: float = spec("10th percentile.", unit="ms", gt=0)
    p90_ms: float = spec("90th percentile.", unit="ms", gt=0)
    ci_frac: float = spec(
        "Half width of the median's 95 % confidence interval.", unit="1", ge=0
    )
    num_samples: int = spec("Samples.", unit="samples", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """The work of one step: prompts to prefill, requests to decode, or both."""

    new_tokens: tuple[int, ...] = spec("New tokens of each prompt.", default=())
    past_tokens: tuple[int, ...] = spec(
        "Tokens of each prompt already cached; empty: none.", default=()
    )
    num_decodes: int = spec("Requests that decode.", unit="requests", ge=0, default=0)
    kv_tokens: float = spec(
        "Tokens the decodes attend to in all, the new ones included.",
        unit="tokens",
        ge=0,
        default=0.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.new_tokens and not self.num_decodes:
            raise InputError("new_tokens", self.new_tokens, "a prompt, or num_decodes")
        if self.past_tokens and len(self.past_tokens) != len(self.new_tokens):
            num = len(self.new_tokens)
            raise InputError("past_tokens", self.past_tokens, f"{num} entries or none")
        if any(n < 1 for n in self.new_tokens) or any(n < 0 for n in self.past_tokens):
            raise InputError("new_tokens", self.new_tokens, "numbers >= 1, pasts >= 0")

    @property
    def phase(self) -> str:
        """``prefill``, ``decode`` or ``mixed``."""
        if self.new_tokens and self.num_decodes:
            return "mixed"
        return "prefill" if self.new_tokens else "decode"

    @property
    def prompt_tokens(self) -> int:
        """New prompt tokens in all."""
        return sum(self.new_tokens)

    @property
    def squares(self) -> float:
        """Sum of L^2 + 2 L past over the prompts, as `StepTable` counts attention."""
        pasts = self.past_tokens or (0,) * len(self.new_tokens)
        pairs = zip(self.new_tokens, pasts, strict=True)
        return float(sum(n * n + 2 * n * past for n, past in pairs))

    def describe(self) -> str:
        """E.g. ``prefill 2x512 after 0`` or ``decode 8 requests, 8192 KV tokens``."""
        parts = []
        if self.new_tokens:
            lengths = sorted(set(self.new_tokens))
            shown = "+".join(f"{self.new_tokens.count(n)}x{n}" for n in lengths)
            past = max(self.past_tokens, default=0)
            parts.append(f"prefill {shown}" + (f" after {past}" if past else ""))
        if self.num_decodes:
            kv = f"{self.kv_tokens:g} KV tokens"
            parts.append(f"decode {self.num_decodes} requests, {kv}")
        return " with ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step of one part of a model, measured or why not."""

    kind: Literal["step"] = spec("Tag.", default="step")
    version: Literal["phaseplan/record/v1"] = spec(
        "Format.", default="phaseplan/record/v1"
    )
    environment: Environment = spec("Where it was measured.")
    llm: LlmSpec = spec("The model.")
    tp: int = spec("Tensor parallelism; the record is of one shard.", unit="GPUs", ge=1)
    part: str = spec("A layer kind (dense, moe, ...), ends, or whole.")
    dtype: str = spec("Number format of the activations.")
    backend: str = spec("Kernels: attention, capture, fusion.", default="")
    sm_share_frac: float = spec(
        "Share of the SMs it ran on.", unit="1", gt=0, le=1, default=1.0
    )
    point: StepPoint = spec("The step.")
    role: Role = spec("What the point is for.", default=Role.FIT)
    status: Status = spec("How it ended.")
    note: str = spec("Why there is no number, or what is odd about it.", default="")
    step: Spread | None = spec("Time of the part (of one layer).", default=None)
    fixed_ms: float | None = spec(
        "Time that does not grow with the layers.", unit="ms", default=None
    )
    num_layers: int = spec("Layers that were run.", unit="layers", ge=1, default=1)
    conditions: Conditions = spec("Device state.", default=Conditions())

    def __post_init__(self) -> None:
        check_fields(self)
        has_number = self.status in (Status.OK, Status.UNSTABLE)
        if has_number != (self.step is not None):
            raise InputError("step", self.step, f"what status {self.status} goes with")

    @property
    def key(self) -> str:
        """What makes it this point and no other, as text."""
        return self.key_on(self.sm_share_frac)

    def key_on(self, sm_share_frac: float) -> str:
        """The key of the same point on another share of the SMs."""
        identity = (self.llm, self.tp, self.part, self.dtype)
        return record_key(identity, self.point, sm_share_frac)


def record_key(
    identity: tuple[LlmSpec, int, str, str], point: StepPoint, sm_share_frac: float
) -> str:
    """What makes a step record this point and no other, as text.

    `identity` is the model, its tensor parallelism, the part and the dtype.
    """
    rest = json.dumps(to_mapping((point, sm_share_frac)), sort_keys=True)
    return _identity_text(identity) + rest


@cache
def _identity_text(identity: tuple[LlmSpec, int, str, str]) -> str:
    """The same for every point of a subject, and most of the work."""
    return json.dumps(to_mapping(identity), sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRecord:
    """A ceiling of the device: the best rate a plain kernel reaches."""

    kind: Literal["rate"] = spec("Tag.", default="rate")
    version: Literal["phaseplan/record/v1"] = spec(
        "Format.", default="phaseplan/record/v1"
    )
    environment: Environment = spec("Where it was measured.")
    name: str = spec("copy, matmul_bf16, ...")
    per_s: float = spec("Bytes (read and written) or FLOP a second.", unit="1/s", gt=0)
    rate_unit: str = spec("bytes/s or FLOP/s.")
    size: str = spec("What was moved or multiplied.")
    spread: Spread = spec("Time of one run.")
    conditions: Conditions = spec("Device state.", default=Conditions())

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRecord:
    """One collective operation of a process group."""

    kind: Literal["collective"] = spec("Tag.", default="collective")
    version: Literal["phaseplan/record/v1"] = spec(
        "Format.", default="phaseplan/record/v1"
    )
    environment: Environment = spec("Where it was measured.")
    operation: str = spec("all_reduce, all_gather, ...")
    library: str = spec("nccl or gloo.")
    num_ranks: int = spec("Processes of the group.", unit="processes", ge=2)
    num_nodes: int = spec("Hosts of the group.", unit="nodes", ge=1, default=1)
    message_bytes: int = spec("Buffer of each process.", unit="bytes", ge=1)
    spread: Spread = spec("Time of one call, of the slowest process.")
    bus_bytes_per_s: float = spec(
        "Bytes a link carries per second (as nccl-tests count).", unit="bytes/s", ge=0
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRecord:
    """Messages between two hosts, there and back, all pairs of processes at once."""

    kind: Literal["link"] = spec("Tag.", default="link")
    version: Literal["phaseplan/record/v1"] = spec(
        "Format.", default="phaseplan/record/v1"
    )
    environment: Environment = spec("Where it was measured.")
    library: str = spec("nccl or gloo.")
    hosts: tuple[str, str] = spec("Names of the two.")
    num_pairs: int = spec("Pairs of processes that send.", unit="pairs", ge=1)
    message_bytes: int = spec("Message of each pair.", unit="bytes", ge=1)
    spread: Spread = spec("Half the time of there and back, of the slowest pair.")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hosts[0] == self.hosts[1]:
            raise InputError("hosts", list(self.hosts), "two different hosts")

    @property
    def total_bytes(self) -> int:
        """Bytes of all pairs in one direction."""
        return self.num_pairs * self.message_bytes


Record = StepRecord | RateRecord | CollectiveRecord | LinkRecord
