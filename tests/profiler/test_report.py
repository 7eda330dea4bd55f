"""The report's own figures: saturation of prefill and repeatability of two runs."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.profile_records import Environment, Spread, Status, StepPoint, StepRecord
from models.profile_table import ProfileTable
from profiler.report import repeatability, saturation_tokens


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


def test_prefill_saturates_where_tokens_a_second_stop_rising() -> None:
    # 1 ms up to 512 tokens, then 1/512 ms a token: full speed from 512 on.
    table = StepTable(
        prefill_tokens=(512.0, 8192.0),
        prefill_ms=(1.0, 16.0),
        decode_batch=(1.0,),
        decode_ms=(1.0,),
        decode_per_kv_token_ms=(0.0,),
    )
    assert saturation_tokens(table) == 512


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
