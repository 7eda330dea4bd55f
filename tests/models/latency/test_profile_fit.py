"""The fit recovers a known law through noise and outliers, and knows its own error."""

from collections.abc import Callable

import numpy as np
import pytest

from clusters.fields import InputError
from models.latency.profile_fit import fit_decode, fit_prefill, step_table_of
from models.llm import LlmSpec
from models.profile_records import (
    Environment,
    Role,
    Spread,
    Status,
    StepPoint,
    StepRecord,
)

HERE = Environment(device="synthetic", device_name="paper", gpu="paper")
LLM = LlmSpec.load("opt-13b")
SQUARES_MS = 1.2e-7
KV_MS = 1.5e-6
Law = Callable[[StepPoint], float]


def law_ms(point: StepPoint) -> float:
    """A layer that streams weights up to 300 tokens, and is linear beyond."""
    if point.new_tokens:
        tokens = point.prompt_tokens
        return max(0.4, 0.4 * tokens / 300) + 1e-3 * tokens + SQUARES_MS * point.squares
    return 0.4 + 4e-4 * point.num_decodes + KV_MS * point.kv_tokens


def prefills() -> list[StepPoint]:
    alone = [StepPoint(new_tokens=(2**k,)) for k in range(4, 14)]
    split = [StepPoint(new_tokens=(n,) * (8192 // n)) for n in (256, 1024)]
    chunks = [StepPoint(new_tokens=(n,), past_tokens=(8192,)) for n in (512, 2048)]
    return alone + split + chunks


def decodes() -> list[StepPoint]:
    return [
        StepPoint(num_decodes=batch, kv_tokens=float(batch * context))
        for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        for context in (128, 1024, 4096)
    ]


def unseen() -> list[StepPoint]:
    alone = [StepPoint(new_tokens=(n,)) for n in (96, 200, 384, 768, 1536, 3000, 6000)]
    return alone + [
        StepPoint(num_decodes=batch, kv_tokens=float(batch * context))
        for batch in (1, 3, 12, 24, 48, 100, 200)
        for context in (512, 2048)
    ]


def records(
    points: list[StepPoint], *, seed: int, noise: float, outliers: float = 0.0
) -> list[StepRecord]:
    """Each point three times, with relative normal noise and outliers of 3x."""
    rng = np.random.default_rng(seed)
    found = []
    for point in points * 3:
        factor = 1.0 + noise * rng.standard_normal()
        factor *= 3.0 if rng.random() < outliers else 1.0
        found.append(record(point, law_ms(point) * factor))
    return found


def record(point: StepPoint, ms: float, role: Role = Role.FIT) -> StepRecord:
    spread = Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9)
    return StepRecord(
        environment=HERE,
        llm=LLM,
        tp=1,
        part="dense",
        dtype="bf16",
        point=point,
        role=role,
        status=Status.OK,
        step=spread,
    )


@pytest.mark.parametrize("outliers", [0.0, 0.01], ids=["clean", "outliers"])
@pytest.mark.parametrize("seed", range(5))
def test_law_is_recovered_through_three_percent_noise(
    seed: int, outliers: float
) -> None:
    prefill = fit_prefill(records(prefills(), seed=seed, noise=0.03, outliers=outliers))
    decode = fit_decode(records(decodes(), seed=seed, noise=0.03, outliers=outliers))
    table = step_table_of(prefill, decode)
    errors = []
    for point in unseen():
        predicted = (
            table.prefill_step_ms(point.new_tokens)
            if point.new_tokens
            else table.decode_step_ms(point.num_decodes, point.kv_tokens)
        )
        errors.append(abs(predicted / law_ms(point) - 1.0))
    assert np.median(errors) < 0.02
    assert prefill.slopes_ms[0] == pytest.approx(SQUARES_MS, rel=0.05)
    slope = np.interp(64, decode.knots, decode.slopes_ms)
    assert slope == pytest.approx(KV_MS, rel=0.05)


def test_exact_times_are_fitted_exactly() -> None:
    exact = [record(p, law_ms(p)) for p in decodes()]
    fit = fit_decode(exact)
    # The law of decode is one line, so two knots are enough and nothing is left over.
    assert len(fit.knots) == 2
    assert fit.error.max_frac < 1e-6


def test_error_is_that_of_the_points_held_out() -> None:
    points = [record(p, law_ms(p)) for p in decodes()]
    # Held out, and measured 10 % above the law: that is the error, at all three.
    held = [
        record(
            StepPoint(num_decodes=batch, kv_tokens=600.0 * batch),
            1.1 * law_ms(StepPoint(num_decodes=batch, kv_tokens=600.0 * batch)),
            Role.HOLDOUT,
        )
        for batch in (3, 24, 100)
    ]
    error = fit_decode(points + held).error
    assert error.method == "held out"
    assert error.num_points == 3
    assert error.median_frac == pytest.approx(1.0 - 1.0 / 1.1, abs=1e-3)


def test_probes_are_not_fitted() -> None:
    points = [record(p, law_ms(p)) for p in decodes()]
    odd = record(StepPoint(num_decodes=64, kv_tokens=64.0), 1e6, Role.PROBE)
    assert fit_decode([*points, odd]) == fit_decode(points)


def test_no_value_or_slope_is_negative() -> None:
    # Times that fall with the batch: the best rising curve is flat.
    falling = [
        record(StepPoint(num_decodes=b, kv_tokens=float(c)), 10.0 / b)
        for b in (1, 2, 4, 8)
        for c in (10, 100)
    ]
    fit = fit_decode(falling)
    assert min(fit.values_ms) >= 0
    assert (np.diff(fit.values_ms) >= 0).all()
    assert min(fit.slopes_ms) >= 0


def test_too_few_points_are_refused() -> None:
    point = StepPoint(num_decodes=1, kv_tokens=8.0)
    with pytest.raises(InputError, match="decode records"):
        fit_decode([record(point, 1.0)])
