"""Fitting an engine's constants to measured runs, and scoring them on runs left out.

Steps
    1. Residuals: logarithms of predicted over measured TPOT, and of TTFT at less
       weight. A run of an unknown harness counts for its TPOT alone, at less weight
       too: how it was launched is a guess. They count by their absolute value, and
       very large ones not at all, so that no group of odd runs decides.
    2. Rows of one (model, GPU) pair share their operators' error, so a pair says less
       than its rows do: it counts as the square root of their number. The factors of
       GPU generations are tied to each other, as most of what an engine adds is the
       same on all: a generation of few models takes little of their error.
    3. Gauss-Newton within bounds: simulate every row with each constant moved a little,
       solve the linear problem, repeat. What does not move a row is not simulated.
    4. Leave out one (model, GPU) pair at a time: solve the last linear problem without
       its rows, and simulate its rows with those constants. The same for a model on
       all GPUs, and for a GPU generation.

The file lists the same runs of DeepSeek-R1 under the name of DeepSeek-V3 as well, which
has the same shape: they are left out together.

Everything is deterministic; the constants are the same for all models and GPUs but the
two factors of a GPU generation.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from silicon_predict import Case, Prediction, handled, simulated

from planner.engine_overheads import EngineOverheads, VersionSkew
from planner.engines import OverheadFit, generation_of

FloatArray = NDArray[np.float64]

TTFT_WEIGHT = 0.75
GUESSED_WEIGHT = 0.5
ROWS_POWER = 0.5
"""A pair counts as its number of rows to this power."""
APART = 0.2
"""Standard deviation of the logarithm of a factor from one GPU generation to another,
in weighted residuals."""
SAME_SHAPE = {"DeepSeek-V3": "DeepSeek-R1"}
ROBUST_FROM = 0.05
"""Residuals beyond this count by their absolute value."""
CLIP = 0.6
"""Residuals beyond this pull no more: a run so far off ran under other conditions."""
ITERATIONS = 5
REWEIGHTINGS = 20
NOTHING = 0.01
"""Share of its step below which a constant counts as absent."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One constant to fit."""

    name: str
    start: float
    step: float
    most: float
    generation: str = ""


DRAFTS = "draft_acceptance_frac"
ENGINE_CONSTANTS = (
    Constant(name="request_ms", start=30.0, step=20.0, most=500.0),
    Constant(name="launch_ms", start=0.05, step=0.02, most=0.5),
    Constant(name="graph_kernel_ms", start=0.001, step=0.0005, most=0.01),
    Constant(name="step_per_request_ms", start=0.005, step=0.005, most=0.2),
    Constant(name="answer_per_client_ms", start=0.5, step=0.5, most=10.0),
    Constant(name=DRAFTS, start=0.6, step=0.1, most=1.0),
)
FACTORS = (
    Constant(name="prefill_factor", start=1.0, step=0.1, most=3.0),
    Constant(name="decode_factor", start=1.0, step=0.05, most=2.0),
)
_LEAST_FACTOR = 0.3


KINDS = ("pair", "model", "generation")
"""What is left out: a model on a GPU system, a model, a GPU generation."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The fit of one engine, and those without a group with what they predict for it.

    `without` is by kind of group, then by group; `held_out` by kind, then by row.
    """

    fit: OverheadFit
    without: Mapping[str, Mapping[str, OverheadFit]]
    held_out: Mapping[str, Mapping[str, Prediction]]


def group_of(case: Case, kind: str = "pair") -> str:
    """Name of the group of a kind that is left out together."""
    model = SAME_SHAPE.get(case.row.model, case.row.model)
    if kind == "generation":
        return generation_of(case.gpu)
    return model if kind == "model" else f"{model} on {case.row.system}"


