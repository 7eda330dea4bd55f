"""Mixed steps are held against three laws, worked out by hand for one table."""

import pytest

from models.latency.profile_mixed import chunk_of, decodes_of, fit_mixed
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.profile_records import Environment, Spread, Status, StepPoint, StepRecord

HERE = Environment(device="synthetic", device_name="paper", gpu="paper")
TABLE = StepTable(
    # F: 1 ms up to 100 tokens, then 1/100 ms a token.
    prefill_tokens=(100.0, 1000.0),
    prefill_ms=(1.0, 10.0),
    prefill_per_sq_token_ms=1e-5,
    # G: 1.5 ms and 1/100 ms a request; H: 1/10 us a token.
    decode_batch=(0.0, 100.0),
    decode_ms=(1.5, 2.5),
    decode_per_kv_token_ms=(1e-4, 1e-4),
)
POINT = StepPoint(
    new_tokens=(400,), past_tokens=(500,), num_decodes=50, kv_tokens=20_000.0
)
# Chunk: F(400) = 4; squares 400^2 + 2*400*500 = 560000, 5.6 ms: 9.6 ms.
# Decodes: G(50) = 2, H S = 2: 4 ms.
# Shared: F(450) = 4.5, + 5.6 + max(0, G(50) - F(50)) = 2 - 1 = 1, + 2: 13.1 ms.
CHUNK_MS, DECODE_MS, SHARED_MS = 9.6, 4.0, 13.1


def record(point: StepPoint, ms: float) -> StepRecord:
    return StepRecord(
        environment=HERE,
        llm=LlmSpec.load("opt-13b"),
        tp=1,
        part="dense",
        dtype="bf16",
        point=point,
        status=Status.OK,
        step=Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9),
    )


def test_parts_of_a_mixed_step_are_its_chunk_and_its_decodes() -> None:
    assert chunk_of(POINT) == StepPoint(new_tokens=(400,), past_tokens=(500,))
    assert decodes_of(POINT) == StepPoint(num_decodes=50, kv_tokens=20_000.0)


def test_laws_are_held_against_the_measured_step() -> None:
    fit = fit_mixed([record(POINT, SHARED_MS)], TABLE)
    assert fit is not None
    assert fit.num_points == 1
    assert fit.shared.median_frac == pytest.approx(0.0, abs=1e-9)
    assert fit.sum.median_frac == pytest.approx(
        (CHUNK_MS + DECODE_MS) / SHARED_MS - 1.0
    )
    assert fit.max.median_frac == pytest.approx(1.0 - CHUNK_MS / SHARED_MS)
    assert fit.sum.measured_to_law == pytest.approx(SHARED_MS / (CHUNK_MS + DECODE_MS))


def test_parts_that_were_measured_count_before_the_fitted_ones() -> None:
    records = [
        record(POINT, 15.0),
        record(chunk_of(POINT), 10.0),
        record(decodes_of(POINT), 5.0),
    ]
    fit = fit_mixed(records, TABLE)
    assert fit is not None
    assert fit.sum.median_frac == pytest.approx(0.0, abs=1e-9)
    assert fit.max.median_frac == pytest.approx(1 / 3)


def test_factors_of_the_attentions_are_recovered() -> None:
    # Decode attention 3 times as slow in company, that of the chunk as alone.
    records = []
    for tokens, batch, kv in ((200, 10, 9e4), (400, 50, 2e4), (800, 80, 6e4)):
        point = StepPoint(
            new_tokens=(tokens,), past_tokens=(500,), num_decodes=batch, kv_tokens=kv
        )
        alone = TABLE.mixed_step_ms([tokens], [500], batch, kv)
        records.append(record(point, alone + 2.0 * 1e-4 * kv))
    fit = fit_mixed(records, TABLE)
    assert fit is not None
    assert fit.chunk_attention_factor == pytest.approx(1.0)
    assert fit.decode_attention_factor == pytest.approx(3.0)


def test_without_mixed_steps_there_is_no_fit() -> None:
    assert fit_mixed([record(chunk_of(POINT), 1.0)], TABLE) is None
