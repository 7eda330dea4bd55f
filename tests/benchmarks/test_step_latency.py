"""Fitted step latencies against other tools' files, where those are at hand."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
GRID = ROOT.parent / "shared/reference/aiconfigurator/step_latency_grid.csv"
VIDUR = ROOT.parent / "shared/reference/vidur"


def script(name: str) -> ModuleType:
    """A script of benchmarks/accuracy as a module."""
    path = ROOT / "benchmarks" / "accuracy" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_more_work_in_less_time_marks_the_slower_row() -> None:
    step_latency = script("step_latency")

    def row(batch: int, length: int, latency_ms: float) -> object:
        return step_latency.Row(
            system="h200_sxm",
            backend="vllm",
            model="Qwen/Qwen3-8B",
            precision="bf16",
            gemm_quant="bfloat16",
            kvcache_quant="bfloat16",
            tp=1,
            moe_tp=1,
            moe_ep=1,
            phase="decode",
            batch=batch,
            length=length,
            latency_ms=latency_ms,
        )

    # (2, 512) takes longer than (4, 512); 1 % less time is within the noise.
    rows = [row(1, 512, 5.0), row(2, 512, 9.0), row(4, 512, 6.0), row(8, 512, 5.95)]
    assert step_latency.faster_with_more_work(rows) == [False, True, False, False]


@pytest.mark.skipif(not GRID.exists(), reason="reference data is not here")
def test_dense_steps_are_within_the_targets() -> None:
    step_latency = script("step_latency")
    rows = step_latency.predicted(step_latency.read_rows(GRID))
    dense = step_latency.report_of(rows)["summary"]["dense"]
    assert dense["median_ape"] <= 0.04
    assert dense["p90_ape"] <= 0.12
    assert dense["excluded"] <= 0.05 * (dense["rows"] + dense["excluded"])
    assert dense["rows"] + dense["excluded"] == 10080


@pytest.mark.skipif(not VIDUR.exists(), reason="reference data is not here")
@pytest.mark.parametrize(
    ("pairs", "what", "limit"),
    [
        ("linears", "linears", 0.06),
        ("attention", "attention", 0.12),
        ("all_reduces", "all_reduce above 1 MB", 0.15),
    ],
)
def test_profiled_operators_are_within_the_targets(
    pairs: str, what: str, limit: float
) -> None:
    vidur = script("vidur")
    errors = sorted(
        abs(predicted / measured - 1.0)
        for name, fit, measured, predicted in getattr(vidur, pairs)(VIDUR)
        if (name, fit) == (what, "vidur")
    )
    assert errors[len(errors) // 2] <= limit
