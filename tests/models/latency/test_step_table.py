"""StepTable and its knots."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from models.latency.knots import choose_knots
from models.latency.mixed_extra import MixedExtra
from models.latency.step_table import StepTable

TABLE = StepTable(
    prefill_tokens=(0.0, 10.0, 20.0),
    prefill_ms=(1.0, 2.0, 4.0),
    prefill_per_sq_token_ms=0.01,
    decode_batch=(1.0, 3.0),
    decode_ms=(5.0, 7.0),
    decode_per_kv_token_ms=(0.1, 0.2),
)


def test_prefill_is_interpolated_and_adds_squares() -> None:
    # F(15) = 3 between its knots; 0.01 * (10^2 + 5^2) = 1.25.
    assert TABLE.prefill_step_ms([10, 5]) == pytest.approx(3 + 1.25)
    # With 4 tokens in the cache, 10 new ones see 10^2 + 2*10*4 = 180.
    assert TABLE.prefill_step_ms([10], [4]) == pytest.approx(2 + 1.8)


def test_the_last_slope_continues() -> None:
    assert TABLE.prefill_step_ms([30]) == pytest.approx(6 + 9)


def test_decode_is_linear_in_attended_tokens() -> None:
    # G(2) = 6, H(2) = 0.15.
    assert TABLE.decode_step_ms(2, 100) == pytest.approx(6 + 15)


def test_decode_arrays_are_the_curves_at_every_batch_size() -> None:
    fixed, slope = TABLE.decode_arrays(4)
    np.testing.assert_allclose(fixed, [5, 5, 6, 7, 8])
    np.testing.assert_allclose(slope, [0.1, 0.1, 0.15, 0.2, 0.25])


def test_scaling_multiplies_every_latency() -> None:
    half = TABLE.scaled(0.5)
    assert half.prefill_step_ms([10, 5]) == TABLE.prefill_step_ms([10, 5]) / 2
    assert half.decode_step_ms(2, 100) == TABLE.decode_step_ms(2, 100) / 2


def test_a_mixed_step_shares_the_linear_layers() -> None:
    """Chunks of 4 and 2 tokens (6 of its prompt cached), 3 decodes that attend to 50.

    F(9) + c (4 * 4 + 2 * 2 + 2 * 2 * 6) + max(0, G(3) - F(3)) + H(3) * 50, with F(x) =
    2 + x, c = 0.1, G(3) = 7 and H(3) = 0.01: 11 + 4.4 + (7 - 5) + 0.5.
    """
    table = StepTable(
        prefill_tokens=(0.0, 100.0),
        prefill_ms=(2.0, 102.0),
        prefill_per_sq_token_ms=0.1,
        decode_batch=(0.0, 6.0),
        decode_ms=(4.0, 10.0),
        decode_per_kv_token_ms=(0.01, 0.01),
    )
    assert table.mixed_step_ms([4, 2], [0, 6], 3, 50) == pytest.approx(17.9)


def test_a_mixed_step_without_one_of_its_parts_is_the_other() -> None:
    prefill = TABLE.prefill_step_ms([5, 3], [2, 0])
    assert TABLE.mixed_step_ms([5, 3], [2, 0], 0, 0) == prefill
    assert TABLE.mixed_step_ms([], None, 3, 40) == TABLE.decode_step_ms(3, 40)


def test_decodes_that_cost_less_than_a_prompt_step_add_their_tokens_only() -> None:
    """G(B) < F(B): a decode step replays captured graphs, a mixed one does not."""
    table = StepTable(
        prefill_tokens=(0.0, 100.0),
        prefill_ms=(5.0, 105.0),
        decode_batch=(0.0,),
        decode_ms=(1.0,),
        decode_per_kv_token_ms=(0.0,),
    )
    assert table.mixed_step_ms([10], None, 2, 99) == table.prefill_step_ms([12])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"prefill_tokens": (0.0, 0.0, 20.0)}, "prefill_tokens"),
        ({"prefill_ms": (1.0, 2.0)}, "prefill_ms"),
        ({"prefill_ms": (1.0, float("nan"), 4.0)}, "prefill_ms"),
        ({"decode_ms": (-1.0, 7.0)}, "decode_ms"),
        ({"prefill_per_sq_token_ms": -0.1}, "prefill_per_sq_token_ms"),
    ],
)
def test_impossible_tables_are_refused(changes: dict[str, object], key: str) -> None:
    values = {name: getattr(TABLE, name) for name in TABLE.__slots__}
    with pytest.raises(InputError, match=key):
        StepTable(**{**values, **changes})  # type: ignore[arg-type]


def test_a_straight_line_needs_two_knots() -> None:
    grid = np.arange(1.0, 100.0)
    assert choose_knots(grid, 3 + 2 * grid, tolerance=1e-6) == (
        (1.0, 99.0),
        (5.0, 201.0),
    )


def test_a_bend_becomes_a_knot() -> None:
    grid = np.arange(1.0, 100.0)
    knots, _ = choose_knots(grid, np.maximum(50.0, grid), tolerance=1e-6)
    assert knots == (1.0, 50.0, 99.0)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=60))
def test_lines_between_knots_stay_within_the_tolerance(steps: list[float]) -> None:
    values = np.cumsum(steps)
    grid = np.arange(1.0, len(values) + 1)
    knots, at_knots = choose_knots(grid, values, tolerance=0.05)
    lines = np.interp(grid, knots, at_knots)
    assert (np.abs(lines - values) <= 0.05 * values + 1e-9).all()
    assert (np.diff(at_knots) > 0).all()


def test_measured_mixed_steps_take_what_was_measured_beside_the_law() -> None:
    """F = 1 + x/10, G = 2, H = 1/8, c = 1/4; measured: 0.5 ms more at 3 decodes.

    Law of 4 tokens after 2 beside 3 decodes that attend to 40: F(7) = 1.7, squares
    16 + 16 = 32 times 1/4 = 8, G(3) - F(3) = 0.7, H S = 5: 15.4 ms. Measured: squares
    at 3/8, 12 ms; the decodes 0.5 ms more and half of their attention: 17.4 ms.
    """
    plain = StepTable(
        prefill_tokens=(0.0, 100.0),
        prefill_ms=(1.0, 11.0),
        prefill_per_sq_token_ms=0.25,
        decode_batch=(1.0, 5.0),
        decode_ms=(2.0, 2.0),
        decode_per_kv_token_ms=(0.125, 0.125),
    )
    extra = MixedExtra(
        per_sq_token_ms=0.125,
        batch=(1.0, 5.0),
        ms=(0.5, 0.5),
        per_kv_token_ms=(-0.0625, -0.0625),
    )
    table = replace(plain, mixed=extra)
    assert plain.mixed_step_ms([4], [2], 3, 40) == pytest.approx(15.4)
    assert table.mixed_step_ms([4], [2], 3, 40) == pytest.approx(17.4)
    assert table.scaled(2.0).mixed_step_ms([4], [2], 3, 40) == pytest.approx(34.8)
    # Alone, both are what they were.
    assert table.prefill_step_ms([4], [2]) == plain.prefill_step_ms([4], [2])
    assert table.mixed_step_ms([4], [2], 0, 0) == plain.prefill_step_ms([4], [2])
    assert table.mixed_step_ms([], None, 3, 40) == plain.decode_step_ms(3, 40)
    added, slope = table.mixed_arrays(3)
    assert added.tolist() == pytest.approx([0.0, 0.9 + 0.5, 0.8 + 0.5, 0.7 + 0.5])
    assert slope.tolist() == pytest.approx([0.0, 0.0625, 0.0625, 0.0625])


def test_no_part_of_a_mixed_step_takes_less_than_no_time() -> None:
    extra = MixedExtra(
        per_sq_token_ms=-9.0, batch=(1.0,), ms=(-9.0,), per_kv_token_ms=(-9.0,)
    )
    table = replace(TABLE, mixed=extra)
    # F(8) is left.
    assert table.mixed_step_ms([6], None, 2, 99) == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"batch": ()}, "batch"),
        ({"batch": (2.0, 1.0)}, "batch"),
        ({"ms": (1.0,)}, "ms"),
        ({"per_kv_token_ms": (math.nan, 0.0)}, "per_kv_token_ms"),
    ],
)
def test_impossible_measured_extras_are_refused(change: dict, key: str) -> None:
    good = {"batch": (1.0, 2.0), "ms": (0.0, 0.0), "per_kv_token_ms": (0.0, 0.0)}
    with pytest.raises(InputError, match=key):
        MixedExtra(**{**good, **change})
