"""Collectives: a start-up time, then bytes at the share of the link they reach."""

from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.links import LinkKind
from clusters.units import MS_PER_S
from models.latency.operators.surface import FloatArray, Surface


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduceModel:
    """Time of an all-reduce on one fabric, by message size and number of GPUs.

    ``alpha + factor * bytes / link rate`` is the ideal, with the ring's factor
    ``2 (n - 1) / n``; `surface` has the axes bytes and GPUs. Values below 1 are
    fabrics that add up in the switch and beat the ring.
    """

    fabric: str = spec("What was measured, e.g. nvswitch_450.")
    kind: LinkKind = spec("Slowest kind of link on the ring.")
    link_bytes_per_s: float = spec(
        "Rate of the measured link, one direction.", unit="bytes/s", gt=0
    )
    alpha_ms: float = spec("Start-up of the smallest message.", unit="ms", gt=0)
    surface: Surface = spec("Slowdown over bytes and GPUs.")

    def __post_init__(self) -> None:
        check_fields(self)

    def ms(
        self, num_bytes: FloatArray, *, num_gpus: int, bytes_per_s: float
    ) -> FloatArray:
        """Time to all-reduce buffers of rising `num_bytes` over a given ring, in ms."""
        if num_gpus == 1:
            return np.zeros_like(num_bytes)
        ideal = ideal_all_reduce_ms(num_bytes, num_gpus, bytes_per_s, self.alpha_ms)
        slowdown = self.surface.slowdown(num_bytes, float(num_gpus))
        return np.maximum.accumulate(ideal * slowdown)


def ideal_all_reduce_ms(
    num_bytes: FloatArray,
    num_gpus: FloatArray | float,
    bytes_per_s: float,
    alpha_ms: float,
) -> FloatArray:
    """Start-up plus the ring's bytes at the link's peak, in ms."""
    factor = 2.0 * (num_gpus - 1.0) / num_gpus
    return alpha_ms + MS_PER_S * factor * num_bytes / bytes_per_s
