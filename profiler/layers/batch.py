"""StepBatch: which tokens a step computes, and where their keys and values are.

A step is a packed sequence of new tokens, request after request: a decoding request
brings one, a prompt brings many. So prefill, decode, chunked prefill and mixed batches
are the same to every layer. The KV cache is contiguous: a request owns a run of rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clusters.fields import spec
from models.profile_records import StepPoint


@dataclass(frozen=True, slots=True)
class Sequences:
    """The requests of a step as plain numbers, in the order of their tokens."""

    new_tokens: tuple[int, ...]
    kv_tokens: tuple[int, ...]
    """Tokens each request attends to, the new ones included."""
    first_rows: tuple[int, ...]
    """Row of the KV cache where each request starts."""

    @classmethod
    def of_point(cls, point: StepPoint) -> "Sequences":
        """The requests of a measured point, one after the other in the cache."""
        pasts = point.past_tokens or (0,) * len(point.new_tokens)
        prompts = [n + p for n, p in zip(point.new_tokens, pasts, strict=True)]
        decodes: list[int] = []
        if point.num_decodes:
            each, extra = divmod(int(point.kv_tokens), point.num_decodes)
            decodes = [each + (i < extra) for i in range(point.num_decodes)]
        new = (*point.new_tokens, *(1 for _ in decodes))
        kv = (*prompts, *decodes)
        starts, row = [], 0
        for length in kv:
            starts.append(row)
            row += length
        return cls(new, kv, tuple(starts))

    @property
    def num_rows(self) -> int:
        """Rows of the KV cache up to the last one used."""
        ends = zip(self.first_rows, self.kv_tokens, strict=True)
        return max(start + length for start, length in ends)

    @property
    def uniform_kv_tokens(self) -> int | None:
        """The context of all requests where each brings one token and all are alike.

        Their rows then follow each other and are one dense tensor.
        """
        length = self.kv_tokens[0]
        is_dense = all(
            new == 1 and kv == length and first == self.first_rows[0] + i * length
            for i, (new, kv, first) in enumerate(
                zip(self.new_tokens, self.kv_tokens, self.first_rows, strict=True)
            )
        )
        return length if is_dense else None


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The requests of a step as tensors on the device.

    Shapes: `positions` and `cache_rows` (num_tokens,); `query_starts` and `kv_starts`
    (num_requests + 1,); `kv_lengths` and `last_tokens` (num_requests,).
    """

    sequences: Sequences
    positions: torch.Tensor
    cache_rows: torch.Tensor
    query_starts: torch.Tensor
    kv_starts: torch.Tensor
    kv_lengths: torch.Tensor
    last_tokens: torch.Tensor
    max_query: int = spec("Most new tokens of a request.", unit="tokens")
    max_kv: int = spec("Bound on the context of a request.", unit="tokens")

    @property
    def num_tokens(self) -> int:
        """New tokens of the step."""
        return int(self.positions.shape[0])

    @property
    def num_requests(self) -> int:
        """Requests of the step."""
        return int(self.kv_lengths.shape[0])


def build_batch(
    sequences: Sequences, device: torch.device, *, max_kv: int | None = None
) -> StepBatch:
    """Tensors of a step; `max_kv` fixes the bound on context (for captured graphs)."""
    new = np.array(sequences.new_tokens, dtype=np.int64)
    kv = np.array(sequences.kv_tokens, dtype=np.int64)
    first = np.array(sequences.first_rows, dtype=np.int64)
    query_starts = np.concatenate([[0], np.cumsum(new)])
    # Of each token, its place among the new tokens of its request.
    places = np.arange(query_starts[-1]) - np.repeat(query_starts[:-1], new)
    positions = places + np.repeat(kv - new, new)
    return StepBatch(
        sequences=sequences,
        positions=_tensor(positions, torch.int64, device),
        cache_rows=_tensor(positions + np.repeat(first, new), torch.int64, device),
        query_starts=_tensor(query_starts, torch.int32, device),
        kv_starts=_tensor(np.append(first, sequences.num_rows), torch.int32, device),
        kv_lengths=_tensor(kv, torch.int32, device),
        last_tokens=_tensor(query_starts[1:] - 1, torch.int64, device),
        max_query=max(sequences.new_tokens),
        max_kv=max_kv or max(sequences.kv_tokens),
    )


def _tensor(
    values: NDArray[np.int64], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    return torch.from_numpy(values).to(dtype).to(device, non_blocking=True)
