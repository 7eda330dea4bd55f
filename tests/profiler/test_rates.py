"""Rates are measured once each; one that cannot be is told and stops no other."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from models.llm import LlmSpec  # noqa: E402
from models.profile_table import read_profile_table  # noqa: E402
from profiler.ceilings import append_ceilings  # noqa: E402
from profiler.environment import Device  # noqa: E402
from profiler.grid import GridLimits  # noqa: E402
from profiler.kernel_rates import append_kernel_rates  # noqa: E402
from profiler.rates import RateWriter  # noqa: E402
from profiler.subject import Subject  # noqa: E402
from profiler.timing import TimingSettings  # noqa: E402

CPU = Device(kind="cpu")
QUICK = TimingSettings(target_ci_frac=9.0, min_samples=6, num_warmup=0)


def test_rate_is_work_over_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.jsonl"
    with RateWriter(CPU, path, timing=QUICK) as rates:
        rates.time("nap", lambda: (100.0, lambda: None), rate_unit="1/s", size="none")
    (rate,) = read_profile_table(path).rates
    assert rate.per_s == pytest.approx(100.0 / rate.spread.ms * 1e3)


def test_rate_that_cannot_be_measured_is_told(tmp_path: Path) -> None:
    def make() -> object:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried 8 GiB")

    path = tmp_path / "r.jsonl"
    with RateWriter(CPU, path, timing=QUICK) as rates:
        rates.time("copy", make, rate_unit="bytes/s", size="8 GiB")
        rates.time("nap", lambda: (1.0, lambda: None), rate_unit="1/s", size="none")
        assert rates.problems == ["copy: CUDA out of memory."]
    assert [rate.name for rate in read_profile_table(path).rates] == ["nap"]


def test_ceilings_and_kernels_are_measured_once(
    tmp_path: Path, tiny_llm: LlmSpec
) -> None:
    path = tmp_path / "r.jsonl"
    subject = Subject(llm=tiny_llm, part="dense", dtype="fp32")
    limits = GridLimits(max_prompt_tokens=64, max_requests=4, max_kv_tokens=256)
    for _ in range(2):
        assert append_ceilings(CPU, path, timing=QUICK) == ()
        found = append_kernel_rates(CPU, subject, path, limits=limits, timing=QUICK)
        assert found == ()
    names = [rate.name for rate in read_profile_table(path).rates]
    assert names == [
        *("copy", "matmul_fp32"),
        *("layer_products", "layer_weights", "decode_attention"),
    ]
