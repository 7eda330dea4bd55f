"""Attention block of a shard with per-head keys and values (MHA, GQA, MQA)."""

import torch
from torch.nn import functional

from models.flops import kv_heads_per_gpu
from models.llm import LlmSpec
from profiler.layers.attention import KvCache, attention_for
from profiler.layers.batch import StepBatch
from profiler.layers.pointwise import rotary_table
from profiler.layers.settings import LayerSettings

_EPSILON = 1e-6
_ROTARY_POSITIONS = 1 << 16
"""At least: a position beyond the table is an error that no CUDA program survives."""


class GqaAttention:
    """Fused QKV, rotary positions, attention over the cache, output projection."""

    def __init__(self, llm: LlmSpec, tp: int, settings: LayerSettings) -> None:
        device, dtype = settings.device, settings.dtype
        self._heads = -(-llm.num_heads // tp)
        self._kv_heads = kv_heads_per_gpu(llm, tp)
        self._dim = llm.head_dim
        query, kv = self._heads * self._dim, self._kv_heads * self._dim
        self._qkv = settings.linear(llm.hidden, query + 2 * kv, llm.precision.attention)
        self._out = settings.linear(query, llm.hidden, llm.precision.out)
        self._rotate = settings.pointwise.rotate
        self._table = None
        if not llm.learned_positions:
            positions = max(llm.max_positions, _ROTARY_POSITIONS)
            self._table = rotary_table(positions, self._dim, device, dtype)
        self._has_qk_norm = llm.qk_norm
        self._norm_weight = torch.ones(self._dim, device=device, dtype=dtype)
        self.kernel, self._attend = attention_for(
            device,
            dtype,
            num_heads=self._heads,
            num_kv_heads=self._kv_heads,
            head_dim=self._dim,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        return self._qkv.weight_bytes + self._out.weight_bytes

    def make_cache(self, num_rows: int, settings: LayerSettings) -> KvCache:
        """A cache of `num_rows` tokens."""
        return KvCache.allocate(
            num_rows,
            self._kv_heads,
            self._dim,
            device=settings.device,
            dtype=settings.dtype,
        )

    def __call__(
        self, x: torch.Tensor, cache: KvCache, batch: StepBatch, window: int | None
    ) -> torch.Tensor:
        """Attention of the new tokens `x` (tokens, hidden), which join the cache."""
        tokens = x.shape[0]
        heads, kv_heads, dim = self._heads, self._kv_heads, self._dim
        projected = self._qkv(x).view(tokens, heads + 2 * kv_heads, dim)
        # Queries and keys take norm and rotary together: they are neighbours.
        turned = projected[:, : heads + kv_heads]
        values = projected[:, heads + kv_heads :]
        if self._has_qk_norm:
            turned = functional.rms_norm(turned, (dim,), self._norm_weight, _EPSILON)
        if self._table is not None:
            cos, sin = (part.index_select(0, batch.positions) for part in self._table)
            turned = self._rotate(turned, cos, sin)
        cache.write(turned[:, heads:], values, batch)
        queries = turned[:, :heads].contiguous()
        attended = self._attend(queries, cache, batch, window)
        return self._out(attended.reshape(tokens, heads * dim))
