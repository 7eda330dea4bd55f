"""What a trace looks like: rate, burstiness, lengths, reuse of prefixes."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from clusters.fields import spec
from clusters.units import ms_to_s, s_to_ms
from planner.workload.requests import IntArray, Requests

_WINDOWS_S = (1.0, 10.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSummary:
    """Percentiles, mean and maximum of a length."""

    mean: float = spec("Mean.", unit="tokens")
    p50: float = spec("Median.", unit="tokens")
    p90: float = spec("90th percentile.", unit="tokens")
    p99: float = spec("99th percentile.", unit="tokens")
    max: int = spec("Longest.", unit="tokens")

    @classmethod
    def of(cls, tokens: IntArray) -> Self:
        """The summary of lengths, shape ``(num_requests,)``."""
        p50, p90, p99 = np.percentile(tokens, [50, 90, 99])
        return cls(
            mean=float(tokens.mean()),
            p50=float(p50),
            p90=float(p90),
            p99=float(p99),
            max=int(tokens.max()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPeak:
    """How much more than the mean arrives in the busiest window."""

    window_s: float = spec("Length of the windows.", unit="s")
    peak_to_mean: float = spec("Requests in the busiest over the mean.", unit="1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """Figures that describe a sequence of requests."""

    num_requests: int = spec("Requests.", unit="requests")
    duration_s: float = spec("From the first to the last arrival.", unit="s")
    rate_rps: float = spec("Mean arrival rate.", unit="requests/s")
    gap_cv: float | None = spec(
        "Standard deviation over mean of the gaps; None if all arrive at once.",
        unit="1",
    )
    input: TokenSummary = spec("Prompt lengths.")
    output: TokenSummary = spec("Answer lengths.")
    peaks: tuple[WindowPeak, ...] = spec("For windows that fit at least twice.")
    prefix_hit_frac: float | None = spec(
        "Prompt blocks that a prefix cache without limit would hold; None: no hashes.",
        unit="1",
    )


def summarize(requests: Requests) -> TraceSummary:
    """Describe a sequence of requests."""
    return TraceSummary(
        num_requests=len(requests),
        duration_s=ms_to_s(requests.duration_ms),
        rate_rps=requests.rate_rps,
        gap_cv=_gap_cv(requests),
        input=TokenSummary.of(requests.input_tokens),
        output=TokenSummary.of(requests.output_tokens),
        peaks=tuple(
            WindowPeak(window_s=window, peak_to_mean=_peak_to_mean(requests, window))
            for window in _WINDOWS_S
            if requests.duration_ms >= 2 * s_to_ms(window)
        ),
        prefix_hit_frac=_prefix_hit_frac(requests),
    )


def _gap_cv(requests: Requests) -> float | None:
    if requests.duration_ms == 0:
        return None
    gaps_ms = np.diff(requests.arrival_ms)
    return float(gaps_ms.std() / gaps_ms.mean())


def _peak_to_mean(requests: Requests, window_s: float) -> float:
    """Busiest of the windows from the first arrival on, over rate × window."""
    window_ms = s_to_ms(window_s)
    windows = (requests.arrival_ms - requests.arrival_ms[0]) // window_ms
    # Only windows that hold requests are listed, so a long silence costs no memory.
    _, counts = np.unique(windows, return_counts=True)
    mean_count = len(requests) * window_ms / requests.duration_ms
    return float(counts.max() / mean_count)


def _prefix_hit_frac(requests: Requests) -> float | None:
    """Share of blocks in the leading run that earlier requests have brought in."""
    blocks = requests.prefix_blocks
    if blocks is None or len(blocks.ids) == 0:
        return None
    return float(blocks.num_repeated().sum() / len(blocks.ids))
