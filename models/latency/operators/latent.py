"""Latent attention as one block: its projections, its kernel and what lies between.

Engines were measured on the whole block, from the input of the down-projections to the
output projection. The small kernels inside (norms, rotary, cache write, quantisation)
take as long as the products at small batches, and appear in no other measurement.
"""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from models.latency.operators.attention import HeadFormat
from models.latency.operators.gemm import Peaks
from models.latency.operators.surface import FloatArray, Surface, smooth_max
from models.shapes import ACTIVATION_BYTES

Number = FloatArray | float
LATENT_PROJECTIONS = frozenset({"q", "q_b", "qkv_a", "kv_a", "kv_b", "attention_out"})
"""Products of the block, by name (`models.flops`)."""
_NO_FLOOR_MS = 1e-9
"""The block has one floor, not its kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentShape:
    """What latent attention multiplies and reads on one GPU (arrays when fitting).

    `flops_s` is the time of a token's FLOPs in the projections at the compute peaks of
    their formats, which may differ.
    """

    num_heads: Number = spec("Query heads.", unit="heads")
    weight_bytes: Number = spec("Weights of the projections.", unit="bytes")
    row_elements: Number = spec("Their inputs and outputs a token.", unit="1")
    flops_s: Number = spec("Their FLOPs a token at the peak.", unit="s")
    prefill_dim: float = spec("Query-key plus value width a head.", unit="1")
    decode_dim: float = spec("The same against the latent.", unit="1")
    cached_dim: float = spec("Elements cached a token.", unit="1")
    kv_bytes: float = spec("Bytes of a cached element.", unit="bytes")

    def prefill_ms(
        self,
        tokens: FloatArray,
        prompts: FloatArray | float,
        peaks: Peaks,
        floor: float,
    ) -> FloatArray:
        """Ideal time of `prompts` prompts of `tokens` each, in ms."""
        heads = self._heads(self.prefill_dim / 2.0, peaks)
        kernel = heads.prefill_ms(tokens, prompts * self.num_heads, 1.0)
        return smooth_max(floor, self._projections_ms(tokens * prompts, peaks) + kernel)

    def decode_ms(
        self, requests: FloatArray, context: FloatArray, peaks: Peaks, floor: float
    ) -> FloatArray:
        """Ideal time of one token a request against `context` cached ones, in ms."""
        heads = self._heads(self.cached_dim / 2.0, peaks)
        kernel = heads.decode_ms(requests, context, 1.0, self.num_heads)
        return smooth_max(floor, self._projections_ms(requests, peaks) + kernel)

    def _projections_ms(self, tokens: FloatArray, peaks: Peaks) -> FloatArray:
        moved = self.weight_bytes + ACTIVATION_BYTES * self.row_elements * tokens
        return smooth_max(
            MS_PER_S * moved / peaks.memory_bytes_per_s,
            MS_PER_S * self.flops_s * tokens,
        )

    def _heads(self, head_dim: float, peaks: Peaks) -> HeadFormat:
        return HeadFormat(
            head_dim=head_dim,
            kv_bytes=self.kv_bytes,
            peaks=peaks,
            floor_ms=_NO_FLOOR_MS,
            decode_flops_factor=self.decode_dim / self.cached_dim,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentModel:
    """Measured slowdown of the block in one number format and KV format.

    The surface has the axes tokens of a prompt, prompts and heads in prefill, and
    requests, context and heads in decode.
    """

    floor_ms: float = spec("Shortest block.", unit="ms", gt=0)
    surface: Surface = spec("Slowdown over the axes of its phase.")

    def __post_init__(self) -> None:
        check_fields(self)
