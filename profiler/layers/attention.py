"""Attention over a contiguous KV cache: flash kernels where there are any.

Kernels, best first; the first that agrees with the reference on a small batch is used:

- ``varlen``: one flash-attention call for all requests of a step, prompts and decodes
  alike, each reading its own run of cache rows (CUDA).
- ``sdpa``: `scaled_dot_product_attention`, one call for all decodes and one a prompt;
  picks flash, memory-efficient or plain kernels itself (any device).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from profiler.features import Feature, why_left_out
from profiler.kernel_errors import KERNEL_ERRORS, first_line
from profiler.layers.batch import Sequences, StepBatch, build_batch
from profiler.layers.linear import random_tensor

logger = logging.getLogger(__name__)

_TOLERANCE = 3e-2


@dataclass(frozen=True, slots=True)
class KvCache:
    """Keys and values of one layer, shape (num_rows, num_kv_heads, head_dim) each."""

    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def allocate(
        cls,
        num_rows: int,
        num_heads: int,
        head_dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> "KvCache":
        """A cache full of random numbers, as timing needs."""

        def draw() -> torch.Tensor:
            shape = (num_rows, num_heads, head_dim)
            return random_tensor(*shape, device=device, dtype=dtype, scale=1.0)

        return cls(draw(), draw())

    def write(self, keys: torch.Tensor, values: torch.Tensor, batch: StepBatch) -> None:
        """Store the new tokens' keys and values in their rows."""
        self.keys.index_copy_(0, batch.cache_rows, keys)
        self.values.index_copy_(0, batch.cache_rows, values)


Attend = Callable[[torch.Tensor, KvCache, StepBatch, int | None], torch.Tensor]
"""(queries (tokens, heads, dim), cache, batch, window) -> (tokens, heads, dim)."""


def attend_varlen(
    queries: torch.Tensor, cache: KvCache, batch: StepBatch, window: int | None
) -> torch.Tensor:
    """One flash-attention call; a request's keys start at its first cache row."""
    return torch.ops.aten._flash_attention_forward(  # noqa: SLF001  (no public call)
        queries,
        cache.keys,
        cache.values,
        batch.query_starts,
        batch.kv_starts,
        batch.max_query,
        batch.max_kv,
        0.0,
        batch.max_query > 1,
        False,
        window_size_left=None if window is None else window - 1,
        window_size_right=None if window is None else 0,
        seqused_k=batch.kv_lengths,
    )[0]


def attend_sdpa(
    queries: torch.Tensor, cache: KvCache, batch: StepBatch, window: int | None
) -> torch.Tensor:
    """Torch's attention: one call when the requests are alike, else one each."""
    uniform = batch.sequences.uniform_kv_tokens
    if uniform is not None and (window is None or uniform <= window):
        return _attend_uniform(queries, cache, batch.sequences, uniform)
    if batch.max_query == 1 and batch.num_requests > 1:
        return _attend_padded(queries, cache, batch, window)
    return attend_one_by_one(queries, cache, batch, window)


def attend_one_by_one(
    queries: torch.Tensor, cache: KvCache, batch: StepBatch, window: int | None
) -> torch.Tensor:
    """The reference: each request on its own."""
    out = torch.empty_like(queries)
    token = 0
    for new, kv, first in zip(
        batch.sequences.new_tokens,
        batch.sequences.kv_tokens,
        batch.sequences.first_rows,
        strict=True,
    ):
        rows = slice(first, first + kv)
        out[token : token + new] = _attend_one(
            queries[token : token + new], cache.keys[rows], cache.values[rows], window
        )
        token += new
    return out


def _attend_uniform(
    queries: torch.Tensor, cache: KvCache, sequences: Sequences, length: int
) -> torch.Tensor:
    num, first = len(sequences.new_tokens), sequences.first_rows[0]

    def dense(rows: torch.Tensor) -> torch.Tensor:
        run = rows[first : first + num * length]
        return run.view(num, length, *rows.shape[1:]).transpose(1, 2)

    found = functional.scaled_dot_product_attention(
        queries.unsqueeze(2),
        dense(cache.keys),
        dense(cache.values),
        enable_gqa=queries.shape[1] != cache.keys.shape[1],
    )
    return found.squeeze(2)


