"""Surfaces: interpolation by hand, and the file form."""

import numpy as np
import pytest

from clusters.fields import InputError
from models.latency.operators.surface import Axis, Surface, smooth_max


def tiny_surface() -> Surface:
    """Two axes: log slowdown 0 and 1 along the first, plus 0 and 2 along the second."""
    return Surface(
        axes=(Axis(name="m", knots=(1.0, 100.0)), Axis(name="n", knots=(1.0, 16.0))),
        log_slowdown=(0.0, 2.0, 1.0, 3.0),
    )


def test_values_are_linear_in_the_logarithm_of_the_coordinates() -> None:
    # m = 10 is halfway between 1 and 100, n = 4 halfway between 1 and 16: 0.5 + 1.
    assert tiny_surface().slowdown(10.0, 4.0) == pytest.approx(np.exp(1.5))
    assert tiny_surface().slowdown(100.0, 16.0) == pytest.approx(np.exp(3.0))


def test_outside_its_knots_a_surface_keeps_its_edge_value() -> None:
    surface = tiny_surface()
    assert surface.slowdown(1e9, 1e9) == pytest.approx(np.exp(3.0))
    assert surface.slowdown(0.001, 0.0) == pytest.approx(1.0)
    assert surface.covers(10.0, 4.0)
    assert not surface.covers(101.0, 4.0)


def test_coordinates_broadcast_together() -> None:
    grid = tiny_surface().slowdown(
        np.asarray([[1.0], [100.0]]), np.asarray([1.0, 16.0])
    )
    assert grid.shape == (2, 2)
    assert np.log(grid) == pytest.approx(np.asarray([[0.0, 2.0], [1.0, 3.0]]))


def test_interpolation_weights_add_up_to_one() -> None:
    _, weight = tiny_surface().corners(np.asarray([0.5, 3.0, 700.0]), 2.0)
    assert weight.sum(axis=0) == pytest.approx(np.ones(3))


def test_the_file_form_is_exact_to_half_a_per_cent() -> None:
    surface = Surface(
        axes=(Axis(name="m", knots=(1.0, 2.5)),), log_slowdown=(0.1234, -0.5)
    )
    data = surface.to_json()
    assert data == {"axes": {"m": [1, 2.5]}, "log_slowdown_half_percent": [25, -100]}
    assert Surface.from_json(data).log_slowdown == (0.125, -0.5)


@pytest.mark.parametrize("knots", [(), (0.0, 1.0), (2.0, 1.0), (1.0, 1.0)])
def test_knots_must_be_positive_and_rise(knots: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="knots"):
        Axis(name="m", knots=knots)


def test_a_surface_has_one_finite_value_a_knot() -> None:
    axes = (Axis(name="m", knots=(1.0, 2.0)),)
    with pytest.raises(InputError, match="log_slowdown"):
        Surface(axes=axes, log_slowdown=(0.0,))
    with pytest.raises(InputError, match="log_slowdown"):
        Surface(axes=axes, log_slowdown=(0.0, float("nan")))


def test_smooth_max_is_the_larger_one_away_from_the_crossing() -> None:
    assert smooth_max(1.0, 10.0) == pytest.approx(10.0, rel=1e-4)
    # Two equal times: 2 ** (1/4) = 1.189.
    assert smooth_max(1.0, 1.0) == pytest.approx(1.1892, rel=1e-4)


def test_a_surface_can_be_read_along_its_first_axis() -> None:
    surface, knots = tiny_surface(), np.asarray([1.0, 10.0, 100.0])
    resampled = surface.resampled(knots)
    assert resampled.axes[0].knots == (1.0, 10.0, 100.0)
    assert resampled.first_axis(4.0) == pytest.approx(surface.slowdown(knots, 4.0))
    each = np.asarray([1.0, 4.0, 64.0])
    assert resampled.first_axis(each) == pytest.approx(surface.slowdown(knots, each))
