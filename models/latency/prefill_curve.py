"""Prefill of a stage at `TOKEN_KNOTS`, its knots, and the bound of narrower stages."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from clusters.fields import spec
from models.latency.knots import choose_knots
from models.latency.operators.surface import FloatArray
from models.latency.operators.tokens import TOKEN_KNOTS

KNOT_TOLERANCE = 0.004
"""Largest relative distance of the table from the composed curve at its knots."""
LONG_PREFILL_TOKENS = 512.0
"""Prefills from here on never slow down with tensor parallelism in an island."""
_IS_LONG = TOKEN_KNOTS >= LONG_PREFILL_TOKENS
_CLEARLY_FASTER = 1.0 + 2.5 * KNOT_TOLERANCE
"""Curves this far apart stay in order whatever knots each of them keeps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillCurve:
    """Prefill of a stage before knots are chosen."""

    linear_ms: FloatArray = spec("F at `TOKEN_KNOTS`, rising.", unit="ms")
    per_sq_token_ms: float = spec("c of the step table.", unit="ms/token^2")
    keeps_knots: bool = spec("Every knot counts: it touches a bound.", default=False)

    def knots(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Knots of F and its values there, within `KNOT_TOLERANCE`."""
        if self.keeps_knots:
            return tuple(TOKEN_KNOTS.tolist()), tuple(self.linear_ms.tolist())
        return choose_knots(TOKEN_KNOTS, self.linear_ms, tolerance=KNOT_TOLERANCE)

    def no_slower_than(self, narrow: Self) -> Self:
        """The curve, from `LONG_PREFILL_TOKENS` on never above `narrow`.

        All-reduce kernels change algorithm with the message size and the number of
        GPUs, and the measured curves cross there by a few per cent. A group of GPUs can
        do what half of it does, so the narrower group bounds the wider one. Decode,
        where more GPUs can be slower, stays as measured.
        """
        per_sq_token_ms = min(self.per_sq_token_ms, narrow.per_sq_token_ms)
        clearly = self.linear_ms * _CLEARLY_FASTER <= narrow.linear_ms
        if clearly[_IS_LONG].all():
            return replace(self, per_sq_token_ms=per_sq_token_ms)
        bound = np.interp(TOKEN_KNOTS, *narrow.knots())
        capped = np.where(_IS_LONG, np.minimum(self.linear_ms, bound), self.linear_ms)
        # Rising from the right: shorter steps may not exceed a lowered longer one.
        return replace(
            self,
            linear_ms=np.minimum.accumulate(capped[::-1])[::-1],
            per_sq_token_ms=per_sq_token_ms,
            keeps_knots=True,
        )
