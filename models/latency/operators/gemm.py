"""Dense matrix products: weights streamed once, tiles of rows, columns and depth."""

from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from models.latency.operators.surface import FloatArray, Surface, smooth_max
from models.latency.operators.tokens import TOKEN_KNOTS
from models.shapes import ACTIVATION_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmShape:
    """Right-hand side of a product: ``(tokens, k) @ (k, n)``."""

    k: int = spec("Input width.", unit="1", ge=1)
    n: int = spec("Output width.", unit="1", ge=1)
    bytes_per_weight: float = spec("Stored bytes of a weight.", unit="bytes", gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Datasheet rates an operator could at best reach."""

    memory_bytes_per_s: float = spec("Memory peak.", unit="bytes/s", gt=0)
    flops_per_s: float = spec("Dense peak in the number format.", unit="FLOP/s", gt=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmModel:
    """Time of a product in one number format on one GPU type.

    ``floor_ms`` is the shortest kernel; `surface` has the axes tokens, n and k.
    """

    floor_ms: float = spec("Shortest product.", unit="ms", gt=0)
    surface: Surface = spec("Slowdown over tokens, n and k.")

    def __post_init__(self) -> None:
        check_fields(self)

    def ms(self, shape: GemmShape, peaks: Peaks) -> FloatArray:
        """Time at `TOKEN_KNOTS`, never falling with tokens, in ms."""
        slowdown = self.surface.slowdown(TOKEN_KNOTS, float(shape.n), float(shape.k))
        ideal = ideal_gemm_ms(
            TOKEN_KNOTS, shape.n, shape.k, shape.bytes_per_weight, peaks, self.floor_ms
        )
        return np.maximum.accumulate(ideal * slowdown)


def ideal_gemm_ms(
    m: FloatArray,
    n: FloatArray | float,
    k: FloatArray | float,
    bytes_per_weight: float,
    peaks: Peaks,
    floor_ms: float,
) -> FloatArray:
    """Roofline of ``(m, k) @ (k, n)``: floor, bytes and FLOPs, in ms."""
    moved = bytes_per_weight * (n * k) + ACTIVATION_BYTES * m * (n + k)
    return smooth_max(
        floor_ms,
        MS_PER_S * moved / peaks.memory_bytes_per_s,
        MS_PER_S * 2.0 * m * (n * k) / peaks.flops_per_s,
    )
