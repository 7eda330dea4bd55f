"""Features: what a device may have beside plain kernels, and a way to leave it out.

Each is tried before it is used, and its absence recorded with the reason. One that
takes the process down when it is tried cannot be caught: whoever starts the process
again names it in `LEFT_OUT`.
"""

import os
from enum import StrEnum

LEFT_OUT = "PHASEPLAN_LEFT_OUT"
"""Environment variable: features not to try, with commas."""


class Feature(StrEnum):
    """What is tried on a device."""

    VARLEN = "varlen"
    FUSED = "fused"
    FP8 = "fp8"
    GROUPED = "grouped"
    GRAPHS = "graphs"
    SM_SHARES = "sm_shares"


def why_left_out(feature: Feature) -> str | None:
    """None when a feature may be tried, or who said otherwise."""
    names = [name.strip() for name in os.environ.get(LEFT_OUT, "").split(",")]
    return f"left out by {LEFT_OUT}" if str(feature) in names else None
