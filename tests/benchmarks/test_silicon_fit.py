"""The solver of engine constants: robust, within bounds, generations tied."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "accuracy"))
silicon_fit: Any = importlib.import_module("silicon_fit")


def _constants(**values: float) -> tuple[tuple[Any, ...], np.ndarray]:
    constants = tuple(
        silicon_fit.Constant(name=name, start=0.0, step=1.0, most=100.0)
        for name in values
    )
    return constants, np.asarray(list(values.values()))


def test_the_solver_finds_constants_despite_an_odd_row() -> None:
    constants, start = _constants(request_ms=0.0, launch_ms=0.0)
    rng = np.random.default_rng(1)
    slopes = rng.normal(size=(200, 2))
    residuals = -slopes @ np.asarray([3.0, 1.0])
    residuals[0] += 50.0
    found = silicon_fit.solve(
        residuals, slopes, np.ones(len(residuals)), constants, start
    )
    assert found == pytest.approx([3.0, 1.0], abs=0.01)


def test_the_solver_stays_within_bounds() -> None:
    constants, start = _constants(request_ms=1.0)
    slopes = np.ones((50, 1))
    # No constant falls below 0, nor moves by more than four steps at once.
    shares = np.ones(50)
    found = silicon_fit.solve(np.full(50, 9.0), slopes, shares, constants, start)
    assert found == pytest.approx([0.0])
    found = silicon_fit.solve(np.full(50, -9.0), slopes, shares, constants, start)
    assert found == pytest.approx([5.0])


def test_a_factor_without_rows_takes_that_of_the_other_generation() -> None:
    constants = tuple(
        silicon_fit.Constant(
            name="decode_factor", start=1.0, step=0.1, most=3.0, generation=generation
        )
        for generation in ("blackwell", "hopper")
    )
    start = np.asarray([1.0, 1.0])
    # Rows of the first alone, which want it 10 % lower: one step.
    slopes = np.stack([np.full(50, 0.1), np.zeros(50)], axis=1)
    found = silicon_fit.solve(np.full(50, 0.1), slopes, np.ones(50), constants, start)
    assert found == pytest.approx([0.9, 0.9], abs=0.002)
    # Rows of both: each takes nearly its own.
    both = np.concatenate([slopes, slopes[:, ::-1]])
    residuals = np.concatenate([np.full(50, 0.1), np.zeros(50)])
    found = silicon_fit.solve(residuals, both, np.ones(100), constants, start)
    assert found == pytest.approx([0.9, 1.0], abs=0.02)