def _attend_padded(
    queries: torch.Tensor, cache: KvCache, batch: StepBatch, window: int | None
) -> torch.Tensor:
    """Decodes of different contexts: rows gathered to the longest, the rest masked."""
    place = torch.arange(batch.max_kv, device=queries.device).unsqueeze(0)
    lengths = batch.kv_lengths.unsqueeze(1)
    seen = place < lengths
    if window is not None:
        seen = seen & (place >= lengths - window)
    starts = batch.kv_starts[:-1].unsqueeze(1)
    rows = torch.where(seen, starts + place, starts).flatten()
    shape = (batch.num_requests, batch.max_kv, *cache.keys.shape[1:])

    def gather(from_rows: torch.Tensor) -> torch.Tensor:
        return from_rows.index_select(0, rows).view(shape).transpose(1, 2)

    found = functional.scaled_dot_product_attention(
        queries.unsqueeze(2),
        gather(cache.keys),
        gather(cache.values),
        attn_mask=seen[:, None, None, :],
        enable_gqa=queries.shape[1] != cache.keys.shape[1],
    )
    return found.squeeze(2)


def _attend_one(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
) -> torch.Tensor:
    new, kv = queries.shape[0], keys.shape[0]
    mask = None
    if window is not None or new not in (1, kv):
        mask = causal_mask(new, kv, window, device=queries.device)
    found = functional.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys.transpose(0, 1).unsqueeze(0),
        values.transpose(0, 1).unsqueeze(0),
        attn_mask=mask,
        is_causal=mask is None and new == kv and new > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return found.squeeze(0).transpose(0, 1)


def causal_mask(
    new: int, kv: int, window: int | None, *, device: torch.device
) -> torch.Tensor:
    """Which of `kv` tokens each of the last `new` attends to, shape (new, kv)."""
    query = torch.arange(kv - new, kv, device=device).unsqueeze(1)
    key = torch.arange(kv, device=device).unsqueeze(0)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


def attention_for(
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> tuple[str, Attend]:
    """Name and function of the best kernel that gives right results on this device."""
    shape = (num_heads, num_kv_heads, head_dim)
    if device.type == "cuda":
        why_not = why_not_varlen(device, dtype, shape)
        if why_not is None:
            return "varlen", attend_varlen
        logger.warning("no flash kernel for ragged batches: %s", why_not)
    return "sdpa", attend_sdpa


def why_not_varlen(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]
) -> str | None:
    """None when the ragged flash kernel is right for (heads, KV heads, dim), or why."""
    if left_out := why_left_out(Feature.VARLEN):
        return left_out
    try:
        if _agrees(attend_varlen, shape, device, dtype):
            return None
    except KERNEL_ERRORS as error:
        return first_line(error)
    return "its results are wrong"


def _agrees(
    attend: Attend,
    shape: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> bool:
    """Whether a kernel matches the one-by-one reference: decode, chunk and prompt.

    Contexts are long enough for kernels that split them, and start anywhere.
    """
    num_heads, num_kv_heads, head_dim = shape
    cache = KvCache.allocate(4096, num_kv_heads, head_dim, device=device, dtype=dtype)
    for sequences in (
        Sequences((1, 1, 1), (17, 90, 2000), (2100, 0, 96)),
        Sequences((20, 7, 1), (20, 971, 1040), (3000, 100, 1200)),
    ):
        batch = build_batch(sequences, device)
        queries = random_tensor(
            batch.num_tokens, num_heads, head_dim, device=device, dtype=dtype, scale=1.0
        )
        exact = attend_one_by_one(queries, cache, batch, None).float()
        found = attend(queries, cache, batch, None).float()
        # Written so that NaN never passes.
        if not float((found - exact).norm() / exact.norm()) < _TOLERANCE:
            return False
    return True
