"""Fitting: known surfaces are found again, whatever a few rows say."""

from dataclasses import replace

import numpy as np
import pytest

from models.latency.fit import Rows, fit_surface, isotonic, made_monotone
from models.latency.operators.surface import Axis, Surface

AXES = (
    Axis(name="m", knots=(1.0, 10.0, 100.0)),
    Axis(name="n", knots=(1.0, 100.0)),
)
TRUTH = Surface(axes=AXES, log_slowdown=(0.0, 0.5, 0.4, 0.7, 1.0, 1.3))


def rows_of(truth: Surface, rng: np.random.Generator, num_rows: int = 400) -> Rows:
    """Noise-free rows at random points, 40 groups of ten."""
    m, n = (np.exp(rng.uniform(0.0, np.log(100.0), num_rows)) for _ in range(2))
    ideal = 0.01 + m * n / 1e4
    return Rows(
        coordinates=(m, n),
        ideal_ms=ideal,
        measured_ms=ideal * truth.slowdown(m, n),
        groups=np.arange(num_rows) // 10,
    )


def test_a_known_surface_is_found_again() -> None:
    rng = np.random.default_rng(1)
    fitted, evidence = fit_surface(rows_of(TRUTH, rng), AXES, rng)
    assert fitted.log_slowdown == pytest.approx(TRUTH.log_slowdown, abs=0.01)
    assert evidence.rows_used == 400
    assert evidence.p90_error_frac < 0.005
    assert evidence.held_out_p90_error_frac is not None
    assert evidence.held_out_p90_error_frac < 0.005


def test_one_row_in_ten_ten_times_too_slow_does_not_move_the_fit() -> None:
    rng = np.random.default_rng(2)
    rows = rows_of(TRUTH, rng)
    measured = rows.measured_ms.copy()
    measured[::10] *= 10.0
    spiky = Rows(
        coordinates=rows.coordinates,
        ideal_ms=rows.ideal_ms,
        measured_ms=measured,
        groups=rows.groups,
    )
    fitted, evidence = fit_surface(spiky, AXES, rng)
    assert fitted.log_slowdown == pytest.approx(TRUTH.log_slowdown, abs=0.06)
    # The spikes stay rows of the evidence: 0.1 and 1 is an error of 0.9.
    assert evidence.p90_error_frac < 0.95


def test_one_group_leaves_the_held_out_error_unknown() -> None:
    rng = np.random.default_rng(3)
    rows = rows_of(TRUTH, rng)
    alone = replace(rows, groups=np.zeros_like(rows.groups))
    _, evidence = fit_surface(alone, AXES, rng)
    assert evidence.held_out_median_error_frac is None
    assert evidence.held_out_p90_error_frac is None
    assert evidence.p90_error_frac < 0.005


def test_a_row_is_scored_by_a_fit_that_did_not_see_it() -> None:
    # Twenty groups, each with a slowdown of its own at a knot of its own: one fit of
    # all meets every row, and a fit without a group cannot know its slowdown.
    rng = np.random.default_rng(4)
    m = np.repeat(np.arange(1.0, 21.0), 5)
    slowdown = np.repeat(np.exp(rng.uniform(-1.0, 1.0, 20)), 5)
    rows = Rows(
        coordinates=(m,),
        ideal_ms=np.ones(100),
        measured_ms=slowdown,
        groups=np.repeat(np.arange(20), 5),
    )
    axes = (Axis(name="m", knots=tuple(np.arange(1.0, 21.0).tolist())),)
    _, evidence = fit_surface(rows, axes, rng)
    assert evidence.p90_error_frac < 0.02
    assert evidence.held_out_median_error_frac is not None
    assert evidence.held_out_median_error_frac > 0.1


def test_errors_are_those_of_the_repaired_surface() -> None:
    rng = np.random.default_rng(5)
    rows = rows_of(TRUTH, rng)

    def twice(surface: Surface) -> Surface:
        slow = np.asarray(surface.log_slowdown) + np.log(2.0)
        return replace(surface, log_slowdown=tuple(slow.tolist()))

    _, evidence = fit_surface(rows, AXES, rng, repair=twice)
    assert evidence.median_error_frac == pytest.approx(1.0, abs=0.01)
    assert evidence.held_out_median_error_frac == pytest.approx(1.0, abs=0.01)


def test_a_knot_without_data_follows_its_neighbours() -> None:
    axes = (Axis(name="m", knots=(1.0, 10.0, 100.0)),)
    m = np.full(20, 1.0)
    rows = Rows(
        coordinates=(m,),
        ideal_ms=np.ones(20),
        measured_ms=np.full(20, 2.0),
        groups=np.arange(20),
    )
    fitted, _ = fit_surface(rows, axes, np.random.default_rng(0))
    assert fitted.log_slowdown == pytest.approx((np.log(2.0),) * 3, abs=1e-6)


def test_isotonic_pools_neighbours_that_fall() -> None:
    # 3, 1 -> 2, 2; then 2 <= 4.
    assert isotonic(np.asarray([3.0, 1.0, 4.0])).tolist() == [2.0, 2.0, 4.0]


def test_time_at_the_knots_rises_after_the_repair() -> None:
    axes = (Axis(name="m", knots=(1.0, 2.0, 4.0)),)
    # Ideal 1, 2, 4 ms; slowdowns e, 1, 1 give 2.7, 2, 4: the first two are pooled.
    falling = Surface(axes=axes, log_slowdown=(1.0, 0.0, 0.0))
    ideal = np.asarray([1.0, 2.0, 4.0])
    repaired = made_monotone(falling, ideal, (0,))
    time = ideal * repaired.slowdown(np.asarray([1.0, 2.0, 4.0]))
    assert (np.diff(time) >= -1e-12).all()
    assert time[2] == pytest.approx(4.0)
