"""Slowdowns compare the same step on a part and on all of the GPU, and nothing else."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from models.latency.profile import Profile
from models.latency.profile_build import fit_profile
from models.latency.profile_fit import fit_prefill
from models.latency.profile_shares import share_slowdowns
from models.llm import LlmSpec
from models.profile_records import Environment, Spread, Status, StepPoint, StepRecord
from models.profile_table import ProfileTable, format_record, parse_record

HERE = Environment(device="synthetic", device_name="paper", gpu="paper")
DECODE = StepPoint(num_decodes=8, kv_tokens=8000.0)


def record(point: StepPoint, ms: float, share: float = 1.0) -> StepRecord:
    return StepRecord(
        environment=HERE,
        llm=LlmSpec.load("opt-13b"),
        tp=1,
        part="dense",
        dtype="bf16",
        sm_share_frac=share,
        point=point,
        status=Status.OK,
        step=Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9),
    )


def prompt(tokens: int) -> StepPoint:
    return StepPoint(new_tokens=(tokens,))


def test_slowdown_is_the_median_over_the_points_of_a_phase() -> None:
    records = [record(prompt(n), ms) for n, ms in ((64, 1.0), (512, 2.0), (2048, 8.0))]
    records.append(record(DECODE, 3.0))
    # Half of the SMs: 1.6, 1.9 and 2.0 times as long; decode 1.1 times.
    half = {64: 1.6, 512: 3.8, 2048: 16.0}
    records += [record(prompt(n), ms, 0.5) for n, ms in half.items()]
    records.append(record(DECODE, 3.3, 0.5))
    prefill, decode = share_slowdowns(records)
    assert (prefill.sm_share_frac, prefill.phase, prefill.num_points) == (
        0.5,
        "prefill",
        3,
    )
    assert prefill.slowdown == pytest.approx(1.9)
    assert (prefill.least, prefill.most) == (pytest.approx(1.6), pytest.approx(2.0))
    assert (decode.phase, decode.num_requests) == ("decode", 8)
    assert decode.slowdown == pytest.approx(1.1)


def test_decode_batches_are_told_apart() -> None:
    large = StepPoint(num_decodes=256, kv_tokens=8000.0)
    records = [record(DECODE, 1.0), record(large, 2.0)]
    records += [record(large, 3.0, 0.5), record(DECODE, 1.1, 0.5)]
    found = [(s.num_requests, s.slowdown) for s in share_slowdowns(records)]
    assert found == [(8, pytest.approx(1.1)), (256, pytest.approx(1.5))]


def test_points_of_other_parts_or_sizes_are_not_compared() -> None:
    records = [record(prompt(64), 1.0), record(prompt(64), 2.0, 0.5)]
    records.append(replace(record(prompt(64), 50.0, 0.5), part="ends"))
    records.append(record(prompt(128), 50.0, 0.5))
    (found,) = share_slowdowns(records)
    assert found.slowdown == pytest.approx(2.0)
    assert found.num_points == 1


def test_share_that_was_never_measured_whole_is_refused() -> None:
    with pytest.raises(InputError, match="on all SMs"):
        share_slowdowns([record(DECODE, 1.0, 0.5)])


def test_steps_on_a_share_are_not_fitted_with_the_others() -> None:
    records = [record(prompt(n), n / 64) for n in (64, 128, 256, 512)]
    records.append(record(prompt(300), 9.0, 0.3))
    with pytest.raises(InputError, match=r"sm_share_frac = 0\.3"):
        fit_prefill(records)


def test_profile_keeps_shares_beside_tables_of_the_whole_gpu() -> None:
    records = [record(prompt(n), n / 64) for n in (64, 128, 256, 512)]
    decodes = [StepPoint(num_decodes=b, kv_tokens=100.0 * b) for b in (1, 2, 4, 8)]
    records += [record(point, 1.0 + point.num_decodes) for point in decodes]
    records += [record(prompt(64), 3.0, 0.3), record(decodes[0], 2.4, 0.3)]
    profile = fit_profile(ProfileTable(records=tuple(records)))
    (model,) = profile.models
    assert model.parts[0].table.prefill_step_ms([512]) == pytest.approx(8.0, rel=0.01)
    assert [s.slowdown for s in model.sm_shares] == [
        pytest.approx(3.0),
        pytest.approx(1.2),
    ]
    # The file says it too.
    from clusters.mapping import from_mapping, to_mapping

    assert from_mapping(Profile, to_mapping(profile)) == profile


def test_share_is_part_of_what_a_record_is() -> None:
    whole, half = record(DECODE, 1.0), record(DECODE, 1.5, 0.5)
    assert whole.key != half.key
    assert parse_record(format_record(half).encode()) == half
    assert len(ProfileTable(records=(whole, half)).steps) == 2
