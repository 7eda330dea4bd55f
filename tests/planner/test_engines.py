"""Engine presets: what they set, how they divide memory, where they are overridden."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from clusters.mapping import from_mapping
from models.flops import stage_shapes
from models.latency.fitted import FittedSource
from models.latency.request import LatencyRequest
from models.llm import LlmSpec
from models.memory import MemoryBreakdown, MemorySettings
from models.parallelism import Parallelism
from planner.engine_overheads import engine_table
from planner.engines import EnginePreset, EngineSource, MemoryKind, engine_sources
from planner.problem import EngineSettings
from planner.simulator.system import Batching

H100, B200 = GpuType.load("h100_sxm"), GpuType.load("b200_sxm")
LLAMA = LlmSpec.load("llama-3.1-8b")


def memory_of_preset(preset: EnginePreset) -> MemoryBreakdown:
    return preset.memory(LLAMA, Parallelism(), H100, MemorySettings())


def test_presets_form_steps_as_the_engines_do() -> None:
    policies = {name: EnginePreset.load(name).policy for name in EnginePreset.names()}
    assert policies == {
        "sglang": Batching.PREFILL_FIRST_CHUNKED,
        "trtllm": Batching.ORCA,
        "vllm": Batching.CHUNKED,
    }


def test_captured_sizes_of_vllm() -> None:
    captured = EnginePreset.load("vllm").captured
    # 1, 2, 4, then every 8 to 256 and every 16 to 512: 3 + 32 + 16 sizes.
    assert captured[:5] == (1, 2, 4, 8, 16)
    assert captured[-2:] == (496, 512)
    assert len(captured) == 51


def test_sglang_takes_larger_steps_on_larger_gpus() -> None:
    preset = EnginePreset.load("sglang")
    assert preset.limits(H100).max_batch_tokens == 8192
    assert preset.limits(B200).max_batch_tokens == 16384


def test_ranks_have_their_own_budget_or_share_one() -> None:
    shared, own = EnginePreset.load("sglang"), EnginePreset.load("vllm")
    assert shared.limits(H100, num_ranks=8).max_batch_tokens == 8192
    assert own.limits(H100, num_ranks=8).max_batch_tokens == 8 * 8192
    assert own.limits(H100, num_ranks=8).max_num_seqs == 8 * 1024


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(InputError, match="nearest is 'vllm'"):
        EnginePreset.load("vlm")


def test_fraction_of_the_gpu_counts_everything() -> None:
    found = memory_of_preset(EnginePreset.load("vllm"))
    block = 16 * found.kv_bytes_per_token
    assert 0 <= 0.9 * H100.memory_bytes - found.total_bytes < block


def test_static_fraction_counts_weights_and_cache() -> None:
    preset = EnginePreset.load("sglang")
    found = memory_of_preset(preset)
    static = found.weights_bytes + found.kv_bytes
    block = preset.block_tokens * found.kv_bytes_per_token
    assert 0 <= preset.memory_frac * H100.memory_bytes - static < block


def test_fraction_of_the_rest_counts_the_cache_alone() -> None:
    preset = EnginePreset.load("trtllm")
    found = memory_of_preset(preset)
    used = found.weights_bytes + found.activation_bytes + found.reserve_bytes
    block = preset.block_tokens * found.kv_bytes_per_token
    rest = preset.memory_frac * (H100.memory_bytes - used)
    assert 0 <= rest - found.kv_bytes < block


def test_fraction_of_the_rest_serves_what_fills_most_of_the_gpu() -> None:
    # 141 GB of fp8 weights on two H100: 70 of 85.5 GB each, beyond 0.8 of the GPU.
    llm, pair = LlmSpec.load("llama-3.1-70b"), Parallelism(tp=2)
    preset = EnginePreset.load("trtllm")
    of_free = preset.memory(llm, pair, H100)
    of_total = replace(preset, memory_kind=MemoryKind.OF_TOTAL, memory_frac=0.8).memory(
        llm, pair, H100
    )
    assert of_free.fits
    assert not of_total.fits


def test_source_is_the_operators_with_the_overheads() -> None:
    ring = GroupLink(bytes_per_s=450e9, latency_ms=0.002, kind=LinkKind.NVLINK)
    request = LatencyRequest(
        llm=LLAMA,
        parallelism=Parallelism(tp=2),
        gpu=H100,
        links=GroupLinks(tp=(ring,)),
    )
    preset = EnginePreset.load("vllm")
    source = FittedSource(engine="vllm", step_overhead_ms=0.0, best_kernels=True)
    (operators,) = source.compile(request)
    (stage,) = stage_shapes(LLAMA, request.parallelism)
    (found,) = EngineSource(preset=preset).compile(request)
    fit = preset.fit
    assert found == engine_table(
        operators, stage, fit.overheads, fit.skew(H100), preset.captured
    )


def test_shipped_constants_are_few_and_rest_on_many_rows() -> None:
    for name in EnginePreset.names():
        fit = EnginePreset.load(name).fit
        assert fit.rows > 100
        assert fit.groups > 5
        assert {skew.generation for skew in fit.skews} == {"hopper", "blackwell"}
        assert fit.tpot_median_error_frac is not None
        assert fit.overheads.request_ms > 0.0


def test_a_generation_that_was_not_measured_takes_the_mean_of_the_others() -> None:
    fit = EnginePreset.load("vllm").fit
    one, other = fit.skews
    skew = fit.skew(GpuType.load("l40s"))
    mean = (one.decode_factor * other.decode_factor) ** 0.5
    assert skew.decode_factor == pytest.approx(mean)
    none = replace(fit, skews=()).skew(GpuType.load("l40s"))
    assert (none.prefill_factor, none.decode_factor) == (1.0, 1.0)


def test_problem_file_takes_a_preset_and_what_differs() -> None:
    data = {"base": "sglang", "limits": {"max_num_seqs": 64}, "kv_setup_ms": 2.0}
    found = from_mapping(EngineSettings, data)
    assert found.limits.policy is Batching.PREFILL_FIRST_CHUNKED
    assert (found.limits.max_batch_tokens, found.limits.max_num_seqs) == (8192, 64)
    assert found.memory.utilisation_frac == 0.88
    assert found.latency_sources == ("engine-sglang",)
    assert found.kv_setup_ms == 2.0


def test_problem_file_refuses_an_unknown_preset() -> None:
    with pytest.raises(InputError, match=r"engine\.base = .tgi."):
        from_mapping(EngineSettings, {"base": "tgi"}, where="engine")


def test_every_preset_is_a_latency_source() -> None:
    names = [source.name for source in engine_sources()]
    assert names == ["engine-sglang", "engine-trtllm", "engine-vllm"]
