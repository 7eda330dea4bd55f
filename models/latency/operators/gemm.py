"""Dense matrix products: weights streamed once, tiles of rows, columns and depth."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    _at_knots: Surface = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_at_knots", self.surface.resampled(TOKEN_KNOTS))
        check_fields(self)

    def ms(
        self, shape: GemmShape, peaks: Peaks, measured: Peaks | None = None
    ) -> FloatArray:
        """Time at `TOKEN_KNOTS`, never falling with tokens, in ms (see `ms_each`)."""
        return np.asarray(self.ms_each((shape,), peaks, measured)[0])

    def ms_each(
        self,
        shapes: Sequence[GemmShape],
        peaks: Peaks,
        measured: Peaks | None = None,
    ) -> FloatArray:
        """Times of several products, shape ``(num_shapes, num_knots)``, in ms.

        `measured` are the peaks of the GPU that was measured, None: `peaks`. A slower
        one reaches with fewer columns what that one did with more: its slowdown is
        that of the product of as much ideal time there.
        """
        columns = [(float(s.n), float(s.k), s.bytes_per_weight) for s in shapes]
        n, k, stored = np.asarray(columns).T[:, :, None]
        traffic = _traffic(TOKEN_KNOTS, n, k, stored)
        width = n
        if measured is not None:
            here, there = (_busy_ms(traffic, each, 0.0) for each in (peaks, measured))
            width = n * here / there
        ideal = _busy_ms(traffic, peaks, self.floor_ms)
        slowdown = self._at_knots.first_axis(width, k)
        return np.maximum.accumulate(ideal * slowdown, axis=1)


def ideal_gemm_ms(
    m: FloatArray,
    n: FloatArray | float,
    k: FloatArray | float,
    bytes_per_weight: float,
    peaks: Peaks,
    floor_ms: float,
) -> FloatArray:
    """Roofline of ``(m, k) @ (k, n)``: floor, bytes and FLOPs, in ms."""
    return _busy_ms(_traffic(m, n, k, bytes_per_weight), peaks, floor_ms)


def _traffic(
    m: FloatArray,
    n: FloatArray | float,
    k: FloatArray | float,
    bytes_per_weight: FloatArray | float,
) -> tuple[FloatArray, FloatArray]:
    """Bytes moved and FLOPs done."""
    moved = bytes_per_weight * (n * k) + ACTIVATION_BYTES * m * (n + k)
    return moved, 2.0 * m * (n * k)


def _busy_ms(
    traffic: tuple[FloatArray, FloatArray], peaks: Peaks, floor_ms: float
) -> FloatArray:
    moved, flops = traffic
    return smooth_max(
        floor_ms,
        (MS_PER_S / peaks.memory_bytes_per_s) * moved,
        (MS_PER_S / peaks.flops_per_s) * flops,
    )
