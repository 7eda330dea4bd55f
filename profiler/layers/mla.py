"""Multi-head latent attention of a shard (DeepSeek-V2/V3).

Only a latent of `cached_dim` a token is kept, shared by all heads. Prompts expand it to
keys and values and attend as usual; decodes fold the expansion into queries and outputs
and attend to the latent itself, as two batched products (the flash kernels of torch
stop at a head width of 256). That reads the latent twice: an upper bound on the time of
a dedicated kernel.
"""

import torch
from torch.nn import functional

from models.llm import LlmSpec
from profiler.layers.attention import KvCache, causal_mask
from profiler.layers.batch import Sequences, StepBatch
from profiler.layers.linear import Linear, random_tensor
from profiler.layers.pointwise import rotary_table
from profiler.layers.settings import LayerSettings

_ROTARY_POSITIONS = 1 << 16
"""At least: a position beyond the table is an error that no CUDA program survives."""


class MlaAttention:
    """Latent attention; the down-projections are whole on every shard."""

    kernel = "mla-bmm"

    def __init__(self, llm: LlmSpec, tp: int, settings: LayerSettings) -> None:
        assert llm.mla is not None
        self._mla = mla = llm.mla
        device, dtype = settings.device, settings.dtype
        self._heads = heads = -(-llm.num_heads // tp)
        self._key_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim

        def matrix(k: int, n: int) -> Linear:
            return settings.linear(k, n, llm.precision.attention)

        rank = mla.q_lora_rank
        self._query_down = matrix(llm.hidden, rank) if rank else None
        self._query_up = matrix(rank or llm.hidden, heads * self._key_dim)
        self._kv_down = matrix(llm.hidden, mla.cached_dim)
        self._out = settings.linear(
            heads * mla.v_head_dim, llm.hidden, llm.precision.out
        )
        latent = mla.kv_lora_rank
        self._key_up = random_tensor(
            heads, mla.qk_nope_head_dim, latent, device=device, dtype=dtype
        )
        self._value_up = random_tensor(
            heads, latent, mla.v_head_dim, device=device, dtype=dtype
        )
        self._rotate = settings.pointwise.rotate
        positions = max(llm.max_positions, _ROTARY_POSITIONS)
        self._table = rotary_table(positions, mla.qk_rope_head_dim, device, dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        matrices = (self._query_down, self._query_up, self._kv_down, self._out)
        plain = sum(m.weight_bytes for m in matrices if m is not None)
        ups = (self._key_up, self._value_up)
        return plain + sum(t.numel() * t.element_size() for t in ups)

    def make_cache(self, num_rows: int, settings: LayerSettings) -> KvCache:
        """A cache of `num_rows` latents; the values are the latents' first part."""
        latent = random_tensor(
            num_rows,
            1,
            self._mla.cached_dim,
            device=settings.device,
            dtype=settings.dtype,
            scale=1.0,
        )
        return KvCache(latent, latent[..., : self._mla.kv_lora_rank])

    def __call__(
        self, x: torch.Tensor, cache: KvCache, batch: StepBatch, window: int | None
    ) -> torch.Tensor:
        """Attention of the new tokens `x` (tokens, hidden), which join the cache."""
        del window  # no latent-attention model has one
        mla, tokens = self._mla, x.shape[0]
        squeezed = x if self._query_down is None else self._query_down(x)
        queries = self._query_up(squeezed).view(tokens, self._heads, self._key_dim)
        latent = self._kv_down(x).view(tokens, 1, mla.cached_dim)
        cos, sin = (part.index_select(0, batch.positions) for part in self._table)
        queries, latent = (
            torch.cat(
                (
                    each[..., : -mla.qk_rope_head_dim],
                    self._rotate(each[..., -mla.qk_rope_head_dim :], cos, sin),
                ),
                dim=-1,
            )
            for each in (queries, latent)
        )
        cache.keys.index_copy_(0, batch.cache_rows, latent)
        attended = self._attend(queries, cache.keys.squeeze(1), batch.sequences)
        return self._out(attended.reshape(tokens, self._heads * mla.v_head_dim))

    def _attend(
        self, queries: torch.Tensor, latents: torch.Tensor, sequences: Sequences
    ) -> torch.Tensor:
        """Attended values (tokens, heads, v_head_dim), latent or expanded."""
        uniform = sequences.uniform_kv_tokens
        if uniform is not None:
            first, num = sequences.first_rows[0], len(sequences.new_tokens)
            run = latents[first : first + num * uniform].view(num, uniform, -1)
            return self._decode(queries, run)
        parts, token = [], 0
        for new, kv, first in zip(
            sequences.new_tokens, sequences.kv_tokens, sequences.first_rows, strict=True
        ):
            rows, mine = latents[first : first + kv], queries[token : token + new]
            if new == 1:
                parts.append(self._decode(mine, rows.unsqueeze(0)))
            else:
                parts.append(self._prefill(mine, rows))
            token += new
        return torch.cat(parts)

    def _decode(self, queries: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Folded: queries (requests, heads, key), latents (requests, kv, cached)."""
        mla = self._mla
        nope, rope = queries.split([mla.qk_nope_head_dim, mla.qk_rope_head_dim], dim=-1)
        folded = torch.bmm(nope.transpose(0, 1), self._key_up).transpose(0, 1)
        scores = torch.bmm(torch.cat((folded, rope), dim=-1), latents.transpose(1, 2))
        shares = (scores * self._key_dim**-0.5).softmax(dim=-1)
        mixed = torch.bmm(shares, latents[..., : mla.kv_lora_rank])
        return torch.bmm(mixed.transpose(0, 1), self._value_up).transpose(0, 1)

    def _prefill(self, queries: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Expanded: keys and values of every head from the latents (kv, cached)."""
        mla, new, kv = self._mla, queries.shape[0], latents.shape[0]
        inner = latents[:, : mla.kv_lora_rank]
        nope = torch.matmul(inner, self._key_up.transpose(1, 2))
        rope = latents[:, mla.kv_lora_rank :].expand(self._heads, -1, -1)
        values = torch.matmul(inner, self._value_up)
        # Flash kernels want one head width: values are padded to that of the keys.
        values = functional.pad(values, (0, self._key_dim - mla.v_head_dim))
        is_whole = new == kv
        mask = None
        if not is_whole:
            mask = causal_mask(new, kv, None, device=queries.device)
        found = functional.scaled_dot_product_attention(
            queries.transpose(0, 1).unsqueeze(0),
            torch.cat((nope, rope), dim=-1).unsqueeze(0),
            values.unsqueeze(0),
            attn_mask=mask,
            is_causal=is_whole,
        )
        return found.squeeze(0).transpose(0, 1)[..., : mla.v_head_dim]
