"""Served traces read back as they were, with what never came left open."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the engine needs torch")

from clusters.mapping import from_mapping, to_mapping
from models.latency.step_table import StepTable
from profiler.calibration import CalibratedPoint, Calibration, StepPoint
from profiler.engine import EngineLimits
from profiler.served import ServedFile, ServedRun, step_errors
from profiler.serving import OpenLoop, Served, ServedStep, ServingPolicy

SERVED = Served(
    requests=OpenLoop(
        arrival_ms=np.array([0.0, 5.0]),
        input_tokens=np.array([3, 4]),
        output_tokens=np.array([2, 9]),
    ),
    first_token_ms=np.array([7.0, np.nan]),
    finish_ms=np.array([9.0, np.nan]),
    steps=(
        ServedStep(prompt_tokens=3, squares=9.0, num_decodes=0, kv_tokens=0, ms=7.0),
    ),
)


TABLE = StepTable(
    prefill_tokens=(0.0, 1000.0),
    prefill_ms=(0.0, 100.0),
    prefill_per_sq_token_ms=1e-3,
    decode_batch=(1.0, 8.0),
    decode_ms=(2.0, 9.0),
    decode_per_kv_token_ms=(0.0, 0.0),
)


def step(
    prompt: int, squares: float, decodes: int, ms: float, kv: int = 0
) -> ServedStep:
    return ServedStep(
        prompt_tokens=prompt,
        squares=squares,
        num_decodes=decodes,
        kv_tokens=kv,
        ms=ms,
    )


def test_steps_are_held_against_the_table_by_their_kind() -> None:
    steps = [
        # Two prompts of 30 and 40 tokens: 7 ms, and 900 + 1600 squares: 2.5 ms.
        step(70, 2500.0, 0, 10.0),
        # Three decodes padded to four: 2 + 3 = 5 ms.
        step(0, 0.0, 3, 10.0, kv=30),
        step(0, 0.0, 3, 5.0, kv=30),
        # 30 + 4 tokens: 3.4 ms, 0.9 ms of squares, G(4) - F(4) = 5 - 0.4: 8.9 ms.
        step(30, 900.0, 4, 8.9, kv=40),
    ]
    found = {error.kind: error for error in step_errors(steps, TABLE, (1, 2, 4, 8))}
    assert found["prefill"].ratio == pytest.approx(0.95)
    assert found["decode"].num_steps == 2
    assert found["decode"].ratio == pytest.approx((0.5 + 1.0) / 2)
    assert found["decode"].total_ratio == pytest.approx(10.0 / 15.0)
    assert found["mixed"].ratio == pytest.approx(1.0)
    assert found["mixed"].p90_frac == pytest.approx(0.0, abs=1e-9)


def test_runs_read_back_as_they_were() -> None:
    run = ServedRun.of(
        SERVED, policy=ServingPolicy.CHUNKED, load_frac=0.5, rate_rps=2.0
    )
    calibration = Calibration(
        prefill_ms=1.0,
        floor_ms=2.0,
        decode_ms=0.0,
        points=(
            CalibratedPoint(
                point=StepPoint(new_tokens=(3,)), measured_ms=3.0, layers_ms=2.0
            ),
        ),
    )
    file = ServedFile(
        device_name="paper",
        llm="tiny",
        backend="sdpa eager",
        limits=EngineLimits(),
        graph_sizes=(1, 2),
        calibration=calibration,
        runs=(run,),
    )
    again = from_mapping(ServedFile, to_mapping(file))
    assert again == file
    served = again.runs[0].served()
    assert served.steps == SERVED.steps
    np.testing.assert_array_equal(served.ttft_ms, [7.0, np.nan])
    np.testing.assert_array_equal(served.tpot_ms, [2.0, np.nan])
    assert not served.is_complete
