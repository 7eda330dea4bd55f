"""Collectives: a start-up time, then bytes at the share of the link they reach."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from clusters.fields import check_fields, spec
from clusters.links import LinkKind
from clusters.units import MS_PER_S
from models.latency.operators.surface import FloatArray, Surface


class Collective(StrEnum):
    """What a group of GPUs does with a buffer.

    Its bytes are the whole buffer: what each GPU holds before an all-reduce, a
    reduce-scatter or an all-to-all, and after an all-gather; and the rows that a GPU
    sends to the experts of its tokens, or gets back from them.
    """

    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"
    EXPERT_DISPATCH = "expert_dispatch"
    EXPERT_COMBINE = "expert_combine"


WIRE_FRAC = {Collective.EXPERT_DISPATCH: 1.03125 / 2.0}
"""Bytes on the links over those of rows in 16 bits: rows travel to their experts in 8
bits, with a scale a block of 128."""
_PASSES = {Collective.ALL_REDUCE: 2.0}
"""Times the buffer goes around: an all-reduce scatters sums, then gathers them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveModel:
    """Time of a collective on one fabric, by message size and number of GPUs.

    ``alpha + factor * bytes / link rate`` is the ideal, with the ring's factor
    ``(n - 1) / n``, twice for an all-reduce; `surface` has the axes bytes and GPUs.
    Values below 1 are fabrics that add up in the switch and beat the ring.
    """

    op: Collective = spec("What is done.", default=Collective.ALL_REDUCE)
    fabric: str = spec("What was measured, e.g. the system's name.")
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
        """Time for buffers of rising `num_bytes` over a given ring, in ms."""
        if num_gpus == 1:
            return np.zeros_like(num_bytes)
        ideal = ideal_collective_ms(
            self.op, num_bytes, num_gpus, bytes_per_s, self.alpha_ms
        )
        slowdown = self.surface.slowdown(num_bytes, float(num_gpus))
        return np.maximum.accumulate(ideal * slowdown)


def ideal_collective_ms(
    op: Collective,
    num_bytes: FloatArray,
    num_gpus: FloatArray | float,
    bytes_per_s: float,
    alpha_ms: float,
) -> FloatArray:
    """Start-up plus the ring's bytes at the link's peak, in ms."""
    factor = _PASSES.get(op, 1.0) * (num_gpus - 1.0) / num_gpus
    return alpha_ms + MS_PER_S * factor * num_bytes / bytes_per_s
