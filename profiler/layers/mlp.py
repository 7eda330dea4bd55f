"""Dense feed-forward of a tensor-parallel shard: gate and up fused, then down."""

import torch
from torch.nn import functional

from models.llm import LlmSpec
from profiler.layers.settings import LayerSettings


class Mlp:
    """Feed-forward of `width` on this shard."""

    def __init__(self, llm: LlmSpec, width: int, settings: LayerSettings) -> None:
        self._is_gated = llm.mlp_matrices == 3
        rows = 2 * width if self._is_gated else width
        self._up = settings.linear(llm.hidden, rows, llm.precision.mlp)
        self._down = settings.linear(width, llm.hidden, llm.precision.mlp)
        self._gate = settings.pointwise.gate

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        return self._up.weight_bytes + self._down.weight_bytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Feed-forward of the rows of `x` (tokens, hidden)."""
        up = self._up(x)
        return self._down(self._gate(up) if self._is_gated else functional.relu(up))
