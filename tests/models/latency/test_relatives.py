"""Relatives: whose efficiency a GPU takes, and at which shapes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.latency.fit_file import load_fit
from models.latency.fitted import FittedSource
from models.latency.operators.gemm import GemmModel, GemmShape, Peaks
from models.latency.operators.moe import ExpertShape, MoeModel
from models.latency.operators.surface import Axis, Surface
from models.latency.relatives import (
    nearest_relative,
    peers_of,
    products_fit,
    weaker_fits,
)
from models.latency.request import LatencyRequest
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism


def test_products_come_from_the_same_chip_where_the_engine_has_another() -> None:
    # An A6000 has compute capability 8.6, as the A40; vLLM's A100 has 8.0.
    fit = products_fit(GpuType.load("a6000"), "vllm")
    assert fit is not None
    assert (fit.system, fit.engine) == ("a40", "vidur")
    assert products_fit(GpuType.load("a6000"), "vllm", ("a40",)) is None


@pytest.mark.parametrize("gpu", ["a100_sxm", "a30", "h100_nvl", "h20", "l4", "mi300x"])
def test_the_engines_own_products_are_kept_otherwise(gpu: str) -> None:
    assert products_fit(GpuType.load(gpu), "vllm") is None


def test_a_gpu_that_does_not_state_its_capability_takes_its_architecture() -> None:
    gpu = replace(GpuType.load("a6000"), name="other", compute_capability=None)
    assert products_fit(gpu, "vllm") is None
    assert nearest_relative(gpu, "vllm") == "a100_sxm"


def test_the_choice_is_told() -> None:
    llm, gpu = LlmSpec.load("llama-13b"), GpuType.load("a6000")
    ring = GroupLink(bytes_per_s=gpu.pcie_bytes_per_s, latency_ms=0.002)
    request = LatencyRequest(
        llm=llm,
        parallelism=Parallelism(tp=1),
        gpu=gpu,
        links=GroupLinks(tp=(ring,)),
    )
    assert FittedSource().remarks(request).notes == (
        "efficiency of a100_sxm at the peaks of a6000",
        "matrix products as profiled on a40",
    )


def rising(axis: int, names: tuple[str, ...]) -> Surface:
    """Slowdown that falls from 4 to 1 between widths of 1000 and 4000 on one axis."""
    axes = tuple(
        Axis(name=name, knots=(1000.0, 4000.0) if place == axis else (1.0,))
        for place, name in enumerate(names)
    )
    return Surface(axes=axes, log_slowdown=(float(np.log(4.0)), 0.0))


def test_a_slower_gpu_is_as_efficient_on_what_takes_as_long() -> None:
    # 2000 columns at a quarter of both peaks take as long as 8000 on the GPU measured,
    # which reaches its peak from 4000 on; at its own peaks 2000 run at half of it.
    model = GemmModel(floor_ms=1e-9, surface=rising(1, ("tokens", "n", "k")))
    shape = GemmShape(k=4000, n=2000, bytes_per_weight=2.0)
    fast = Peaks(memory_bytes_per_s=4e12, flops_per_s=4e14)
    slow = Peaks(memory_bytes_per_s=1e12, flops_per_s=1e14)
    own, other = model.ms(shape, fast), model.ms(shape, slow, fast)
    assert other == pytest.approx(4.0 * own / 2.0)
    # With the peaks of the GPU measured nothing changes.
    assert model.ms(shape, fast, fast) == pytest.approx(own)


def test_experts_carry_over_by_the_same_rule() -> None:
    names = ("tokens", "experts", "width", "all", "hidden")
    model = MoeModel(floor_ms=1e-9, surface=rising(2, names))
    shape = ExpertShape(
        hidden=4000.0,
        intermediate=2000.0,
        num_matrices=3,
        num_experts=8.0,
        experts_here=8.0,
        experts_per_token=2.0,
        bytes_per_weight=2.0,
    )
    fast = Peaks(memory_bytes_per_s=4e12, flops_per_s=4e14)
    slow = Peaks(memory_bytes_per_s=1e12, flops_per_s=1e14)
    assert model.ms(shape, slow, fast) == pytest.approx(2.0 * model.ms(shape, fast))


def test_products_of_an_a40_follow_from_an_a100_within_a_tenth() -> None:
    # Vidur's A40 fit is what was measured there; carried over by shape the median
    # error at up to 64 tokens is 5 %, at equal time half of that.
    a100, a40 = load_fit("a100_sxm", "vidur"), load_fit("a40", "vidur")
    peaks = {
        fit.system: Peaks(
            memory_bytes_per_s=fit.memory_bytes_per_s,
            flops_per_s=fit.flops_per_s["bf16"],
        )
        for fit in (a100, a40)
    }
    errors = []
    for n, k in ((12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008)):
        shape = GemmShape(k=k, n=n, bytes_per_weight=2.0)
        models = [fit.variants("gemm")["bfloat16"] for fit in (a100, a40)]
        assert all(isinstance(model, GemmModel) for model in models)
        carried = models[0].ms(shape, peaks["a40"], peaks["a100_sxm"])
        measured = models[1].ms(shape, peaks["a40"])
        errors.append(np.abs(carried / measured - 1.0)[:12])
    assert np.median(errors) < 0.05
    assert np.max(errors) < 0.1


def test_peers_are_the_other_engines_there_and_weaker_ones_of_one_architecture() -> (
    None
):
    assert {(f.system, f.engine) for f in peers_of("h100_sxm", "vllm")} == {
        ("h100_sxm", "sglang"),
        ("h100_sxm", "trtllm"),
    }
    assert [fit.system for fit in weaker_fits("h200_sxm", "vllm")] == ["h100_sxm"]
    assert weaker_fits("h200_sxm", "vllm", ("h100_sxm",)) == ()
    assert "b200_sxm" in [fit.system for fit in weaker_fits("b300_sxm", "vllm")]
    assert "b300_sxm" not in [fit.system for fit in weaker_fits("b200_sxm", "vllm")]


def _table(
    gpu: str, llm: str, tp: int, engine: str = "vllm", **options: Any
) -> StepTable:
    request = LatencyRequest(
        llm=LlmSpec.load(llm),
        parallelism=Parallelism(tp=tp),
        gpu=GpuType.load(gpu),
        links=GroupLinks(
            tp=(GroupLink(bytes_per_s=900e9, latency_ms=0.0, kind=LinkKind.NVLINK),)
        ),
    )
    (table,) = FittedSource(engine=engine, **options).compile(request)
    return table


def _decode_ms(gpu: str, llm: str, tp: int, **options: Any) -> float:
    return _table(gpu, llm, tp, **options).decode_step_ms(8, 8 * 1024.0)


def test_the_best_kernels_are_never_slower_and_even_out_an_odd_measurement() -> None:
    latent = "nvidia/DeepSeek-R1-NVFP4"
    # vLLM's latent attention on the B300 was measured at twice the time of the B200's.
    own = _decode_ms("b300_sxm", latent, 8)
    best = _decode_ms("b300_sxm", latent, 8, best_kernels=True)
    there = _decode_ms("b200_sxm", latent, 8, best_kernels=True)
    assert own > 1.2 * best
    assert best == pytest.approx(there, rel=0.05)
    dense = "llama-3.1-70b"
    assert _decode_ms("h100_sxm", dense, 4, best_kernels=True) <= _decode_ms(
        "h100_sxm", dense, 4
    )
    # A GPU that was not measured has nothing to choose from.
    assert _decode_ms("h20", dense, 4, best_kernels=True) == _decode_ms("h20", dense, 4)


def test_experts_run_the_kernels_that_a_server_names() -> None:
    latent = ("b200_sxm", "deepseek-r1", 8, "trtllm")
    own, named = _table(*latent), _table(*latent, experts_of="sglang")
    # TensorRT-LLM's benchmark of FP8 experts took 2.5 times as long as SGLang's.
    assert named.decode_step_ms(64, 64e3) < 0.8 * own.decode_step_ms(64, 64e3)
    # Experts that no engine measured there are its own.
    unknown = _table(*latent, experts_of="nobody")
    assert unknown.decode_ms == own.decode_ms


def test_kernels_of_another_format_are_no_slower_in_decode() -> None:
    oss = ("h200_sxm", "gpt-oss-120b", 8)
    own, marlin = _table(*oss), _table(*oss, experts_variant="int4_wo")
    assert marlin.prefill_step_ms([8000]) > 1.2 * own.prefill_step_ms([8000])
    pairs = zip(marlin.decode_ms, own.decode_ms, strict=True)
    assert all(one <= other + 1e-9 for one, other in pairs)
    # A format that was not measured there changes nothing.
    assert _table(*oss, experts_variant="none").prefill_ms == own.prefill_ms
