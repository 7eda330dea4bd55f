"""Ring attention: what a prompt costs context-parallel ranks beyond an even share.

Reference
    Liu, Zaharia, Abbeel, "Ring Attention with Blockwise Transformers for Near-Infinite
    Context", ICLR 2024, arXiv 2310.01889. Even shares under a causal mask: Brandon et
    al., "Striped Attention", 2023, arXiv 2311.09431. The serving of prompts with it:
    Yang et al., "Context Parallelism for Scalable Million-Token Inference", MLSys 2025,
    arXiv 2411.01783 (pass-KV).

Idea
    n ranks hold 1/n of a prompt each. A rank attends to its own block of keys and
    values, then to the blocks of the others, which travel round the ring: n blocks,
    n - 1 turns. Each is 1/n**2 of the prompt's attention, and a turn costs the longer
    of attending to a block and receiving the next.

Steps
    1. Turns: what transfers take longer than blocks; blocks shorter than a kernel.
    2. Partial outputs are rescaled and added up after each turn, in fp32.
    3. Latent attention: latents travel, and every rank expands all of them.
    4. Short windows need the end of the neighbours' blocks, and wait for it. Sparse
       attention may pick any token, so all blocks are gathered first.

Cost      one evaluation of the attention kernel a layer shape
"""

from typing import Protocol

import numpy as np

from clusters.links import GroupLink
from clusters.units import MS_PER_S
from models.communication import (
    CommunicationEfficiency,
    pipeline_hop_ms,
    ring_exposed_ms,
)
from models.latency.operators.surface import FloatArray
from models.shapes import (
    ACTIVATION_BYTES,
    AttentionShape,
    Gemm,
    LayerGroup,
    StageShapes,
)

_MERGE_BYTES = ACTIVATION_BYTES + 4 + 4
"""Of an output element: a new part is read, the fp32 sum read and written."""
_PIECES = 2
"""Pieces of a prompt a rank holds, one from each end: windows reach back from both."""


class RingOperators(Protocol):
    """What one GPU of a context-parallel rank does."""

    @property
    def stage(self) -> StageShapes:
        """What it computes."""
        ...

    @property
    def communication(self) -> CommunicationEfficiency:
        """What software leaves of the links."""
        ...

    @property
    def memory_bytes_per_s(self) -> float:
        """Rate of elementwise work."""
        ...

    @property
    def per_sq_token_ms(self) -> float:
        """Attention of all layers per squared token of a prompt."""
        ...

    def prefill_rest(self, tokens: FloatArray) -> FloatArray:
        """Attention of all layers without the squares, in prompts of a step."""
        ...

    def prompt_ms(self, attention: AttentionShape, tokens: FloatArray) -> FloatArray:
        """Attention of one layer in one whole prompt of `tokens`."""
        ...

    def least_block_ms(self, attention: AttentionShape) -> float:
        """Shortest attention kernel of one layer."""
        ...

    def product_ms(self, gemm: Gemm, tokens: FloatArray) -> FloatArray:
        """One matrix product of one layer."""
        ...


def ring_ms(
    operators: RingOperators, link: GroupLink, tokens: FloatArray
) -> FloatArray:
    """What a prompt of `tokens` adds to 1/n of its attention on n ranks, in ms."""
    total = np.zeros_like(tokens)
    num_ranks = operators.stage.ranks.cp
    for group in operators.stage.groups:
        # 1. and 4. The turns of the ring.
        layer = sum(
            (turns_ms(operators, link, each, tokens) for each in group.attentions),
            np.zeros_like(tokens),
        )
        # 2. Adding up.
        if not group.attention.has_short_window:
            row_bytes = _MERGE_BYTES * values_width(group) * (num_ranks - 1) / num_ranks
            layer += MS_PER_S * row_bytes / operators.memory_bytes_per_s * tokens
        # 3. Expansion of the latents of others.
        for gemm in group.gemms:
            if gemm.name == "kv_b":
                everything = operators.product_ms(gemm, tokens)
                layer += everything - operators.product_ms(gemm, tokens / num_ranks)
        total += group.num_layers * layer
    return total


def turns_ms(
    operators: RingOperators,
    link: GroupLink,
    attention: AttentionShape,
    tokens: FloatArray,
) -> FloatArray:
    """What the turns of one layer add to 1/n of its attention, in ms."""
    num_ranks, efficiency = operators.stage.ranks.cp, operators.communication
    block = tokens / num_ranks
    if attention.has_short_window and not attention.keeps_all:
        block = np.minimum(block, float(_PIECES * (attention.window or 0)))
    # The GPUs of a tensor group have a ring each, between hosts over shared NICs.
    num_rings = min(operators.stage.tp, link.sharers)
    num_bytes = num_rings * attention.kv_bytes_per_token * block
    transfer = pipeline_hop_ms(num_bytes, link, efficiency=efficiency)
    if attention.keeps_all:
        return (num_ranks - 1) * transfer
    if attention.has_short_window:
        return transfer
    even = operators.prompt_ms(attention, tokens) / num_ranks**2
    compute = np.maximum(even, operators.least_block_ms(attention))
    exposed = ring_exposed_ms(compute, transfer, num_ranks=num_ranks)
    return num_ranks * (compute - even) + exposed


def values_width(group: LayerGroup) -> int:
    """Width of the attention outputs of one layer on one GPU."""
    return next((gemm.k for gemm in group.gemms if gemm.name == "attention_out"), 0)
