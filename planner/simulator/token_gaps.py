"""GapHistogram: the gaps between tokens (ITL) of all requests of a simulation."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError
from planner.simulator.state import GAP_BINS_PER_E, GAP_LEAST_MS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GapHistogram:
    """How many gaps are how long, in bins of half a percent.

    A gap is the time from one token of a request to its next, whatever happened in
    between: other prompts, a KV transfer, a preemption. The first token ends no gap.
    """

    counts: NDArray[np.int64]
    """Gaps of each bin, shape ``(num_bins,)``; the first is below the least gap."""

    @classmethod
    def joined(cls, parts: Iterable[tuple["GapHistogram", int]]) -> "GapHistogram":
        """The gaps of several simulations, each counted so many times."""
        return cls(counts=np.sum([each.counts * n for each, n in parts], axis=0))

    @property
    def num_gaps(self) -> int:
        """All gaps."""
        return int(self.counts.sum())

    def edges_ms(self) -> NDArray[np.float64]:
        """Bounds of the bins, shape ``(num_bins + 1,)``."""
        powers = np.arange(len(self.counts)) / GAP_BINS_PER_E
        return np.concatenate([[0.0], GAP_LEAST_MS * np.exp(powers)])

    def percentile_ms(self, percent: float) -> float:
        """Percentile over the gaps of all requests, to half a percent; NaN: no gaps."""
        if not 0.0 <= percent <= 100.0:
            raise InputError("percent", percent, "a number >= 0 and <= 100")
        if self.num_gaps == 0:
            return float("nan")
        below = np.concatenate([[0], np.cumsum(self.counts)])
        # Flat parts are empty bins: the gap asked for is the first that has as many.
        which = int(np.searchsorted(below, below[-1] * percent / 100.0, side="left"))
        which = max(which, int(np.argmax(below > 0)))
        edges = self.edges_ms()
        inside = below[-1] * percent / 100.0 - below[which - 1]
        share = max(0.0, inside) / (below[which] - below[which - 1])
        return float(edges[which - 1] + share * (edges[which] - edges[which - 1]))
