"""Figures of a trace, derived by hand and against published ones."""

from pathlib import Path

import numpy as np
import pytest

from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import Requests
from planner.workload.summary import summarize
from planner.workload.traces import read_trace

TRACES = Path(__file__).parents[4] / "shared" / "data" / "traces"


def requests_at(
    arrival_ms: list[float], hashes: tuple[tuple[int, ...], ...] | None = None
) -> Requests:
    return Requests(
        arrival_ms=np.array(arrival_ms),
        input_tokens=np.arange(1, len(arrival_ms) + 1),
        output_tokens=np.full(len(arrival_ms), 5),
        prefix_blocks=hashes and PrefixBlocks.of(hashes),
    )


def test_rate_and_gap_spread() -> None:
    # Gaps 1 and 3 s: mean 2, standard deviation 1, cv 0.5; 2 gaps in 4 s.
    summary = summarize(requests_at([0, 1000, 4000]))
    assert summary.num_requests == 3
    assert summary.duration_s == 4
    assert summary.rate_rps == 0.5
    assert summary.gap_cv == 0.5


def test_percentiles_of_lengths() -> None:
    # Inputs 1..5: linear interpolation puts p90 at 1 + 0.9·4 = 4.6.
    tokens = summarize(requests_at([0, 1, 2, 3, 4])).input
    assert (tokens.mean, tokens.p50, tokens.max) == (3, 3, 5)
    assert tokens.p90 == pytest.approx(4.6)
    assert tokens.p99 == pytest.approx(4.96)


def test_peak_to_mean_is_of_the_busiest_window() -> None:
    # 4 s, 8 requests: 2 a second on the mean; 5 in the first second: 2.5.
    times = [0.0, 100, 200, 300, 400, 1500, 2500, 4000]
    peaks = {p.window_s: p.peak_to_mean for p in summarize(requests_at(times)).peaks}
    assert peaks == {1.0: 2.5}


def test_requests_at_once_have_neither_spread_nor_peaks() -> None:
    summary = summarize(requests_at([0, 0]))
    assert summary.gap_cv is None
    assert summary.peaks == ()


def test_a_block_hits_only_after_a_run_of_hits_from_the_start() -> None:
    # Third prompt: 1 hits, 9 is new, so 2 behind it does not count. 2 + 1 of 8 blocks.
    hashes = ((1, 2), (1, 2, 3), (1, 9, 2))
    summary = summarize(requests_at([0, 1, 2], hashes))
    assert summary.prefix_hit_frac == 3 / 8


def test_without_hashes_there_is_no_hit_rate() -> None:
    assert summarize(requests_at([0, 1])).prefix_hit_frac is None


@pytest.mark.skipif(not TRACES.exists(), reason="no public traces here")
@pytest.mark.parametrize(
    ("name", "hit_frac"),
    # Replay with an infinite cache; the paper (FAST 2025) reports 40 % and 66 %.
    [("conversation", 0.366), ("synthetic", 0.640)],
)
def test_mooncake_prefix_reuse_is_the_known_one(name: str, hit_frac: float) -> None:
    summary = summarize(read_trace(TRACES / f"mooncake_{name}_trace.jsonl"))
    assert summary.prefix_hit_frac == pytest.approx(hit_frac, abs=0.0005)


@pytest.mark.skipif(not TRACES.exists(), reason="no public traces here")
@pytest.mark.parametrize(
    ("name", "num", "rate", "p50", "mean"),
    # Splitwise (ISCA 2024), Section III: medians 1500/13 and 1020/129.
    [
        ("code", 8819, 2.57, (1469, 13), (2048, 27.9)),
        ("conv", 19366, 5.53, (1020, 129), (1155, 211)),
    ],
)
def test_azure_traces_have_their_published_medians(
    name: str,
    num: int,
    rate: float,
    p50: tuple[int, int],
    mean: tuple[float, float],
) -> None:
    summary = summarize(read_trace(TRACES / f"AzureLLMInferenceTrace_{name}.csv"))
    assert summary.num_requests == num
    assert summary.rate_rps == pytest.approx(rate, abs=0.005)
    assert (summary.input.p50, summary.output.p50) == p50
    assert (summary.input.mean, summary.output.mean) == pytest.approx(mean, rel=0.001)
