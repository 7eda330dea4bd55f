"""DecoderLayer, and the ends of a model: one tensor-parallel shard, no communication.

A layer is norm, attention, residual, norm, feed-forward, residual. The all-reduces of a
tensor-parallel group are not part of it: they depend on the links and are added when a
profile is used.
"""

import torch
from torch.nn import functional

from models.llm import LlmSpec
from profiler.layers.attention import KvCache
from profiler.layers.batch import StepBatch
from profiler.layers.gqa import GqaAttention
from profiler.layers.linear import random_tensor
from profiler.layers.mla import MlaAttention
from profiler.layers.mlp import Mlp
from profiler.layers.moe import Moe
from profiler.layers.settings import LayerSettings

_EPSILON = 1e-5
_WINDOW_MARK = "_window"


class DecoderLayer:
    """One layer of a shard, of the kind that `part` names (see `part_of`)."""

    def __init__(
        self, llm: LlmSpec, tp: int, part: str, settings: LayerSettings
    ) -> None:
        kind, _, window = part.partition(_WINDOW_MARK)
        self._window = int(window) if window else None
        attention = MlaAttention if llm.mla else GqaAttention
        self._attention = attention(llm, tp, settings)
        self._feed_forward: Mlp | Moe
        if kind == "moe":
            self._feed_forward = Moe(llm, tp, settings)
        else:
            self._feed_forward = Mlp(llm, -(-llm.intermediate // tp), settings)
        self._add_norm = settings.pointwise.add_norm
        self._norms = [
            torch.ones(llm.hidden, device=settings.device, dtype=settings.dtype)
            for _ in range(2)
        ]

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        return self._attention.weight_bytes + self._feed_forward.weight_bytes

    @property
    def has_experts(self) -> bool:
        """Whether tokens are routed to experts."""
        return isinstance(self._feed_forward, Moe)

    @property
    def kernels(self) -> str:
        """Names of its attention and expert kernels."""
        experts = getattr(self._feed_forward, "kernel", "")
        return "+".join(name for name in (self._attention.kernel, experts) if name)

    def make_cache(self, num_rows: int, settings: LayerSettings) -> KvCache:
        """A KV cache for this layer."""
        return self._attention.make_cache(num_rows, settings)

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, cache: KvCache, batch: StepBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's output and the residual stream, both (tokens, hidden)."""
        x, residual = self._add_norm(x, residual, self._norms[0])
        x = self._attention(x, cache, batch, self._window)
        x, residual = self._add_norm(x, residual, self._norms[1])
        return self._feed_forward(x), residual


class Ends:
    """What is not a layer: embedding, last norm, LM head on one row a request."""

    def __init__(self, llm: LlmSpec, tp: int, settings: LayerSettings) -> None:
        device, dtype = settings.device, settings.dtype
        vocab = -(-llm.vocab // tp)
        self._embedding = random_tensor(vocab, llm.hidden, device=device, dtype=dtype)
        self._head = settings.linear(llm.hidden, vocab)
        self._norm = torch.ones(llm.hidden, device=device, dtype=dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        table = self._embedding
        return table.numel() * table.element_size() + self._head.weight_bytes

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Residual stream of token numbers, (tokens, hidden)."""
        return functional.embedding(token_ids, self._embedding)

    def next_tokens(self, x: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        """Greedy next token of each request, shape (requests,)."""
        last = x.index_select(0, batch.last_tokens)
        normed = functional.rms_norm(last, self._norm.shape, self._norm, _EPSILON)
        return self._head(normed).argmax(dim=-1)
