"""The live source, on a stand-in package whose step latencies are a known law."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clusters.gpu import Dtype, GpuType
from models.latency import aiconfigurator_source as module
from models.latency.aiconfigurator_source import AiconfiguratorSource
from models.latency.library import (
    LatencyLibrary,
    LatencyRequest,
    LatencyUnavailableError,
    Provenance,
)
from models.latency.sampled_table import sampled_table
from models.llm import LlmSpec, Precision

Build = Callable[..., LatencyRequest]
# Fixed time, time of a token, of a squared prompt token; of a request, of the context.
PREFILL = (2.0, 0.01, 1e-6)
DECODE = (3.0, 0.05, 1e-4)
ENGINE = f"""
calls = []


class EngineHandle:
    @classmethod
    def compile(cls, model, system, backend, **options):
        if options["tp_size"] == 4:
            raise ValueError("no tables at four\\nsecond line")
        calls.append((model, system, backend, options))
        return cls()

    def predict_prefill_latency(self, requests, tokens, prefix):
        assert prefix == 0
        a, b, c = {PREFILL}
        return a + b * requests * tokens + c * requests * tokens**2

    def predict_decode_latency(self, requests, context, output):
        assert output == 2
        a, b, c = {DECODE}
        return a + b * requests + c * requests * context
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """A package of that name; yields the calls of its engine."""
    root = tmp_path / module.PACKAGE
    (root / "sdk").mkdir(parents=True)
    for folder in (root, root / "sdk"):
        (folder / "__init__.py").write_text("")
    (root / "sdk" / "engine.py").write_text(ENGINE)
    (root / "systems" / "data" / "h200_sxm").mkdir(parents=True)
    (root / "model_configs").mkdir()
    for name in (
        "meta-llama--Meta-Llama-3.1-8B",
        "Qwen--Qwen3-235B-A22B-FP8",
        "Some--Other-3B",
    ):
        (root / "model_configs" / f"{name}_config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield __import__(f"{module.PACKAGE}.sdk.engine", fromlist=["calls"]).calls
    forget()


def forget() -> None:
    """Drop the package and what was learnt from it."""
    for name in [n for n in sys.modules if n.partition(".")[0] == module.PACKAGE]:
        del sys.modules[name]
    for cached in (
        module.shipped_systems,
        module.shipped_models,
        module._whole_table,
    ):
        cached.cache_clear()


def test_without_the_package_the_reason_is_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, nvlink_request: Build
) -> None:
    monkeypatch.setattr(module, "PACKAGE", "aiconfigurator_core_that_is_not_here")
    library = LatencyLibrary.default().with_sources("aiconfigurator-vllm")
    message = r"pip install 'phaseplan\[aiconfigurator\]'"
    with pytest.raises(LatencyUnavailableError, match=message):
        library.choose(nvlink_request("llama-3.1-8b", "h200_sxm"))


def test_its_steps_become_a_table(package: list[object], nvlink_request: Build) -> None:
    source = AiconfiguratorSource(engine="vllm")
    (table,) = source.compile(nvlink_request("llama-3.1-8b", "h200_sxm", tp=2))
    fixed, per_token, per_square = PREFILL
    for tokens in (16, 512, 3000, 30000):
        expected = fixed + per_token * tokens + per_square * tokens**2
        assert table.prefill_step_ms([tokens]) == pytest.approx(expected, rel=0.005)
    fixed, per_request, per_kv = DECODE
    for requests, context in ((1, 100), (20, 4000), (256, 1000), (400, 300)):
        expected = fixed + requests * (per_request + per_kv * context)
        step_ms = table.decode_step_ms(requests, requests * context)
        assert step_ms == pytest.approx(expected, rel=0.005)
    ((model, system, backend, options),) = package
    assert (model, system, backend) == (
        "meta-llama/Meta-Llama-3.1-8B",
        "h200_sxm",
        "vllm",
    )
    assert options["tp_size"] == 2
    assert options["gemm_quant_mode"] == "bfloat16"
    assert "moe_ep_size" not in options


def test_experts_and_number_formats_are_passed_on(
    package: list[object], nvlink_request: Build
) -> None:
    request = nvlink_request("qwen3-235b-a22b-fp8", "h200_sxm", tp=8)
    request = replace(request, parallelism=replace(request.parallelism, ep=2))
    AiconfiguratorSource(engine="sglang").compile(request)
    options = package[0][3]
    assert (options["moe_tp_size"], options["moe_ep_size"]) == (4, 2)
    assert options["gemm_quant_mode"] == options["moe_quant_mode"] == "fp8_block"
    assert options["kvcache_quant_mode"] == "bfloat16"


def test_pipeline_stages_share_the_layers(
    package: list[object], nvlink_request: Build
) -> None:
    source = AiconfiguratorSource()
    (whole,) = source.compile(nvlink_request("llama-3.1-8b", "h200_sxm"))
    _, last = source.compile(nvlink_request("llama-3.1-8b", "h200_sxm", pp=2))
    assert last.decode_step_ms(8, 8000) == pytest.approx(
        whole.decode_step_ms(8, 8000) / 2
    )
    assert len(package) == 1  # compiled once for both


def test_the_library_says_whose_numbers_these_are(
    package: list[object], nvlink_request: Build
) -> None:
    library = LatencyLibrary.default().with_sources("aiconfigurator-vllm")
    choice = library.choose(nvlink_request("llama-3.1-8b", "h200_sxm"))
    assert choice.source == "aiconfigurator-vllm"
    assert choice.provenance is Provenance.PUBLISHED
    assert "no host time" in choice.reason
    assert choice.expected_error_frac is None


def test_what_the_package_lacks_has_a_reason(
    package: list[object], nvlink_request: Build
) -> None:
    source = AiconfiguratorSource()
    llama, h200 = LlmSpec.load("llama-3.1-8b"), GpuType.load("h200_sxm")
    assert source.why_not_pair(llama, h200) is None
    fp8 = replace(llama, precision=Precision.uniform(Dtype.FP8))
    assert source.why_not_pair(fp8, h200) is None
    assert "no tables of l4" in str(source.why_not_pair(llama, GpuType.load("l4")))
    for other in (LlmSpec.load("yi-34b"), replace(llama, num_layers=31)):
        assert "no model" in str(source.why_not_pair(other, h200))
    with pytest.raises(LatencyUnavailableError, match=r"no tables at four$"):
        source.compile(nvlink_request("llama-3.1-8b", "h200_sxm", tp=4))


def test_a_sampled_table_never_falls() -> None:
    # A black box that gets faster with a larger batch and a longer prompt here and
    # there: the table stays put instead.
    table = sampled_table(
        lambda requests, tokens: 5.0 - (requests * tokens > 1000),
        lambda requests, context: 3.0 - (requests > 30) + 1e-5 * requests * context,
    )
    prefill = [table.prefill_step_ms([n]) for n in (10, 900, 1100, 5000)]
    assert prefill == sorted(prefill)
    decode = [table.decode_step_ms(b, b * 1000) for b in (1, 16, 32, 100, 512)]
    assert decode == sorted(decode)
