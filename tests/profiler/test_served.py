"""Served traces read back as they were, with what never came left open."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the engine needs torch")

from clusters.mapping import from_mapping, to_mapping
from profiler.calibration import CalibratedPoint, Calibration, StepPoint
from profiler.engine import EngineLimits
from profiler.served import ServedFile, ServedRun
from profiler.serving import OpenLoop, Served, ServingPolicy

SERVED = Served(
    requests=OpenLoop(
        arrival_ms=np.array([0.0, 5.0]),
        input_tokens=np.array([3, 4]),
        output_tokens=np.array([2, 9]),
    ),
    first_token_ms=np.array([7.0, np.nan]),
    finish_ms=np.array([9.0, np.nan]),
    steps=(),
)


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
    np.testing.assert_array_equal(served.ttft_ms, [7.0, np.nan])
    np.testing.assert_array_equal(served.tpot_ms, [2.0, np.nan])
    assert not served.is_complete