def fit_engine(cases: Sequence[Case]) -> Fitted:
    """Constants of the engine of `cases`, all of one engine."""
    constants = constants_for(cases)
    values = np.asarray([c.start for c in constants])
    simulations = Simulations()
    shares = shares_of(cases)
    for _ in range(ITERATIONS):
        residuals, slopes = linearised(cases, constants, values, simulations)
        values = solve(residuals, slopes, shares, constants, values)
    residuals, slopes = linearised(cases, constants, values, simulations)
    without: dict[str, dict[str, OverheadFit]] = {kind: {} for kind in KINDS}
    held_out: dict[str, dict[str, Prediction]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        groups = np.asarray([group_of(case, kind) for case in cases])
        for left_out in sorted(set(groups.tolist())):
            kept = np.repeat(groups != left_out, 2)
            moved = solve(
                residuals[kept], slopes[kept], shares[kept], constants, values
            )
            fit = without[kind][left_out] = fit_of(constants, moved)
            for case in cases:
                if group_of(case, kind) == left_out:
                    held_out[kind][case.row.id] = simulations.predict(case, fit)
    fit = replace(
        fit_of(constants, values), rows=len(cases), groups=len(without["pair"])
    )
    return Fitted(fit=fit, without=without, held_out=held_out)


def shares_of(cases: Sequence[Case]) -> FloatArray:
    """Weight of every residual for the size of its pair, two a case."""
    pairs = [group_of(case) for case in cases]
    rows = Counter(pairs)
    counted = np.asarray([rows[pair] ** (ROWS_POWER - 1.0) for pair in pairs])
    return np.repeat(np.sqrt(counted), 2)


def constants_for(cases: Sequence[Case]) -> tuple[Constant, ...]:
    """At most six of the engine, and two for each GPU generation among `cases`."""
    generations = sorted({generation_of(case.gpu) for case in cases})
    drafts = any(case.launch.draft_tokens for case in cases)
    own = tuple(c for c in ENGINE_CONSTANTS if drafts or c.name != DRAFTS)
    return own + tuple(
        replace(factor, generation=generation)
        for generation in generations
        for factor in FACTORS
    )


def fit_of(constants: Sequence[Constant], values: FloatArray) -> OverheadFit:
    """Constants with their values in the form that the planner uses."""
    found: dict[str, dict[str, float]] = {}
    for constant, value in zip(constants, values.tolist(), strict=True):
        found.setdefault(constant.generation, {})[constant.name] = _rounded(
            value, constant
        )
    return OverheadFit(
        overheads=EngineOverheads(**found.pop("")),
        skews=tuple(
            VersionSkew(generation=generation, **factors)
            for generation, factors in sorted(found.items())
        ),
    )


class Simulations:
    """Predictions, each simulated once: many constants leave many rows alone."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Prediction] = {}

    def predict(self, case: Case, fit: OverheadFit) -> Prediction:
        """As `silicon_predict.predict`."""
        drafts = case.launch.draft_tokens > 0
        frac = fit.overheads.draft_acceptance_frac if drafts else 0.0
        steps = replace(
            fit.overheads,
            request_ms=0.0,
            answer_per_client_ms=0.0,
            draft_acceptance_frac=frac,
        )
        key = (case.row.id, steps, fit.skew(case.gpu))
        if key not in self._found:
            self._found[key] = simulated(case, fit)
        return handled(self._found[key], case, fit)


def residuals_of(
    cases: Sequence[Case], fit: OverheadFit, simulations: Simulations
) -> FloatArray:
    """Weighted log errors, TTFT and TPOT of every case in turn."""
    found = []
    for case in cases:
        predicted = simulations.predict(case, fit)
        is_known = case.row.is_public_run
        ttft = np.log(predicted.ttft_ms / case.row.ttft_ms)
        tpot = np.log(predicted.tpot_ms / case.row.tpot_ms)
        found.append(TTFT_WEIGHT * is_known * np.clip(ttft, -CLIP, CLIP))
        found.append((1.0 if is_known else GUESSED_WEIGHT) * np.clip(tpot, -CLIP, CLIP))
    return np.asarray(found)


def linearised(
    cases: Sequence[Case],
    constants: Sequence[Constant],
    values: FloatArray,
    simulations: Simulations,
) -> tuple[FloatArray, FloatArray]:
    """Residuals, and their slope in each constant over its step."""
    base = residuals_of(cases, fit_of(constants, values), simulations)
    columns = []
    for place, constant in enumerate(constants):
        moved = values.copy()
        moved[place] += constant.step
        there = residuals_of(cases, fit_of(constants, moved), simulations)
        columns.append(there - base)
    return base, np.stack(columns, axis=1)


def solve(
    residuals: FloatArray,
    slopes: FloatArray,
    shares: FloatArray,
    constants: Sequence[Constant],
    values: FloatArray,
) -> FloatArray:
    """Robust linear least squares around `values`, within bounds and ties."""
    steps = np.asarray([c.step for c in constants])
    least = np.asarray([_LEAST_FACTOR * (c.generation != "") for c in constants])
    most = np.asarray([c.most for c in constants])
    # No constant moves by more than a few of its steps at a time.
    low = np.maximum((least - values) / steps, -4.0)
    high = np.minimum((most - values) / steps, 4.0)
    tied, offsets = ties(constants, values)
    moves = np.zeros(len(constants))
    for _ in range(REWEIGHTINGS):
        size = np.abs(residuals + slopes @ moves)
        weight = shares / np.sqrt(np.maximum(size, ROBUST_FROM))
        moves = lsq_linear(
            np.concatenate([weight[:, None] * slopes, tied]),
            np.concatenate([-weight * residuals, -offsets]),
            bounds=(low, high + 1e-12),
        ).x
    moved: FloatArray = values + moves * steps
    return moved


def ties(
    constants: Sequence[Constant], values: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """What ties the factors of generations: slopes in the constants' steps, offsets.

    Logarithms of each factor over that of the next generation, in units of `APART`.
    """
    slopes, offsets = [], []
    for name in (factor.name for factor in FACTORS):
        places = [i for i, constant in enumerate(constants) if constant.name == name]
        for one, other in pairwise(places):
            slope = np.zeros(len(constants))
            slope[one] = constants[one].step / values[one] / APART
            slope[other] = -constants[other].step / values[other] / APART
            slopes.append(slope)
            offsets.append(np.log(values[one] / values[other]) / APART)
    return np.reshape(slopes, (-1, len(constants))), np.asarray(offsets)


def _rounded(value: float, constant: Constant) -> float:
    """Four significant digits, and nothing where a constant ended at its bound of 0."""
    return 0.0 if value < NOTHING * constant.step else float(f"{value:.4g}")
