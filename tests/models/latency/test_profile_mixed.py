"""Mixed steps are held against four laws, worked out by hand for one table."""

import pytest

from models.latency.profile_mixed import (
    chunk_of,
    decodes_of,
    fit_mixed,
    with_mixed_law,
)
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
    # Not exactly 3: the prior holds every factor back a little.
    assert fit.chunk_attention_factor == pytest.approx(1.0, abs=0.01)
    assert fit.decode_attention_factor == pytest.approx(3.0, abs=0.05)
    assert fit.unshared_linear_frac == pytest.approx(0.0, abs=0.1)
    # Three steps are too few to trust it.
    assert fit.fitted is None
    assert with_mixed_law(TABLE, fit) is TABLE


def injected_ms(tokens: int, past: int, batch: int, kv_tokens: float) -> float:
    """A device whose mixed steps follow another law than tables have by default.

    Attention of the chunk takes 1.5 times as long as alone, that of the decodes 0.6
    times; 0.3 of the decodes' linears, min(F, G) = 1 ms up to 100 of them, are done
    apart.
    """
    chunk = 1e-5 * (tokens**2 + 2 * tokens * past)
    linears = max(1.0, (tokens + batch) / 100) + (0.5 + batch / 100)
    return linears + 0.3 + 1.5 * chunk + 0.6 * 1e-4 * kv_tokens


POINTS = [
    (tokens, past, batch, kv)
    for tokens, past in ((128, 0), (512, 0), (512, 400), (900, 100))
    for batch, kv in ((8, 4e3), (64, 9e4))
]


def injected_records() -> list[StepRecord]:
    return [
        record(
            StepPoint(
                new_tokens=(tokens,), past_tokens=(past,), num_decodes=b, kv_tokens=kv
            ),
            injected_ms(tokens, past, b, kv),
        )
        for tokens, past, b, kv in POINTS
    ]


def test_injected_law_is_recovered_and_simulated() -> None:
    fit = fit_mixed(injected_records(), TABLE)
    assert fit is not None
    assert fit.chunk_attention_factor == pytest.approx(1.5, abs=0.02)
    assert fit.decode_attention_factor == pytest.approx(0.6, abs=0.02)
    assert fit.unshared_linear_frac == pytest.approx(0.3, abs=0.02)
    assert fit.is_simulated
    assert fit.fitted is not None
    assert fit.fitted.p90_frac < 0.01 < fit.shared.median_frac
    table = with_mixed_law(TABLE, fit)
    # At steps that were not measured; chunks and decodes alone are as they were.
    for tokens, past, batch, kv in ((300, 200, 30, 5e4), (700, 0, 90, 2e4)):
        ms = table.mixed_step_ms([tokens], [past], batch, kv)
        assert ms == pytest.approx(injected_ms(tokens, past, batch, kv), rel=0.01)
        assert ms != pytest.approx(
            TABLE.mixed_step_ms([tokens], [past], batch, kv), rel=0.02
        )
    assert table.prefill_step_ms([300], [200]) == TABLE.prefill_step_ms([300], [200])
    assert table.decode_step_ms(30, 5e4) == TABLE.decode_step_ms(30, 5e4)


def test_outlier_does_not_bend_the_law() -> None:
    records = injected_records()
    slow = records[3].step
    assert slow is not None
    records[3] = record(records[3].point, 1.5 * slow.ms)
    fit = fit_mixed(records, TABLE)
    assert fit is not None
    assert fit.chunk_attention_factor == pytest.approx(1.5, abs=0.1)
    assert fit.decode_attention_factor == pytest.approx(0.6, abs=0.1)


def test_device_that_follows_the_law_changes_nothing() -> None:
    records = [
        record(
            r.point,
            TABLE.mixed_step_ms(
                r.point.new_tokens,
                r.point.past_tokens,
                r.point.num_decodes,
                r.point.kv_tokens,
            ),
        )
        for r in injected_records()
    ]
    fit = fit_mixed(records, TABLE)
    assert fit is not None
    assert not fit.is_simulated
    assert with_mixed_law(TABLE, fit) is TABLE


def test_without_mixed_steps_there_is_no_fit() -> None:
    assert fit_mixed([record(chunk_of(POINT), 1.0)], TABLE) is None
