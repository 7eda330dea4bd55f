"""How a service did in the worst part of a day or trace."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from planner.simulator.outcome import SimulationResult

NUM_WINDOWS = 24
"""Windows of the time that is simulated: the hours of a day."""
LEAST_REQUESTS = 20
"""Fewer requests in a window say little about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOutcome:
    """Requests that arrived in a part of the time that is simulated."""

    start_s: float = spec("Its beginning.", unit="s", ge=0)
    end_s: float = spec("Its end.", unit="s", gt=0)
    num_requests: int = spec("Admitted in it.", unit="requests", ge=0)
    attained_frac: float = spec("Of these, within every limit.", unit="1", ge=0, le=1)

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        return f"{self.attained_frac:.1%} at {self.start_s:.0f}-{self.end_s:.0f} s"


def worst_window(
    result: SimulationResult,
    limits_ms: Mapping[str, float],
    *,
    span_s: float,
) -> WindowOutcome | None:
    """The window in which the least part of the requests is within the limits.

    None where no window has `LEAST_REQUESTS`.
    """
    good = result.meets(limits_ms)
    edges_s = np.linspace(0.0, span_s, NUM_WINDOWS + 1)
    window = np.searchsorted(edges_s, result.arrival_ms / MS_PER_S, side="right") - 1
    window = np.clip(window, 0, NUM_WINDOWS - 1)
    num = np.bincount(window, minlength=NUM_WINDOWS)
    within = np.bincount(window, weights=good, minlength=NUM_WINDOWS)
    if num.max(initial=0) < LEAST_REQUESTS:
        return None
    part = np.where(num >= LEAST_REQUESTS, within / np.maximum(num, 1), np.inf)
    worst = int(np.argmin(part))
    return WindowOutcome(
        start_s=float(edges_s[worst]),
        end_s=float(edges_s[worst + 1]),
        num_requests=int(num[worst]),
        attained_frac=float(part[worst]),
    )
