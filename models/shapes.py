"""What one GPU of a pipeline stage holds: its matrices, attention and tables.

`models.flops` builds these from an LLM and a parallelism. Token counts may be numbers
or NumPy arrays; results have the same shape.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clusters.fields import spec
from models.llm import WeightFormat
from models.ranks import Ranks
from models.recurrence import RecurrenceShape

Tokens = TypeVar("Tokens", float, NDArray[np.float64])

ACTIVATION_BYTES = 2
"""Activations travel in fp16/bf16 whatever the weights are stored in."""
SHORT_WINDOW_TOKENS = 1024
"""Windows up to this are costed as always full, longer ones as unbounded: a step table
is linear in context, and both are upper bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """One weight matrix (or one per expert) as a GPU of the stage holds it."""

    name: str = spec("Which projection.")
    k: int = spec("Input width.", unit="1")
    n: int = spec("Output width on this GPU.", unit="1")
    weights: WeightFormat = spec("How it is stored and multiplied.")
    num_experts: int = spec("Copies here, one an expert.", unit="experts", default=1)
    experts_per_token: int = spec(
        "Copies a token uses, on all GPUs.", unit="experts", default=1
    )
    expert_gpus: int = spec(
        "GPUs the experts are spread over (EP).", unit="GPUs", default=1
    )

    @property
    def is_expert(self) -> bool:
        """Whether tokens are routed to copies of this matrix."""
        return self.num_experts * self.expert_gpus > 1

    @property
    def num_weights(self) -> int:
        """Weights on this GPU, all experts together."""
        return self.k * self.n * self.num_experts

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights on this GPU."""
        return self.num_weights * self.weights.bytes_per_weight

    def flops(self, tokens: Tokens) -> Tokens:
        """FLOPs to multiply `tokens` rows (2 per multiply-add), experts balanced."""
        copies = self.experts_per_token / self.expert_gpus
        return 2.0 * self.k * self.n * copies * tokens

    def read_bytes(self, tokens: Tokens) -> Tokens:
        """Weight bytes read: of an expert layer, only the experts `tokens` touch.

        With uniform routing a token misses an expert with probability 1 - top_k/E.
        """
        if not self.is_expert:
            return self.weight_bytes + 0.0 * tokens
        missed = 1.0 - self.experts_per_token / (self.num_experts * self.expert_gpus)
        untouched: Tokens = missed**tokens
        return self.weight_bytes * (1.0 - untouched)

    def activation_bytes(self, tokens: Tokens) -> Tokens:
        """Bytes of the input and output rows."""
        copies = self.experts_per_token / self.expert_gpus
        row: float = ACTIVATION_BYTES * (self.k + self.n) * copies
        return row * tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """Attention of one layer on one GPU."""

    num_heads: int = spec("Query heads on this GPU.", unit="heads")
    prefill_dim: int = spec("Query-key plus value width per head.", unit="1")
    decode_dim: int = spec("The same against the cache (MLA: latent).", unit="1")
    kv_bytes_per_token: float = spec("KV cache of a token here.", unit="bytes/token")
    window: int | None = spec(
        "Most tokens a query attends to, None: unbounded.", unit="tokens"
    )
    keeps_all: bool = spec(
        "The cache keeps tokens beyond the window (sparse attention).", default=False
    )
    num_kv_heads: int = spec("Key/value heads on this GPU.", unit="heads", default=1)
    kv_element_bytes: float = spec(
        "Bytes of a cached element.", unit="bytes", default=2.0
    )
    qk_norm: bool = spec("Queries and keys are normalised per head.", default=False)
    joint_qk_norm: bool = spec(
        "Queries and keys are normalised over all heads.", default=False
    )
    is_latent: bool = spec("Multi-head latent attention.", default=False)
    tile_heads: int = spec(
        "Query heads a prefill kernel works on at least.", unit="heads", default=1
    )

    @property
    def cached_dim(self) -> float:
        """Elements cached per token here."""
        return self.kv_bytes_per_token / self.kv_element_bytes

    @property
    def has_short_window(self) -> bool:
        """Whether attended tokens are counted as the full window (see module).

        Sparse attention is: its kernels step through all places for selected tokens.
        """
        if self.window is None:
            return False
        return self.keeps_all or self.window <= SHORT_WINDOW_TOKENS

    @property
    def kept_tokens(self) -> int | None:
        """Tokens of a request the cache keeps at most, None: all."""
        return None if self.keeps_all else self.window

    @property
    def prefill_heads(self) -> int:
        """Query heads a prefill kernel works on, padding included."""
        return max(self.num_heads, self.tile_heads)

    def pair_flops(self) -> float:
        """FLOPs of a prefill per attended (query, key) pair."""
        return 2.0 * self.prefill_heads * self.prefill_dim

    def decode_flops_per_kv_token(self) -> float:
        """FLOPs of a decode step per token in the cache."""
        return 2.0 * self.num_heads * self.decode_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Layers of a stage that share one shape."""

    num_layers: int = spec("How many.", unit="layers")
    gemms: tuple[Gemm, ...] = spec("Projections and feed-forward matrices.")
    attention: AttentionShape = spec("Attention; no heads where a state replaces it.")
    elementwise_bytes_per_token: float = spec(
        "Traffic of norms, rotary, activation and residual.", unit="bytes/token"
    )
    norm_bytes_per_token: float = spec(
        "Of that, one norm fused with the residual.", unit="bytes/token", default=0.0
    )
    activation_bytes_per_token: float = spec(
        "Of that, the activation of the dense MLP.", unit="bytes/token", default=0.0
    )
    indexer: AttentionShape | None = spec(
        "Scores that pick the tokens to attend to.", default=None
    )
    recurrence: RecurrenceShape | None = spec("Linear attention.", default=None)

    @property
    def attentions(self) -> tuple[AttentionShape, ...]:
        """Everything of a layer that reads a KV cache."""
        main = (self.attention,) if self.attention.num_heads else ()
        return main if self.indexer is None else (*main, self.indexer)

    @property
    def state_bytes_per_request(self) -> float:
        """What the whole group keeps for a request, whatever its context."""
        state = self.recurrence.state_bytes if self.recurrence else 0.0
        return self.num_layers * state

    @property
    def is_moe(self) -> bool:
        """Whether tokens are routed to experts."""
        return any(gemm.is_expert for gemm in self.gemms)

    @property
    def weight_bytes(self) -> float:
        """Weight bytes of the whole group on one GPU."""
        return self.num_layers * sum(gemm.weight_bytes for gemm in self.gemms)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShapes:
    """What one GPU of a pipeline stage holds and computes."""

    groups: tuple[LayerGroup, ...] = spec("Layers by shape.")
    hidden: int = spec("Width of the residual stream.", unit="1")
    tp: int = spec("GPUs that share each layer.", unit="GPUs")
    embedding_bytes: float = spec("Embedding and position tables.", unit="bytes")
    head: Gemm | None = spec("LM head, on the last stage.")
    head_is_copy: bool = spec("The head has its own weights here (not tied).")
    ranks: Ranks = spec("Groups of `tp` GPUs with different tokens.", default=Ranks())
    sums_branches: bool = spec(
        "Attention and MLP of a layer are summed before they are reduced.",
        default=False,
    )

    @property
    def num_gpus(self) -> int:
        """GPUs of the stage."""
        return self.tp * self.ranks.count

    @property
    def num_layers(self) -> int:
        """Layers of the stage."""
        return sum(group.num_layers for group in self.groups)

    @property
    def weight_bytes(self) -> float:
        """Weight bytes one GPU of this stage stores."""
        head = self.head.weight_bytes if self.head and self.head_is_copy else 0.0
        layers = sum(group.weight_bytes for group in self.groups)
        return layers + self.embedding_bytes + head

    @property
    def state_bytes_per_request(self) -> float:
        """What one GPU keeps for a request beside its KV cache (linear attention)."""
        return sum(group.state_bytes_per_request for group in self.groups)

    @property
    def all_reduces(self) -> int:
        """All-reduces of a step: after attention and after the MLP of each layer.

        Between ranks the exchange of an expert layer takes the place of the second.
        Branches in parallel are reduced once.
        """
        if self.tp == 1:
            return 0
        if self.sums_branches:
            return self.num_layers
        return 2 * self.num_layers - self.exchanges

    @property
    def norm_reduces(self) -> int:
        """All-reduces of sums of squares, for queries and keys normalised jointly."""
        if self.tp == 1:
            return 0
        return sum(
            group.num_layers for group in self.groups if group.attention.joint_qk_norm
        )

    @property
    def exchanges(self) -> int:
        """Expert layers whose tokens travel to experts of other ranks and back."""
        if self.ranks.count == 1:
            return 0
        return sum(group.num_layers for group in self.groups if group.is_moe)

    def residual_bytes(self, tokens: Tokens) -> Tokens:
        """Bytes of the residual stream: one all-reduce, or one pipeline hop."""
        return ACTIVATION_BYTES * self.hidden * tokens
