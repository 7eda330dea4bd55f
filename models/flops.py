"""The one place with matrix shapes: what a pipeline stage multiplies, reads and sends.

`stage_shapes` turns an LLM and a parallelism into the GEMMs and the attention of each
stage, per GPU. Memory, latency and parameter counts all derive from these shapes, so
they cannot disagree about the same layer. Norms and biases (< 0.1 % of the weights)
are left out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from clusters.fields import spec
from models.hybrid_layers import (
    indexer_attention,
    indexer_gemms,
    linear_attention_gemms,
    no_attention,
    recurrence_of,
    sparse_tile_heads,
)
from models.llm import LlmSpec, WeightFormat, bytes_of
from models.parallelism import Parallelism
from models.ranks import Ranks
from models.shapes import (
    ACTIVATION_BYTES,
    AttentionShape,
    Gemm,
    LayerGroup,
    StageShapes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """FLOPs and bytes of one step on one GPU of a stage."""

    gemm_flops: float = spec("Dense products.", unit="FLOP")
    attention_flops: float = spec("Scores and values.", unit="FLOP")
    weight_bytes: float = spec("Weights read.", unit="bytes")
    kv_bytes: float = spec("KV cache read and written.", unit="bytes")
    activation_bytes: float = spec("Other traffic.", unit="bytes")
    all_reduce_bytes: float = spec("Sum of all-reduced messages.", unit="bytes")

    @property
    def flops(self) -> float:
        """All FLOPs of the step."""
        return self.gemm_flops + self.attention_flops

    @property
    def memory_bytes(self) -> float:
        """All bytes that cross the GPU's memory bus."""
        return self.weight_bytes + self.kv_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """What makes layers of one model differ in shape."""

    is_moe: bool = spec("Routes tokens to experts.")
    is_linear: bool = spec("Keeps a state instead of a KV cache.")
    window: int | None = spec("Attention window, None: unbounded.", unit="tokens")


def num_parameters(llm: LlmSpec) -> int:
    """Weights of the whole model (norms and biases left out)."""
    (stage,) = stage_shapes(llm, Parallelism())
    return _num_weights(llm, stage, active_only=False)


def num_active_parameters(llm: LlmSpec) -> int:
    """Weights one token passes through: of the experts, only its top-k."""
    (stage,) = stage_shapes(llm, Parallelism())
    return _num_weights(llm, stage, active_only=True)


def prefill_work(
    stage: StageShapes,
    new_tokens: Sequence[int],
    past_tokens: Sequence[int] | None = None,
) -> StageWork:
    """FLOPs and bytes of prefilling prompts of `new_tokens` after `past_tokens`.

    Where the stage has ranks, of one that is as full as the others.
    """
    new = np.asarray(new_tokens, dtype=np.float64)
    past = np.zeros_like(new) if past_tokens is None else np.asarray(past_tokens)
    num_ranks = stage.ranks.count
    pairs = float((new * new / 2 + new * past).sum()) / num_ranks
    tokens = float(new.sum()) / num_ranks
    attention_flops, kv_bytes = 0.0, 0.0
    for group in stage.groups:
        cached = tokens + float(past.sum()) / num_ranks
        for attention in group.attentions:
            # A short window caps what each new token attends to.
            seen = pairs
            if attention.has_short_window and attention.window is not None:
                seen = min(pairs, tokens * attention.window)
            attention_flops += group.num_layers * attention.pair_flops() * seen
            kv_bytes += group.num_layers * attention.kv_bytes_per_token * cached
        if group.recurrence is not None:
            per_token = group.recurrence.prefill_flops_per_token
            attention_flops += group.num_layers * per_token * tokens
            kv_bytes += len(new) * group.state_bytes_per_request
    return _work(
        stage,
        attention_flops,
        kv_bytes,
        rows=stage.ranks.decoded(float(len(new))),
        tokens=tokens,
        routed_tokens=float(new.sum()),
    )


def decode_work(stage: StageShapes, num_requests: int, kv_tokens: float) -> StageWork:
    """FLOPs and bytes of a decode step that attends to `kv_tokens` in all.

    Where the stage has ranks, of the fullest.
    """
    requests = stage.ranks.decoded(float(num_requests))
    attended = kv_tokens * stage.ranks.kv_share(float(num_requests))
    attention_flops, kv_bytes = 0.0, 0.0
    for group in stage.groups:
        for attention in group.attentions:
            seen = attended
            if attention.has_short_window and attention.window is not None:
                seen = min(attended, requests * attention.window)
            per_token = attention.decode_flops_per_kv_token()
            attention_flops += group.num_layers * per_token * seen
            kv_bytes += group.num_layers * attention.kv_bytes_per_token * seen
        # A state is read and written, whatever the context.
        kv_bytes += 2.0 * requests * group.state_bytes_per_request
    return _work(
        stage,
        attention_flops,
        kv_bytes,
        rows=requests,
        tokens=requests,
        routed_tokens=float(num_requests),
    )


