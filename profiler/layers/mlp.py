"""Dense feed-forward of a tensor-parallel shard: gate and up fused, then down."""

import torch
from torch.nn import functional

from models.llm import LlmSpec
from profiler.layers.linear import make_linear
from profiler.layers.settings import LayerSettings


class Mlp:
    """Feed-forward of `width` on this shard."""

    def __init__(self, llm: LlmSpec, width: int, settings: LayerSettings) -> None:
        is_fp8 = settings.is_fp8(llm.precision.mlp)
        device, dtype = settings.device, settings.dtype
        self._is_gated = llm.mlp_matrices == 3
        rows = 2 * width if self._is_gated else width
        self._up = make_linear(
            llm.hidden, rows, device=device, dtype=dtype, is_fp8=is_fp8
        )
        self._down = make_linear(
            width, llm.hidden, device=device, dtype=dtype, is_fp8=is_fp8
        )
        self._gate = settings.pointwise.gate

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        return self._up.weight_bytes + self._down.weight_bytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Feed-forward of the rows of `x` (tokens, hidden)."""
        up = self._up(x)
        return self._down(self._gate(up) if self._is_gated else functional.relu(up))
