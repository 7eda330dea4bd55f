"""Matrices of layers that are not plain attention: delta rule, sparse attention.

Reference
    Gated delta rule: Yang, Kautz, Hatamizadeh, ICLR 2025, arXiv 2412.06464, with the
    projections of Qwen3-Next. Sparse attention: DeepSeek-AI, "DeepSeek-V3.2",
    arXiv 2512.02556, section 2.1.
"""

from models.llm import LlmSpec, bytes_of
from models.recurrence import RecurrenceShape
from models.shapes import AttentionShape, Gemm

_INDEX_KEY_BYTES = 1.0
"""Engines cache the keys of the scorer in fp8, one fp32 scale a key."""
_INDEX_SCALE_BYTES = 4.0
_SPARSE_TILE_HEADS = 64
"""Query heads of a tile: FlashMLA's sparse prefill takes as long for 8 heads as for 64
(modules of GLM-5 and DeepSeek-V3.2 on H200 and B200 in aiconfigurator-core 0.12.0)."""


def recurrence_of(llm: LlmSpec, tp: int) -> RecurrenceShape:
    """The state of a linear-attention layer, its heads spread over `tp` GPUs."""
    linear = llm.linear
    assert linear is not None
    return RecurrenceShape(
        num_key_heads=-(-linear.num_key_heads // tp),
        num_value_heads=-(-linear.num_value_heads // tp),
        key_dim=linear.key_head_dim,
        value_dim=linear.value_head_dim,
        conv_kernel=linear.conv_kernel,
        state_element_bytes=bytes_of(linear.state_dtype),
    )


def linear_attention_gemms(llm: LlmSpec, tp: int) -> tuple[Gemm, ...]:
    """Queries, keys, values and output gates in one; the decay; the way out."""
    shape, precision = recurrence_of(llm, tp), llm.precision
    values = shape.num_value_heads * shape.value_dim
    into = shape.conv_channels + values
    gates = 2 * shape.num_value_heads
    return (
        Gemm(name="linear_in", k=llm.hidden, n=into, weights=precision.attention),
        Gemm(name="linear_gates", k=llm.hidden, n=gates, weights=precision.embedding),
        Gemm(name="linear_out", k=values, n=llm.hidden, weights=precision.out),
    )


def no_attention() -> AttentionShape:
    """Stands where a layer has no attention: no heads, nothing cached."""
    return AttentionShape(
        num_heads=0,
        prefill_dim=0,
        decode_dim=0,
        kv_bytes_per_token=0.0,
        window=None,
        num_kv_heads=0,
    )


def indexer_gemms(llm: LlmSpec) -> tuple[Gemm, ...]:
    """Queries of the scorer, its one key, and the weights of its heads.

    Every GPU scores for itself, so that all pick the same tokens.
    """
    indexer = llm.indexer
    if indexer is None:
        return ()
    weights = llm.precision.attention
    compressed = llm.mla.q_lora_rank if llm.mla else None
    width = indexer.num_heads * indexer.head_dim
    narrow = indexer.head_dim + indexer.num_heads
    return (
        Gemm(name="index_q", k=compressed or llm.hidden, n=width, weights=weights),
        Gemm(name="index_k", k=llm.hidden, n=narrow, weights=weights),
    )


def indexer_attention(llm: LlmSpec) -> AttentionShape | None:
    """The scorer as attention that reads keys only: one key head for all queries."""
    indexer = llm.indexer
    if indexer is None:
        return None
    return AttentionShape(
        num_heads=indexer.num_heads,
        prefill_dim=indexer.head_dim,
        decode_dim=indexer.head_dim,
        kv_bytes_per_token=indexer.head_dim * _INDEX_KEY_BYTES + _INDEX_SCALE_BYTES,
        window=None,
        num_kv_heads=1,
        kv_element_bytes=_INDEX_KEY_BYTES,
    )


def sparse_tile_heads(llm: LlmSpec) -> int:
    """Heads that sparse prefill works on at least: it pads to the rows of a tile.

    The kernel over a bf16 cache (FlashMLA) does; with tensor parallelism few of the 64
    rows are used. Kernels over an fp8 cache exist without.
    """
    pads = llm.indexer is not None and bytes_of(llm.precision.kv) > 1.0
    return _SPARSE_TILE_HEADS if pads else 1
