"""Roofline: by hand, against published figures and measured operators, and its laws."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.gpu import Dtype, DtypeRate, GpuType
from clusters.links import GroupLink
from models.flops import stage_shapes
from models.latency.closed_form import StageRoofline
from models.latency.efficiency import RooflineEfficiency
from models.latency.library import LatencyLibrary, LatencyRequest
from models.latency.request import StageLinks
from models.latency.roofline import RooflineSource, compile_stage
from models.latency.step_table import StepTable
from models.llm import LlmSpec, Precision, WeightFormat
from models.parallelism import Parallelism

REFERENCE = Path(__file__).parents[4] / "shared" / "reference"
Build = Callable[..., LatencyRequest]
A100 = GpuType.load("a100_sxm")
H100 = GpuType.load("h100_sxm")
NVLINK = GroupLink(bytes_per_s=300e9, latency_ms=0.002)
# 1 GFLOP/s and 1 MB/s, one SM: FLOPs in us, bytes in us.
TINY_GPU = replace(
    A100,
    name="tiny_gpu",
    memory_bytes_per_s=1e6,
    flops=(DtypeRate(dtype=Dtype.BF16, flops_per_s=1e9),),
    num_sms=1,
)
IDEAL = RooflineEfficiency(
    compute_frac=1.0,
    attention_compute_frac=1.0,
    memory_frac=1.0,
    kv_memory_frac=1.0,
    partial_wave_frac=0.0,
    layer_floor_ms=0.0,
    step_overhead_ms=0.0,
)


def joined(link: GroupLink = NVLINK, hop: GroupLink | None = None) -> StageLinks:
    """A stage whose GPUs are all joined by `link`."""
    return StageLinks(tensor=link, stage=link, hop=hop)


def form(
    llm: LlmSpec,
    gpu: GpuType,
    *,
    tp: int = 1,
    efficiency: RooflineEfficiency | None = None,
) -> StageRoofline:
    (stage,) = stage_shapes(llm, Parallelism(tp=tp))
    return StageRoofline(
        stage=stage,
        gpu=gpu,
        ring=NVLINK,
        hop=None,
        efficiency=efficiency or RooflineEfficiency(),
    )


def table(llm: str | LlmSpec, gpu: GpuType, build: Build, **degrees: int) -> StepTable:
    request = build(llm, gpu, **degrees)
    return LatencyLibrary(sources=(RooflineSource(),)).choose(request).stages[0]


def test_a_product_takes_the_longer_of_bytes_and_flops(tiny_llm: LlmSpec) -> None:
    roofline = form(tiny_llm, TINY_GPU, efficiency=IDEAL)
    qkv = roofline.stage.groups[0].gemms[0]  # 8 x 16
    # 1 token: 256 weight bytes + 48 of rows at 1 byte/us; 256 FLOPs are 0.256 us.
    # 1000 tokens: bytes still longer, 256 + 48,000 us. At 1 TB/s FLOPs win: 256 us.
    times = roofline.gemm_ms(qkv, np.array([1.0, 1000.0]))
    np.testing.assert_allclose(times, [0.304, 48.256])
    fast_memory = replace(TINY_GPU, memory_bytes_per_s=1e12)
    compute_bound = form(tiny_llm, fast_memory, efficiency=IDEAL)
    np.testing.assert_allclose(compute_bound.gemm_ms(qkv, np.array([1000.0])), [0.256])


def test_attention_terms_by_hand(tiny_llm: LlmSpec) -> None:
    roofline = form(tiny_llm, TINY_GPU, efficiency=IDEAL)
    # Prefill: 2 layers x 2 x 4 heads x 4 wide / 2 FLOPs per squared token at 1 GFLOP/s.
    assert roofline.prefill_per_sq_token_ms() == pytest.approx(32e-6)
    # Decode: 2 layers x 16 bytes a token at 1 MB/s.
    assert roofline.decode_per_kv_token_ms() == pytest.approx(32e-3)


def test_a_short_window_leaves_the_context_term(tiny_windowed: LlmSpec) -> None:
    roofline = form(tiny_windowed, TINY_GPU, efficiency=IDEAL)
    assert roofline.decode_per_kv_token_ms() == pytest.approx(16e-3)
    # Instead every request pays for a full window of 4 tokens of 16 bytes.
    plain = form(replace(tiny_windowed, windows=()), TINY_GPU, efficiency=IDEAL)
    three = np.array([3.0])
    assert roofline.decode_ms(three) - plain.decode_ms(three) == pytest.approx(
        3 * 4 * 16e-3
    )


def test_older_gpus_compute_in_the_widest_format_they_have() -> None:
    # bf16 on V100 runs in fp16, fp8 weights on A100 are unpacked to bf16.
    fp16 = form(LlmSpec.load("llama-2-7b"), GpuType.load("v100_sxm"))
    bf16 = form(LlmSpec.load("mistral-7b"), GpuType.load("v100_sxm"))
    assert fp16.prefill_per_sq_token_ms() == bf16.prefill_per_sq_token_ms()
    slow = form(LlmSpec.load("qwen3-32b-fp8"), A100)
    plain = form(LlmSpec.load("qwen3-32b"), A100)
    many = np.array([8192.0])
    gemm, wide = slow.stage.groups[0].gemms[0], plain.stage.groups[0].gemms[0]
    assert slow.gemm_ms(gemm, many) == pytest.approx(plain.gemm_ms(wide, many))


def test_linears_of_llama_2_70b_reach_the_profiled_rates() -> None:
    # Vidur at 4096 tokens: 238-241 TFLOP/s on A100, 690-746 on H100.
    for gpu, low, high in ((A100, 238, 241), (H100, 690, 746)):
        for tp in (1, 4, 8):
            roofline = form(LlmSpec.load("llama-2-70b"), gpu, tp=tp)
            gemms = roofline.stage.groups[0].gemms
            tokens = np.array([4096.0])
            ms = sum(float(roofline.gemm_ms(gemm, tokens)[0]) for gemm in gemms)
            flops = sum(gemm.flops(4096.0) for gemm in gemms)
            assert 0.93 * low <= flops / ms * 1e3 / 1e12 <= 1.07 * high


@pytest.mark.parametrize(
    ("gpu", "ttft_ms", "tbt_ms"), [(A100, 185.0, 52.0), (H100, 95.0, 31.0)]
)
def test_splitwise_llama_70b(
    nvlink_request: Build, gpu: GpuType, ttft_ms: float, tbt_ms: float
) -> None:
    # Splitwise (ISCA 2024), coding trace, median prompt 1500, one request, TP8. Its
    # engine of 2023 had no CUDA graphs: 80 layers launched by the host, about 0.45 ms
    # each, bound its TBT. The default (graphs) gives 17 and 13 ms.
    efficiency = RooflineEfficiency(host_layer_ms=0.45)
    request = nvlink_request("llama-2-70b", gpu, tp=8)
    (stage,) = RooflineSource(efficiency=efficiency).compile(request)
    assert stage.prefill_step_ms([1500]) == pytest.approx(ttft_ms, rel=0.4)
    assert stage.decode_step_ms(1, 1500) == pytest.approx(tbt_ms, rel=0.4)
    default = table("llama-2-70b", gpu, nvlink_request, tp=8)
    assert default.prefill_step_ms([1500]) == pytest.approx(ttft_ms, rel=0.25)


@pytest.mark.parametrize(
    ("name", "tp", "tolerance"),
    [
        ("opt-13b", 1, 0.25),
        ("opt-13b", 2, 0.35),
        ("opt-66b", 2, 0.35),
        ("opt-66b", 4, 0.35),
        ("opt-66b", 8, 0.40),
    ],
)
def test_opt_on_a100_against_published_coefficients(
    nvlink_request: Build, name: str, tp: int, tolerance: float
) -> None:
    # DistServe's engine of 2023: the roofline of a current one is mostly faster.
    request = nvlink_request(name, A100, tp=tp)
    published = LatencyLibrary.default().choose(request).stages[0]
    roofline = table(name, A100, nvlink_request, tp=tp)
    for tokens in (128, 512, 1024, 2048):
        assert roofline.prefill_step_ms([tokens]) == pytest.approx(
            published.prefill_step_ms([tokens]), rel=tolerance
        )
    for batch in (1, 32, 94, 128):
        assert roofline.decode_step_ms(batch, batch * 512) == pytest.approx(
            published.decode_step_ms(batch, batch * 512), rel=tolerance
        )


def test_the_table_is_within_two_percent_of_the_closed_form() -> None:
    tokens = np.unique(np.random.default_rng(0).integers(1, 20_000, 400)).astype(float)
    for name, gpu, tp in (
        ("opt-13b", A100, 1),
        ("llama-3.1-70b", H100, 8),
        ("mixtral-8x7b", A100, 2),
        ("deepseek-v3", GpuType.load("h200_sxm"), 8),
        ("gpt-oss-20b", GpuType.load("l4"), 1),
    ):
        closed = form(LlmSpec.load(name), gpu, tp=tp)
        compiled = compile_stage(closed.stage, gpu, joined(), closed.efficiency)
        squares = compiled.prefill_per_sq_token_ms
        for count, exact in zip(tokens, closed.prefill_ms(tokens), strict=True):
            ours = compiled.prefill_step_ms([int(count)]) - squares * count**2
            assert ours == pytest.approx(exact, rel=0.02)
        batches = tokens[tokens < 8192]
        for count, exact in zip(batches, closed.decode_ms(batches), strict=True):
            assert compiled.decode_step_ms(int(count), 0) == pytest.approx(
                exact, rel=0.02
            )


@given(
    name=st.sampled_from(
        ["opt-13b", "llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-120b"]
    ),
    gpu=st.sampled_from(GpuType.names()),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.integers(1, 4),
    tokens=st.integers(1, 300_000),
    more=st.integers(1, 10_000),
    batch=st.integers(1, 10_000),
    context=st.integers(1, 100_000),
)
def test_steps_are_positive_finite_and_rise_with_work(
    name: str,
    gpu: str,
    tp: int,
    pp: int,
    tokens: int,
    more: int,
    batch: int,
    context: int,
) -> None:
    kind = GpuType.load(gpu)
    stages = stage_shapes(LlmSpec.load(name), Parallelism(tp=tp, pp=pp))
    for index, stage in enumerate(stages):
        hop = NVLINK if index < pp - 1 else None
        step = compile_stage(stage, kind, joined(hop=hop), RooflineEfficiency())
        prefill = step.prefill_step_ms([tokens])
        decode = step.decode_step_ms(batch, batch * context)
        assert 0 < prefill < np.inf
        assert 0 < decode < np.inf
        slack = 1 - 1e-12
        assert step.prefill_step_ms([tokens + more]) >= slack * prefill
        assert step.prefill_step_ms([tokens], [more]) >= slack * prefill
        assert step.decode_step_ms(batch + more, batch * context) >= slack * decode
        assert step.decode_step_ms(batch, batch * context + more) >= slack * decode


@given(
    num_layers=st.integers(1, 100),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    group=st.integers(1, 16),
    head_dim=st.sampled_from([32, 64, 128, 256]),
    width=st.integers(1, 400),
    matrices=st.sampled_from([2, 3]),
    vocab=st.integers(100, 300_000),
    gpu=st.sampled_from(GpuType.names()),
)
def test_random_shapes_give_latencies_that_rise(
    num_layers: int,
    kv_heads: int,
    group: int,
    head_dim: int,
    width: int,
    matrices: int,
    vocab: int,
    gpu: str,
) -> None:
    llm = LlmSpec(
        name="random",
        num_layers=num_layers,
        hidden=64 * width,
        num_heads=kv_heads * group,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=192 * width,
        mlp_matrices=matrices,
        vocab=vocab,
        max_positions=4096,
        precision=Precision.uniform(Dtype.BF16),
    )
    (stage,) = stage_shapes(llm, Parallelism())
    step = compile_stage(stage, GpuType.load(gpu), joined(), RooflineEfficiency())
    assert step.prefill_ms[0] > 0
    assert step.decode_ms[0] > 0
    assert (np.diff(step.prefill_ms) >= 0).all()
    assert (np.diff(step.decode_ms) >= 0).all()
    assert np.isfinite([*step.prefill_ms, *step.decode_ms]).all()


def test_a_slower_link_never_speeds_a_step_up(nvlink_request: Build) -> None:
    (stage,) = stage_shapes(LlmSpec.load("llama-2-70b"), Parallelism(tp=8))
    slow_link = GroupLink(bytes_per_s=10e9, latency_ms=0.01)
    fast = compile_stage(stage, A100, joined(), RooflineEfficiency())
    slow = compile_stage(stage, A100, joined(slow_link), RooflineEfficiency())
    assert slow.prefill_step_ms([1000]) > fast.prefill_step_ms([1000])
    assert slow.decode_step_ms(1, 1000) > fast.decode_step_ms(1, 1000)


def test_step_latencies_of_measured_operators(nvlink_request: Build) -> None:
    # Built by another tool from measured operator tables: Llama-3.1-8B and Qwen3-32B,
    # two engines. The l40s rows are left out: their all-reduce is unphysical.
    file = REFERENCE / "aiconfigurator" / "step_latency_grid.csv"
    if not file.exists():
        pytest.skip("reference data are not here")
    names = {
        "meta-llama/Meta-Llama-3.1-8B": "llama-3.1-8b",
        "Qwen/Qwen3-32B": "qwen3-32b",
    }
    with file.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["system"] != "l40s"]
    errors: dict[str, list[float]] = {"prefill": [], "decode": []}
    for row in rows[::7]:
        llm = with_precision(LlmSpec.load(names[row["model"]]), row)
        gpu = GpuType.load(row["system"])
        step = table(llm, gpu, nvlink_request, tp=int(row["tp"]))
        batch, length = int(row["batch"]), int(row["isl_or_context"])
        if row["phase"] == "prefill":
            predicted = step.prefill_step_ms([length] * batch)
        else:
            predicted = step.decode_step_ms(batch, batch * length)
        device_ms = predicted - RooflineEfficiency().step_overhead_ms
        errors[row["phase"]].append(abs(device_ms / float(row["latency_ms"]) - 1))
    for phase, found in errors.items():
        assert np.median(found) < 0.15, phase
        assert np.quantile(found, 0.9) < 0.32, phase


def with_precision(llm: LlmSpec, row: dict[str, str]) -> LlmSpec:
    if row["precision"] != "fp8":
        return llm
    fp8 = WeightFormat.plain(Dtype.FP8)
    precision = replace(llm.precision, attention=fp8, mlp=fp8)
    if row["kvcache_quant"] == "fp8":
        precision = replace(precision, kv=Dtype.FP8)
    return replace(llm, precision=precision)


def test_linears_of_profiled_shapes() -> None:
    file = REFERENCE / "vidur" / "mlp.csv"
    if not file.exists():
        pytest.skip("reference data are not here")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    gpus = {"a100": A100, "h100": H100}
    names = {"Llama-2-70b-hf": "llama-2-70b", "Llama-2-7b-hf": "llama-2-7b"}
    errors = []
    for row in rows:
        if row["device"] not in gpus or row["model"] not in names:
            continue
        llm = LlmSpec.load(names[row["model"]])
        roofline = form(llm, gpus[row["device"]], tp=int(row["tp"]))
        tokens = np.array([float(row["num_tokens"])])
        gemms = roofline.stage.groups[0].gemms
        ms = sum(float(roofline.gemm_ms(gemm, tokens)[0]) for gemm in gemms)
        errors.append(abs(ms / float(row["linear_sum_ms"]) - 1))
    assert np.median(errors) < 0.10
    assert np.quantile(errors, 0.9) < 0.35
