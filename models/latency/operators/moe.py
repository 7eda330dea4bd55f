"""Mixture-of-experts layers: one fused kernel over the experts a batch touches."""

from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from models.latency.operators.gemm import Peaks
from models.latency.operators.surface import FloatArray, Surface, smooth_max
from models.latency.operators.tokens import TOKEN_KNOTS
from models.shapes import ACTIVATION_BYTES

Number = FloatArray | float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertShape:
    """Routed experts of a layer as one GPU holds them (arrays when fitting)."""

    hidden: Number = spec("Width of the residual stream.", unit="1")
    intermediate: Number = spec("Width of an expert here.", unit="1")
    num_matrices: int = spec("3 when gated, else 2.", unit="1", ge=2, le=3)
    num_experts: Number = spec("Experts of the layer, all GPUs.", unit="experts")
    experts_here: Number = spec("Experts on this GPU.", unit="experts")
    experts_per_token: Number = spec("Experts a token visits.", unit="experts")
    bytes_per_weight: float = spec("Stored bytes of a weight.", unit="bytes", gt=0)

    def coordinates(self, tokens: FloatArray) -> tuple[FloatArray, ...]:
        """Axes of the surface, as arrays that broadcast together.

        Tokens per expert, experts on this GPU, width, experts of the layer, hidden
        width.
        """
        per_expert = tokens * self.experts_per_token / self.num_experts
        rest = (self.experts_here, self.intermediate, self.num_experts, self.hidden)
        return per_expert, *(np.asarray(x, dtype=np.float64) for x in rest)

    def ideal_ms(self, tokens: FloatArray, peaks: Peaks, floor_ms: float) -> FloatArray:
        """Roofline: touched weights, rows in and out, FLOPs, in ms."""
        weights = self.num_matrices * self.hidden * self.intermediate
        share = self.experts_per_token / self.num_experts
        rows = tokens * share * self.experts_here
        touched = self.experts_here * (1.0 - (1.0 - share) ** tokens)
        row_bytes = ACTIVATION_BYTES * (
            2 * self.hidden + self.num_matrices * self.intermediate
        )
        moved = touched * weights * self.bytes_per_weight + rows * row_bytes
        return smooth_max(
            floor_ms,
            MS_PER_S * moved / peaks.memory_bytes_per_s,
            MS_PER_S * 2.0 * rows * weights / peaks.flops_per_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeModel:
    """Time of the routed experts in one number format on one GPU type.

    The measured routing is skewed (a power law), so imbalance is inside.
    """

    floor_ms: float = spec("Shortest layer.", unit="ms", gt=0)
    surface: Surface = spec("Slowdown over the axes of `ExpertShape.coordinates`.")

    def __post_init__(self) -> None:
        check_fields(self)

    def ms(
        self, shape: ExpertShape, peaks: Peaks, measured: Peaks | None = None
    ) -> FloatArray:
        """Time at `TOKEN_KNOTS`, never falling with tokens, in ms.

        With the peaks of another GPU that was `measured`, the slowdown is that of
        experts so wide that they take as much ideal time there.
        """
        ideal = shape.ideal_ms(TOKEN_KNOTS, peaks, self.floor_ms)
        per_expert, here, width, *rest = shape.coordinates(TOKEN_KNOTS)
        if measured is not None:
            width = width * shape.ideal_ms(TOKEN_KNOTS, peaks, 0.0)
            width = width / shape.ideal_ms(TOKEN_KNOTS, measured, 0.0)
        slowdown = self.surface.slowdown(per_expert, here, width, *rest)
        return np.maximum.accumulate(ideal * slowdown)
