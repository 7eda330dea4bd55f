"""Memory of a replica: what fits beside the weights, and how many KV tokens that is.

Per GPU: ``weights + activations + reserves + KV cache <= utilisation * memory``. The
stage with the least room decides for the whole replica, because a token's KV is spread
over all stages. Sizes follow from `models.flops.stage_shapes`.

References
----------
Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", SOSP 2023 (blocks, utilisation). Liu, Abbeel, "Blockwise Parallel
Transformer for Large Context Models", 2023, arXiv 2305.19370 (feed-forward in blocks).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from clusters.fields import check_fields, spec
from clusters.gpu import GpuType
from clusters.units import GB, GIB
from models.flops import stage_shapes
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.shapes import ACTIVATION_BYTES, LayerGroup, StageShapes

_LOGIT_BYTES = 4
"""Engines sample from fp32 logits."""
_UNBOUNDED_BLOCKS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What an engine is told about memory; defaults are those of vLLM where it has one.

    The reserves are round figures for a CUDA context (about 0.5 GiB) with captured
    CUDA graphs (0.5-1 GiB), and for NCCL buffers of a process group.
    """

    utilisation_frac: float = spec(
        "Share of GPU memory the engine may use.", unit="1", gt=0, le=1, default=0.9
    )
    block_tokens: int = spec("Tokens of a KV block.", unit="tokens", ge=1, default=16)
    max_batch_tokens: int = spec(
        "Most tokens of a prefill step (chunk).", unit="tokens", ge=1, default=8192
    )
    max_batch_requests: int = spec(
        "Most requests of a step.", unit="requests", ge=1, default=256
    )
    feed_forward_block_tokens: int | None = spec(
        "Blockwise transformer: tokens whose intermediates live at once; None: all.",
        unit="tokens",
        ge=1,
        default=None,
    )
    mean_context_tokens: int | None = spec(
        "Context at which sliding-window layers are averaged; None: every layer keeps "
        "the whole context (safe for any length).",
        unit="tokens",
        ge=1,
        default=None,
    )
    runtime_reserve_bytes: float = spec(
        "CUDA context and graphs.", unit="bytes", ge=0, default=1.5 * GIB
    )
    communication_reserve_bytes: float = spec(
        "Collective buffers, on replicas of several GPUs.",
        unit="bytes",
        ge=0,
        default=0.5 * GIB,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBreakdown:
    """Memory of one GPU of the stage with the least room for KV tokens."""

    stage: int = spec("The stage that decides.", unit="1", ge=0)
    memory_bytes: float = spec("Memory of the GPU.", unit="bytes", gt=0)
    budget_bytes: float = spec("Of it, what the engine may use.", unit="bytes", gt=0)
    weights_bytes: float = spec("Weights.", unit="bytes", ge=0)
    activation_bytes: float = spec("Peak activations of a step.", unit="bytes", ge=0)
    reserve_bytes: float = spec(
        "Runtime, communication, and the states of linear attention.",
        unit="bytes",
        ge=0,
    )
    kv_bytes_per_token: float = spec("KV of a token here.", unit="bytes/token", ge=0)
    max_kv_tokens: int = spec("KV tokens of the whole replica.", unit="tokens", ge=0)
    num_ranks: int = spec(
        "Ranks of a stage, each with KV tokens of its own.",
        unit="ranks",
        ge=1,
        default=1,
    )
    why_not: str | None = spec("Why it does not fit, None when it does.", default=None)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def fits(self) -> bool:
        """Whether the replica can run at all (room for at least one KV block)."""
        return self.why_not is None

    @property
    def kv_bytes(self) -> float:
        """KV cache of this GPU when full."""
        return self.max_kv_tokens / self.num_ranks * self.kv_bytes_per_token

    @property
    def total_bytes(self) -> float:
        """Everything this GPU holds when its KV cache is full."""
        parts = self.weights_bytes + self.activation_bytes + self.reserve_bytes
        return parts + self.kv_bytes


def memory_of(
    llm: LlmSpec,
    parallelism: Parallelism,
    gpu: GpuType | Sequence[GpuType],
    settings: MemorySettings | None = None,
) -> MemoryBreakdown:
    """Memory of a replica on `gpu`: its tightest stage, and the KV tokens it can hold.

    Stages on unlike GPUs: `gpu` has one for each. Ranks add up: an
    attention-data-parallel rank keeps the KV cache of its own requests, a
    context-parallel rank its part of every request's.

    A parallelism that cannot split `llm` does not fit, with that reason in `why_not`.
    """
    settings = settings or MemorySettings()
    gpus = (gpu,) * parallelism.pp if isinstance(gpu, GpuType) else tuple(gpu)
    impossible = parallelism.why_not(llm)
    if impossible:
        return _impossible(impossible, llm, gpus[0], settings)
    stages = range(parallelism.pp)
    found = [
        memory_of_stage(llm, parallelism, stage, gpus[stage], settings)
        for stage in stages
    ]
    return min(found, key=_room)


def memory_of_stage(
    llm: LlmSpec,
    parallelism: Parallelism,
    stage: int,
    gpu: GpuType,
    settings: MemorySettings,
) -> MemoryBreakdown:
    """Memory of one stage on `gpu`, and the KV tokens that it alone could hold."""
    shapes = stage_shapes(llm, parallelism)[stage]
    return _stage_memory(stage, shapes, parallelism, gpu, settings)


def kv_bytes_per_token(llm: LlmSpec) -> float:
    """KV bytes one more token adds to a long context, over all layers (unreplicated).

    Layers with a sliding window add nothing once the window is full; see `kv_bytes`.
    """
    return sum(
        group.num_layers * attention.kv_bytes_per_token
        for group in _whole(llm).groups
        for attention in group.attentions
        if attention.kept_tokens is None
    )


def kv_bytes(llm: LlmSpec, context_tokens: float) -> float:
    """Bytes kept for one request with `context_tokens`, over all layers (unreplicated).

    That is its KV cache, and the states of linear-attention layers.
    """
    return _kept_bytes(_whole(llm), context_tokens)


def _kept_bytes(stage: StageShapes, context_tokens: float) -> float:
    """KV cache and states that the layers of a stage keep for one request."""
    return stage.state_bytes_per_request + sum(
        group.num_layers
        * attention.kv_bytes_per_token
        * min(context_tokens, attention.kept_tokens or math.inf)
        for group in stage.groups
        for attention in group.attentions
    )


def kv_shares(llm: LlmSpec, context_tokens: float) -> tuple[float, ...]:
    """Share of each layer in `kv_bytes`; they add up to 1."""
    layers = stage_shapes(llm, Parallelism(pp=llm.num_layers))
    held = [_kept_bytes(layer, context_tokens) for layer in layers]
    return tuple(each / sum(held) for each in held)


def activation_bytes(stage: StageShapes, settings: MemorySettings) -> float:
    """Peak activations of a step of `settings.max_batch_tokens` tokens on one GPU.

    Attention never materialises its scores (flash/blockwise attention), so the peak is
    the residual stream plus the widest pair of matrices between two collectives. A
    prompt alone in a step is on one attention-data-parallel rank, and spread evenly
    over context-parallel ranks.
    """
    tokens = -(-settings.max_batch_tokens // stage.ranks.cp)
    in_flight = min(tokens, settings.feed_forward_block_tokens or tokens)
    widest = max(_peak_row(group) for group in stage.groups)
    rows = tokens * stage.hidden + in_flight * (stage.hidden + widest)
    logits = 0.0
    if stage.head is not None:  # gathered over the tensor-parallel group
        requests = stage.ranks.decoded(settings.max_batch_requests)
        logits = requests * stage.head.n * stage.tp * _LOGIT_BYTES
    travelling = _exchanged_bytes(stage, settings) + _ring_bytes(stage, tokens)
    return ACTIVATION_BYTES * rows + logits + travelling


def _exchanged_bytes(stage: StageShapes, settings: MemorySettings) -> float:
    """Rows of all ranks on their way to the experts, and their sums on the way back."""
    if not stage.exchanges:
        return 0.0
    tokens = settings.max_batch_tokens
    if settings.feed_forward_block_tokens is not None:
        tokens = min(tokens, settings.feed_forward_block_tokens * stage.ranks.count)
    return 2.0 * stage.residual_bytes(float(tokens))


def _ring_bytes(stage: StageShapes, tokens: int) -> float:
    """The K/V block a context-parallel rank works on, and the one it receives."""
    if stage.ranks.cp == 1:
        return 0.0
    return (
        2.0
        * tokens
        * max(a.kv_bytes_per_token for group in stage.groups for a in group.attentions)
    )


def _peak_row(group: LayerGroup) -> int:
    """Elements alive per token: a projection's output and the next one's input."""
    return max(
        first.n * first.experts_per_token + second.k * second.experts_per_token
        for first, second in pairwise(group.gemms)
    )


def _stage_memory(
    index: int,
    stage: StageShapes,
    parallelism: Parallelism,
    gpu: GpuType,
    settings: MemorySettings,
) -> MemoryBreakdown:
    budget = settings.utilisation_frac * gpu.memory_bytes
    activations = activation_bytes(stage, settings)
    reserve = settings.runtime_reserve_bytes
    if parallelism.num_gpus > 1:
        reserve += settings.communication_reserve_bytes
    requests = stage.ranks.decoded(settings.max_batch_requests)
    reserve += requests * stage.state_bytes_per_request
    per_token = _stage_kv_bytes_per_token(stage, settings.mean_context_tokens)
    used = stage.weight_bytes + activations + reserve
    blocks = _num_blocks(budget - used, per_token * settings.block_tokens)
    reason = None
    if blocks == 0:
        reason = (
            f"stage {index} needs {used / GB:.1f} GB before any KV cache, "
            f"{gpu.name} gives {budget / GB:.1f} GB"
        )
    return MemoryBreakdown(
        stage=index,
        memory_bytes=gpu.memory_bytes,
        budget_bytes=budget,
        weights_bytes=stage.weight_bytes,
        activation_bytes=activations,
        reserve_bytes=reserve,
        kv_bytes_per_token=per_token,
        max_kv_tokens=blocks * settings.block_tokens * stage.ranks.count,
        num_ranks=stage.ranks.count,
        why_not=reason,
    )


def _num_blocks(room_bytes: float, block_bytes: float) -> int:
    """KV blocks in the room left; a stage of states alone bounds no tokens."""
    if block_bytes == 0:
        return _UNBOUNDED_BLOCKS if room_bytes >= 0 else 0
    return max(0, int(room_bytes // block_bytes))


def _room(memory: MemoryBreakdown) -> tuple[int, float]:
    """Orders stages by KV tokens, and the full ones by how much they lack."""
    used = memory.weights_bytes + memory.activation_bytes + memory.reserve_bytes
    return memory.max_kv_tokens, memory.budget_bytes - used


def _stage_kv_bytes_per_token(
    stage: StageShapes, mean_context_tokens: int | None
) -> float:
    total = 0.0
    for group in stage.groups:
        for attention in group.attentions:
            kept_frac, kept = 1.0, attention.kept_tokens
            if kept is not None and mean_context_tokens is not None:
                kept_frac = min(1.0, kept / mean_context_tokens)
            total += group.num_layers * attention.kv_bytes_per_token * kept_frac
    return total


def _impossible(
    reason: str, llm: LlmSpec, gpu: GpuType, settings: MemorySettings
) -> MemoryBreakdown:
    whole = _whole(llm)
    return MemoryBreakdown(
        stage=0,
        memory_bytes=gpu.memory_bytes,
        budget_bytes=settings.utilisation_frac * gpu.memory_bytes,
        weights_bytes=whole.weight_bytes,
        activation_bytes=activation_bytes(whole, settings),
        reserve_bytes=settings.runtime_reserve_bytes,
        kv_bytes_per_token=_stage_kv_bytes_per_token(whole, None),
        max_kv_tokens=0,
        why_not=reason,
    )


def _whole(llm: LlmSpec) -> StageShapes:
    (stage,) = stage_shapes(llm, Parallelism())
    return stage