def _work(
    stage: StageShapes,
    attention_flops: float,
    kv_bytes: float,
    *,
    rows: float,
    tokens: float,
    routed_tokens: float,
) -> StageWork:
    """Add the token-proportional parts, and the LM head on one row a request.

    `tokens` are those of one rank; routed experts see the `routed_tokens` of all.
    """
    runs = [
        (gemm, g.num_layers, routed_tokens if gemm.is_expert else tokens)
        for g in stage.groups
        for gemm in g.gemms
    ]
    if stage.head is not None:
        runs.append((stage.head, 1, rows))
    elementwise = sum(
        g.num_layers * g.elementwise_bytes_per_token for g in stage.groups
    )
    return StageWork(
        gemm_flops=sum(count * gemm.flops(rows) for gemm, count, rows in runs),
        attention_flops=attention_flops,
        weight_bytes=sum(count * gemm.read_bytes(rows) for gemm, count, rows in runs),
        kv_bytes=kv_bytes,
        activation_bytes=elementwise * tokens
        + sum(count * gemm.activation_bytes(rows) for gemm, count, rows in runs),
        all_reduce_bytes=stage.all_reduces * stage.residual_bytes(tokens),
    )


@lru_cache(maxsize=4096)
def stage_shapes(llm: LlmSpec, parallelism: Parallelism) -> tuple[StageShapes, ...]:
    """Shapes of every pipeline stage, as one GPU of it sees them."""
    stages, first = [], 0
    for stage, num_layers in enumerate(parallelism.layers_per_stage(llm)):
        layers = range(first, first + num_layers)
        stages.append(_stage(llm, parallelism.of_stage(stage), stage, layers))
        first += num_layers
    return tuple(stages)


def _stage(
    llm: LlmSpec, parallelism: Parallelism, stage: int, layers: range
) -> StageShapes:
    tp, is_last = parallelism.tp, stage == parallelism.pp - 1
    kinds = Counter(
        LayerKind(
            is_moe=llm.is_moe_layer(layer),
            is_linear=llm.is_linear_layer(layer),
            window=llm.window(layer),
        )
        for layer in layers
    )
    embedding = llm.precision.embedding
    vocab = _shard(llm.vocab, tp)
    rows = vocab + (llm.max_positions if llm.learned_positions else 0)
    return StageShapes(
        groups=tuple(
            _group(llm, parallelism, kind, num_layers=count)
            for kind, count in kinds.items()
        ),
        hidden=llm.hidden,
        tp=tp,
        ranks=Ranks(attention_dp=parallelism.attention_dp, cp=parallelism.cp),
        embedding_bytes=(
            rows * llm.hidden * embedding.bytes_per_weight if stage == 0 else 0.0
        ),
        head=(
            Gemm(name="lm_head", k=llm.hidden, n=vocab, weights=embedding)
            if is_last
            else None
        ),
        # A tied head needs its own copy once it sits on another stage.
        head_is_copy=not llm.tied_embeddings or parallelism.pp > 1,
        sums_branches=llm.parallel_branches,
    )


