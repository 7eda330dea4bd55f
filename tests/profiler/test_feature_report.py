"""A campaign says of every feature that it is there, or why it is not."""

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from profiler import feature_report as module  # noqa: E402
from profiler.feature_report import feature_report  # noqa: E402
from profiler.features import LEFT_OUT  # noqa: E402
from profiler.layers.settings import LayerSettings  # noqa: E402


def test_processor_has_none_of_them() -> None:
    found = feature_report(LayerSettings.for_device(torch.device("cpu"), "fp32"))
    assert found["flash kernel for ragged batches"] == "not available: no CUDA device"
    assert found["fused elementwise steps"] == "not available: not fused on a CPU"
    assert found["fp8 products"] == "not available: fp8 products give bf16 here"
    assert found["captured steps"] == "not available: no CUDA device"


def test_device_with_all_of_them_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("why_not_varlen", "why_not_fp8"):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(module, "why_not_grouped", lambda *_: "too old")
    cuda = LayerSettings(device=torch.device("cuda"), dtype=torch.bfloat16)
    assert feature_report(cuda) == {
        "flash kernel for ragged batches": "ok",
        "fused elementwise steps": "ok",
        "fp8 products": "ok",
        "grouped products": "not available: too old",
        "captured steps": "ok",
    }
    monkeypatch.setenv(LEFT_OUT, "graphs")
    told = f"not available: left out by {LEFT_OUT}"
    assert feature_report(cuda)["captured steps"] == told
