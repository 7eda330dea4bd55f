"""Time of the recurrent part of linear-attention layers.

Idea
    A decode step streams the state of every request in and out. A prefill is a chain of
    chunks, each waiting for the state the one before left, so a prompt takes at least
    one kernel's latency a chunk, and with many heads the FLOPs of the chunks.

Reference
    Measured gated delta-rule kernels in aiconfigurator-core 0.12.0 (2026; tables
    ``gdn_perf`` of five Hopper and Blackwell systems, one L40S): medians over prompts
    of 8192 tokens and more, for the chain with one prompt and few heads, for the rate
    with many of both. Decode reaches 0.71 (Blackwell) to 0.81 (Hopper) of the memory
    peak.

Assumes
    The prompt tokens of a step are one prompt: more prompts would share the chain.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusters.fields import check_fields, spec
from clusters.gpu import GpuType
from clusters.units import MS_PER_S
from models.recurrence import CHUNK_TOKENS, RecurrenceShape
from models.shapes import LayerGroup

FloatArray = NDArray[np.float64]

_PREFILL_FLOOR_MS = 0.02
_DECODE_FLOOR_MS = 0.006
"""Shortest convolution and recurrence kernels together."""
_MEMORY_FRAC = 0.75
_CHAIN_MS, _COMPUTE_FRAC = 0.0020, 0.05
"""Chunk latency and share of the tensor-core peak of the released Triton kernels."""
_KERNELS = {
    ("vllm", "hopper"): (0.0031, 0.43),
    ("vllm", "blackwell"): (0.0024, 0.25),
    ("trtllm", "hopper"): (0.0020, 0.10),
}
"""The same where an engine brings other kernels, by engine and architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrenceRates:
    """How fast one GPU runs the recurrence."""

    chunk_ms: float = spec("Latency of a chunk of a prompt.", unit="ms", gt=0)
    flops_per_s: float = spec("Rate within chunks.", unit="FLOP/s", gt=0)
    memory_bytes_per_s: float = spec("Rate of moving states.", unit="bytes/s", gt=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(
        cls, gpu: GpuType, *, peak_flops_per_s: float, engine: str = ""
    ) -> "RecurrenceRates":
        """Rates on `gpu`; without an engine those of the released kernels."""
        chain_ms, share = _KERNELS.get(
            (engine, gpu.architecture), (_CHAIN_MS, _COMPUTE_FRAC)
        )
        return cls(
            chunk_ms=chain_ms,
            flops_per_s=share * peak_flops_per_s,
            memory_bytes_per_s=_MEMORY_FRAC * gpu.memory_bytes_per_s,
        )

    def prefill_ms(self, shape: RecurrenceShape, tokens: FloatArray) -> FloatArray:
        """One layer over `tokens` of a prompt."""
        compute_s = shape.prefill_flops_per_token / self.flops_per_s
        moved_s = shape.token_bytes / self.memory_bytes_per_s
        chain_ms = self.chunk_ms / CHUNK_TOKENS
        per_token_ms = max(chain_ms, MS_PER_S * compute_s) + MS_PER_S * moved_s
        return _PREFILL_FLOOR_MS + per_token_ms * tokens

    def decode_ms(self, shape: RecurrenceShape, requests: FloatArray) -> FloatArray:
        """One layer for one token of every request."""
        moved = 2.0 * shape.state_bytes + shape.token_bytes
        moved_ms = MS_PER_S * moved / self.memory_bytes_per_s
        return _DECODE_FLOOR_MS + moved_ms * requests


def prefill_ms(
    groups: Iterable[LayerGroup], tokens: FloatArray, rates: RecurrenceRates
) -> FloatArray:
    """All linear-attention layers of a stage over the tokens of a prompt."""
    total = np.zeros_like(tokens)
    for group in groups:
        if group.recurrence is not None:
            total += group.num_layers * rates.prefill_ms(group.recurrence, tokens)
    return total


def decode_ms(
    groups: Iterable[LayerGroup], requests: FloatArray, rates: RecurrenceRates
) -> FloatArray:
    """All linear-attention layers of a stage in a decode step."""
    total = np.zeros_like(requests)
    for group in groups:
        if group.recurrence is not None:
            total += group.num_layers * rates.decode_ms(group.recurrence, requests)
    return total