def _group(
    llm: LlmSpec, parallelism: Parallelism, kind: LayerKind, *, num_layers: int
) -> LayerGroup:
    tp = parallelism.tp
    if kind.is_linear:
        projections = linear_attention_gemms(llm, tp)
    else:
        projections = _mla_gemms(llm, tp) if llm.mla else _qkv_gemms(llm, tp)
        projections += indexer_gemms(llm)
    feed_forward = _moe_gemms(llm, parallelism) if kind.is_moe else _mlp_gemms(llm, tp)
    # Two norms fused with the residual: read and write both streams (4 rows each);
    # every other elementwise step reads and writes the widest row around it.
    widest = max(gemm.n * gemm.experts_per_token for gemm in projections + feed_forward)
    elements = 8 * llm.hidden + 2 * widest
    return LayerGroup(
        num_layers=num_layers,
        gemms=projections + feed_forward,
        attention=no_attention() if kind.is_linear else _attention(llm, tp, kind),
        indexer=None if kind.is_linear else indexer_attention(llm),
        recurrence=recurrence_of(llm, tp) if kind.is_linear else None,
        elementwise_bytes_per_token=float(ACTIVATION_BYTES * elements),
        norm_bytes_per_token=float(ACTIVATION_BYTES * 4 * llm.hidden),
        activation_bytes_per_token=float(
            ACTIVATION_BYTES
            * sum(
                gemm.n + (gemm.n // 2 if gemm.name == "gate_up" else gemm.n)
                for gemm in feed_forward
                if gemm.name in ("gate_up", "up")
            )
        ),
    )


def _qkv_gemms(llm: LlmSpec, tp: int) -> tuple[Gemm, ...]:
    query = _shard(llm.num_heads, tp) * llm.head_dim
    kv = kv_heads_per_gpu(llm, tp) * llm.head_dim
    into = query * (2 if llm.attention_gate else 1) + 2 * kv
    weights, out = llm.precision.attention, llm.precision.out
    return (
        Gemm(name="qkv", k=llm.hidden, n=into, weights=weights),
        Gemm(name="attention_out", k=query, n=llm.hidden, weights=out),
    )


def _mla_gemms(llm: LlmSpec, tp: int) -> tuple[Gemm, ...]:
    """Latent attention; the down-projections are replicated on every GPU.

    In decode the up-projection `kv_b` is absorbed into queries and outputs, which
    costs a token the same FLOPs and bytes as applying it.
    """
    mla, weights, heads = llm.mla, llm.precision.attention, _shard(llm.num_heads, tp)
    assert mla is not None
    query = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    up = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    value = heads * mla.v_head_dim
    if mla.q_lora_rank is None:
        into = (
            Gemm(name="q", k=llm.hidden, n=query, weights=weights),
            Gemm(name="kv_a", k=llm.hidden, n=mla.cached_dim, weights=weights),
        )
    else:  # engines apply both down-projections as one product
        narrow = mla.q_lora_rank + mla.cached_dim
        into = (
            Gemm(name="qkv_a", k=llm.hidden, n=narrow, weights=weights),
            Gemm(name="q_b", k=mla.q_lora_rank, n=query, weights=weights),
        )
    return (
        *into,
        Gemm(name="kv_b", k=mla.kv_lora_rank, n=up, weights=weights),
        Gemm(name="attention_out", k=value, n=llm.hidden, weights=llm.precision.out),
    )


def _mlp_gemms(llm: LlmSpec, tp: int) -> tuple[Gemm, ...]:
    return _feed_forward(llm, _shard(llm.intermediate, tp), llm.precision.mlp)


def _moe_gemms(llm: LlmSpec, parallelism: Parallelism) -> tuple[Gemm, ...]:
    """Router, routed experts (over EP, their width over the rest), shared experts.

    Shared experts, like dense layers, are split over TP alone and repeated on every
    rank.
    """
    moe, tp, ep = llm.moe, parallelism.tp, parallelism.ep
    assert moe is not None
    expert_tp = parallelism.gpus_per_stage // ep
    router = Gemm(
        name="router",
        k=llm.hidden,
        n=moe.num_experts,
        weights=llm.precision.embedding,
    )
    routed = tuple(
        Gemm(
            name=f"expert_{gemm.name}",
            k=gemm.k,
            n=gemm.n,
            weights=gemm.weights,
            num_experts=_shard(moe.num_experts, ep),
            experts_per_token=moe.experts_per_token,
            expert_gpus=ep,
        )
        for gemm in _feed_forward(
            llm, _shard(moe.expert_intermediate, expert_tp), llm.precision.experts
        )
    )
    if not moe.shared_intermediate:
        return (router, *routed)
    width = _shard(moe.shared_intermediate, tp)
    return (router, *routed, *_feed_forward(llm, width, llm.precision.mlp))


def _feed_forward(llm: LlmSpec, width: int, weights: WeightFormat) -> tuple[Gemm, ...]:
    gated = llm.mlp_matrices == 3
    name, n = ("gate_up", 2 * width) if gated else ("up", width)
    return (
        Gemm(name=name, k=llm.hidden, n=n, weights=weights),
        Gemm(name="down", k=width, n=llm.hidden, weights=weights),
    )


def _attention(llm: LlmSpec, tp: int, kind: LayerKind) -> AttentionShape:
    heads, kv_bytes = _shard(llm.num_heads, tp), bytes_of(llm.precision.kv)
    if llm.mla is None:
        cached = 2 * kv_heads_per_gpu(llm, tp) * llm.head_dim
        prefill_dim = decode_dim = 2 * llm.head_dim
    else:
        mla = llm.mla
        cached = mla.cached_dim
        prefill_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim
        decode_dim = mla.cached_dim + mla.kv_lora_rank
    window = kind.window
    if llm.indexer is not None:  # the selected tokens are read as latents, always
        window, prefill_dim = llm.indexer.selected_tokens, decode_dim
    return AttentionShape(
        num_heads=heads,
        prefill_dim=prefill_dim,
        decode_dim=decode_dim,
        kv_bytes_per_token=cached * kv_bytes,
        window=window,
        keeps_all=llm.indexer is not None,
        num_kv_heads=kv_heads_per_gpu(llm, tp),
        kv_element_bytes=kv_bytes,
        qk_norm=llm.qk_norm,
        joint_qk_norm=llm.joint_qk_norm,
        is_latent=llm.mla is not None,
        tile_heads=sparse_tile_heads(llm),
    )


def kv_heads_per_gpu(llm: LlmSpec, tp: int) -> int:
    """K/V heads one GPU holds: at least one, so beyond `num_kv_heads` they repeat."""
    return max(1, _shard(llm.num_kv_heads, tp))


def _shard(width: int, tp: int) -> int:
    return -(-width // tp)


def _num_weights(llm: LlmSpec, stage: StageShapes, *, active_only: bool) -> int:
    total = llm.vocab * llm.hidden * (1 if llm.tied_embeddings else 2)
    if llm.learned_positions:
        total += llm.max_positions * llm.hidden
    for group in stage.groups:
        for gemm in group.gemms:
            copies = gemm.experts_per_token if active_only else gemm.num_experts
            total += group.num_layers * gemm.k * gemm.n * copies
    return total
