"""The report: repeatability of two runs, and whatever a campaign left."""

from dataclasses import replace
from pathlib import Path

import pytest

from clusters.fields import InputError
from models.llm import LlmSpec
from models.profile_records import Environment, Spread, Status, StepPoint, StepRecord
from models.profile_table import ProfileTable, write_profile_table
from profiler.report import campaign_report, repeatability


def record(tokens: int, ms: float) -> StepRecord:
    return StepRecord(
        environment=Environment(device="synthetic", device_name="p", gpu="p"),
        llm=LlmSpec.load("opt-13b"),
        tp=1,
        part="dense",
        dtype="bf16",
        point=StepPoint(new_tokens=(tokens,)),
        status=Status.OK,
        step=Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9),
    )


def test_repeatability_is_the_median_difference_of_common_points() -> None:
    first = ProfileTable(records=tuple(record(n, 1.0) for n in (1, 2, 3, 4)))
    times = {2: 1.01, 3: 0.98, 4: 1.5, 5: 9.0}
    second = ProfileTable(records=tuple(record(n, ms) for n, ms in times.items()))
    # 1 %, 2 % and 50 %; the point of 5 tokens is in one table only.
    median, num = repeatability(first, second)
    assert median == pytest.approx(0.02)
    assert num == 3


def test_runs_without_a_common_point_cannot_be_compared() -> None:
    first = ProfileTable(records=(record(1, 1.0),))
    other = replace(first, records=(record(2, 1.0),))
    with pytest.raises(InputError, match="no point in common"):
        repeatability(first, other)


def test_report_of_a_campaign_that_broke_early_says_what_there_is(
    tmp_path: Path,
) -> None:
    lost = replace(
        record(512, 1.0), step=None, status=Status.NOT_MEASURED, note="out of luck"
    )
    write_profile_table(tmp_path / "records.jsonl", [record(256, 1.0), lost])
    summary = {
        "features": {"fp8 products": "not available: too old"},
        "other_users": "900 MiB of the GPU are held by other processes",
        "main_s": 3.5,
        "serve_failed": "Traceback ...\nRuntimeError: no room",
        "predict_skipped": "nothing was served",
    }
    text = campaign_report(tmp_path, summary)
    for line in (
        "- points: 2: 1 ok, 1 not_measured",
        "- not measured: out of luck",
        "- fp8 products: not available: too old",
        "- **900 MiB of the GPU are held by other processes**",
        "- main: 3.5 s",
        "- **serve failed**: RuntimeError: no room",
        "- predict skipped: nothing was served",
    ):
        assert line in text
    assert "Held-out errors" not in text
