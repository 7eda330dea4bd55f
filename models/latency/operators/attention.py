"""Attention kernels: causal prefill, and decode against the KV cache."""

from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from models.latency.operators.gemm import Peaks
from models.latency.operators.surface import FloatArray, Surface, smooth_max
from models.shapes import ACTIVATION_BYTES

_LARGEST_CACHE_BYTES = 2.0 * 2**27
"""Twice the last-level cache of a B200 (126 MB), the largest in the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFormat:
    """What the width and format of the heads make of an attention kernel."""

    head_dim: float = spec("Mean width of keys and values.", unit="1", gt=0)
    kv_bytes: float = spec("Bytes of a cached element.", unit="bytes", gt=0)
    peaks: Peaks = spec("Datasheet rates.")
    floor_ms: float = spec("Shortest kernel.", unit="ms", gt=0)
    window: int | None = spec("Attention window.", unit="tokens", default=None)
    decode_flops_factor: float = spec(
        "Decode FLOPs over those of plain heads (latent attention: more).",
        unit="1",
        default=1.0,
    )

    def prefill_ms(
        self,
        tokens: FloatArray,
        streams: FloatArray | float,
        group: FloatArray | float,
        past: FloatArray | float = 0.0,
    ) -> FloatArray:
        """Ideal time of causal attention in prompts of `tokens`, in ms.

        `streams` is prompts times query heads, `group` query heads per K/V head, `past`
        the tokens of each prompt already in the cache (chunked prefill).
        """
        pairs = tokens * (tokens + 1.0) / 2.0 + tokens * past
        if self.window is not None:
            inside = np.minimum(tokens, self.window)
            pairs = inside * (inside + 1.0) / 2.0 + (tokens - inside) * self.window
        elements = 2.0 * ACTIVATION_BYTES + 2.0 * self.kv_bytes / group
        return smooth_max(
            self.floor_ms,
            self._memory_ms(
                streams
                * self.head_dim
                * (tokens * elements + 2.0 * self.kv_bytes / group * past)
            ),
            self._compute_ms(4.0 * self.head_dim * streams * pairs),
        )

    def decode_ms(
        self,
        requests: FloatArray,
        context: FloatArray,
        kv_heads: FloatArray | float,
        group: FloatArray | float,
    ) -> FloatArray:
        """Ideal time of one token a request against `context` cached ones, in ms."""
        attended = requests * context * kv_heads * self.head_dim
        return smooth_max(
            self.floor_ms,
            self._memory_ms(2.0 * self.kv_bytes * attended),
            self._compute_ms(4.0 * self.decode_flops_factor * group * attended),
        )

    def least_decode_ms(
        self, requests: FloatArray, context: FloatArray, kv_heads: FloatArray | float
    ) -> FloatArray:
        """Reading the keys and values at the memory peak, 0 where a cache holds them.

        A few tables have kernels that read more than any cache holds faster than that.
        """
        cached = 2.0 * self.kv_bytes * requests * context * kv_heads * self.head_dim
        return np.where(cached > _LARGEST_CACHE_BYTES, self._memory_ms(cached), 0.0)

    def _memory_ms(self, num_bytes: FloatArray) -> FloatArray:
        return MS_PER_S * num_bytes / self.peaks.memory_bytes_per_s

    def _compute_ms(self, flops: FloatArray) -> FloatArray:
        return MS_PER_S * flops / self.peaks.flops_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionModel:
    """Measured slowdown of one attention kernel for one head width and KV format.

    The surface of a prefill kernel has the axes tokens of a prompt, streams (prompts
    times query heads) and group (query heads per K/V head), and, where chunks of
    prompts were measured, reach (keys over new tokens: 1 for a whole prompt); that of a
    decode kernel requests, context, K/V heads and group.
    """

    floor_ms: float = spec("Shortest kernel.", unit="ms", gt=0)
    surface: Surface = spec("Slowdown over the kernel's axes.")

    def __post_init__(self) -> None:
        check_fields(self)

    def prefill_slowdown(
        self,
        tokens: FloatArray,
        streams: FloatArray | float,
        group: FloatArray | float,
        past: FloatArray | float = 0.0,
    ) -> FloatArray:
        """Slowdown of chunks of `tokens` after `past` cached ones."""
        at = (tokens, streams, group)
        if len(self.surface.axes) == len(at):
            return self.surface.slowdown(*at)
        return self.surface.slowdown(*at, reach_of(tokens, past))

    def decode_slowdown(
        self,
        requests: FloatArray,
        context: FloatArray,
        kv_heads: float,
        group: float,
    ) -> FloatArray:
        """Slowdown of one token a request.

        A kernel has a block of threads for each K/V head of each request, so more
        heads than were measured count as more requests.
        """
        most = self.surface.axes[2].knots[-1]
        more = max(kv_heads / most, 1.0)
        return self.surface.slowdown(requests * more, context, kv_heads, group)


def reach_of(tokens: FloatArray, past: FloatArray | float) -> FloatArray:
    """Keys that the last token of a chunk attends to, over the tokens of the chunk."""
    return np.asarray((tokens + past) / tokens, dtype=np.float64)
