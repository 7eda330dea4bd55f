"""Replaying a trace as a ring."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.replay import replay
from planner.workload.requests import Requests

# Gaps 1 and 3 s; mean gap 2 s, so the ring closes after 4 + 2 = 6 s.
TINY = Requests(
    arrival_ms=np.array([500.0, 1500.0, 4500.0]),
    input_tokens=np.array([10, 20, 30]),
    output_tokens=np.array([1, 2, 3]),
    prefix_blocks=PrefixBlocks.of(((0, 1), (0, 2), (7,))),
)


def test_seed_zero_is_the_recorded_sequence_from_time_zero() -> None:
    drawn = replay(TINY, 3, seed=0)
    assert drawn.arrival_ms.tolist() == [0, 1000, 4000]
    assert drawn.input_tokens.tolist() == [10, 20, 30]
    assert drawn.prefix_blocks.rows() == TINY.prefix_blocks.rows()


def test_past_the_end_it_starts_again_after_one_mean_gap() -> None:
    drawn = replay(TINY, 5)
    assert drawn.arrival_ms.tolist() == [0, 1000, 4000, 6000, 7000]
    assert drawn.output_tokens.tolist() == [1, 2, 3, 1, 2]


def test_a_second_lap_has_prefix_hashes_of_its_own() -> None:
    # Ids 0..7 are 8 wide, so the second lap adds 8.
    assert replay(TINY, 5).prefix_blocks.rows() == (
        (0, 1),
        (0, 2),
        (7,),
        (8, 9),
        (8, 10),
    )


def test_another_rate_scales_all_gaps() -> None:
    # Recorded: 2 gaps in 4 s, 0.5 requests/s; at 5 requests/s a tenth of every gap.
    assert replay(TINY, 3, rate_rps=5).arrival_ms == pytest.approx([0, 100, 400])


def test_other_seeds_start_elsewhere_and_keep_the_order() -> None:
    starts = set()
    for seed in range(1, 20):
        inputs = replay(TINY, 3, seed=seed).input_tokens.tolist()
        assert inputs in ([10, 20, 30], [20, 30, 10], [30, 10, 20])
        starts.add(inputs[0])
    assert starts == {10, 20, 30}


def test_a_start_elsewhere_keeps_hashes_until_a_request_repeats() -> None:
    for seed in range(1, 10):
        hashes = replay(TINY, 3, seed=seed).prefix_blocks.rows()
        assert hashes is not None
        assert set(hashes) == {(0, 1), (0, 2), (7,)}


@given(seed=st.integers(0, 50), jitter=st.floats(0, 1e5), num=st.integers(1, 20))
def test_jitter_moves_requests_by_less_than_itself(
    seed: int, jitter: float, num: int
) -> None:
    plain = replay(TINY, num, seed=seed)
    moved = replay(TINY, num, seed=seed, jitter_ms=jitter)
    assert moved.arrival_ms[0] == 0
    assert (np.diff(moved.arrival_ms) >= 0).all()
    assert sorted(moved.input_tokens) == sorted(plain.input_tokens)
    # The k-th and the first both move by 0 to jitter, so their distance by less.
    assert (np.abs(moved.arrival_ms - plain.arrival_ms) <= jitter + 1e-6).all()


def test_requests_recorded_at_once_have_no_rate_to_scale() -> None:
    burst = Requests(
        arrival_ms=np.zeros(2),
        input_tokens=np.array([1, 1]),
        output_tokens=np.array([1, 1]),
    )
    assert replay(burst, 3).arrival_ms.tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="all recorded requests arrive at once"):
        replay(burst, 2, rate_rps=1.0)
