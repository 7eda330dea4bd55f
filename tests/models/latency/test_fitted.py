"""FittedSource: what holds for every shipped fit, and how it answers."""

import json
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.flops import stage_shapes
from models.latency.fit_file import ENGINES, load_fit, shipped_systems
from models.latency.fitted import SAMPLER_CALLS, FittedSource
from models.latency.library import LatencyLibrary
from models.latency.operator_costs import OperatorCosts
from models.latency.operators.tokens import TOKEN_KNOTS
from models.latency.relatives import PROFILED_KERNELS, nearest_relative
from models.latency.request import ExtrapolationWarning, LatencyRequest, Provenance
from models.latency.stage_model import StageModel
from models.latency.step_table import StepTable, interpolate_array
from models.latency.weights import choose_variant
from models.llm import LlmSpec, Precision, WeightFormat
from models.parallelism import Parallelism

SHIPPED = [
    (system, engine)
    for engine in (*ENGINES, PROFILED_KERNELS)
    for system in shipped_systems(engine)
]
NVSWITCH = tuple(
    system
    for system in shipped_systems("vllm")
    if GpuType.load(system).nvlink_bytes_per_s
)


def request_of(
    llm: LlmSpec, gpu: GpuType, tp: int = 1, kind: LinkKind = LinkKind.NVLINK
) -> LatencyRequest:
    """One stage whose ring runs at the GPU's own link."""
    rate = gpu.nvlink_bytes_per_s or gpu.pcie_bytes_per_s
    ring = GroupLink(bytes_per_s=rate, latency_ms=0.002, kind=kind)
    return LatencyRequest(
        llm=llm,
        parallelism=Parallelism(tp=tp),
        gpu=gpu,
        links=GroupLinks(tp=(ring,)),
    )


def table_of(
    llm: LlmSpec, system: str, engine: str, tp: int = 1, kind: LinkKind | None = None
) -> StepTable:
    """Compiled table of a single stage."""
    gpu = GpuType.load(system)
    link = kind or (LinkKind.NVLINK if gpu.nvlink_bytes_per_s else LinkKind.PCIE)
    return FittedSource(engine=engine).compile(request_of(llm, gpu, tp, link))[0]


def random_llm(rng: np.random.Generator) -> LlmSpec:
    """A dense decoder with plausible widths and a random KV and weight format."""
    head_dim = int(rng.choice([64, 96, 128, 256]))
    kv_heads = int(rng.choice([1, 2, 4, 8, 16]))
    heads = kv_heads * int(rng.choice([1, 2, 4, 8]))
    dtype = Dtype(str(rng.choice(["bf16", "fp8"])))
    return replace(
        LlmSpec.load("llama-3.1-8b"),
        name="random",
        num_layers=int(rng.integers(1, 81)),
        hidden=128 * int(rng.integers(8, 129)),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=256 * int(rng.integers(4, 129)),
        precision=Precision.uniform(dtype),
    )


def random_experts(rng: np.random.Generator) -> LlmSpec:
    """A mixture of experts of plausible widths, its attention plain or latent."""
    llm = LlmSpec.load(str(rng.choice(["qwen3-30b-a3b", "deepseek-v3"])))
    assert llm.moe is not None
    num_experts = int(rng.choice([8, 32, 64, 128, 256]))
    routed = replace(
        llm.moe,
        num_experts=num_experts,
        experts_per_token=int(rng.integers(1, min(num_experts, 16) + 1)),
        expert_intermediate=128 * int(rng.integers(2, 33)),
    )
    return replace(
        llm, name="random experts", hidden=512 * int(rng.integers(4, 15)), moe=routed
    )


def assert_physical(table: StepTable, rng: np.random.Generator) -> None:
    """Positive, finite, rising in tokens, batch and context at random points."""
    tokens = np.sort(np.exp(rng.uniform(0.0, np.log(3e5), 300)))
    prefill = interpolate_array(tokens, table.prefill_tokens, table.prefill_ms)
    prefill += table.prefill_per_sq_token_ms * tokens**2
    assert table.prefill_step_ms([tokens[7]]) == pytest.approx(prefill[7])
    batch = np.arange(1, 1025)
    fixed, slope = table.decode_arrays(1024)
    for context in (1.0, 700.0, 40_000.0):
        decode = (fixed + slope * np.arange(1025) * context)[batch]
        assert np.isfinite(decode).all()
        assert (decode > 0).all()
        assert (np.diff(decode) >= -1e-9 * decode[1:]).all()
    assert np.isfinite(prefill).all()
    assert (prefill > 0).all()
    assert (np.diff(prefill) >= -1e-9 * prefill[1:]).all()
    assert (np.asarray(table.decode_per_kv_token_ms) >= 0).all()
    assert table.prefill_per_sq_token_ms >= 0


@pytest.mark.parametrize(("system", "engine"), SHIPPED)
def test_steps_are_positive_finite_and_monotone(system: str, engine: str) -> None:
    rng = np.random.default_rng(SHIPPED.index((system, engine)))
    for _ in range(3):  # x 300 prefill and 3 x 1024 decode points: 10^4 a fit
        assert_physical(table_of(random_llm(rng), system, engine), rng)


@pytest.mark.slow
@pytest.mark.parametrize(("system", "engine"), SHIPPED)
def test_steps_stay_physical_over_a_hundred_thousand_shapes(
    system: str, engine: str
) -> None:
    rng = np.random.default_rng(1000 + SHIPPED.index((system, engine)))
    for place in range(30):  # x 300 prefill and 3 x 1024 decode points: 10^5
        llm = random_experts(rng) if place % 3 == 0 else random_llm(rng)
        degrees = [1, 2, 4, 8]
        while Parallelism(tp=degrees[-1]).why_not(llm):
            degrees.pop()
        tp = int(rng.choice(degrees))
        assert_physical(table_of(llm, system, engine, tp), rng)


@pytest.mark.parametrize(
    "name", ["qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b", "kimi-k2.5", "glm-5"]
)
def test_steps_of_expert_and_latent_models_are_physical(name: str) -> None:
    rng = np.random.default_rng(5)
    for system, engine in SHIPPED:
        assert_physical(table_of(LlmSpec.load(name), system, engine), rng)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_request_costs_more_than_the_same_with_less_context(seed: int) -> None:
    rng = np.random.default_rng(seed)
    system, engine = SHIPPED[int(rng.integers(len(SHIPPED)))]
    table = table_of(random_llm(rng), system, engine)
    size, context = int(rng.integers(1, 512)), float(rng.integers(1, 100_000))
    less = table.decode_step_ms(size, size * context)
    assert table.decode_step_ms(size, size * context + 1000.0) >= less


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("system", NVSWITCH)
@pytest.mark.parametrize(
    "name", ["llama-3.1-70b", "qwen3-8b", "llama-2-13b", "mixtral-8x7b"]
)
def test_tensor_parallelism_never_slows_a_long_step_in_an_nvswitch_node(
    system: str, engine: str, name: str
) -> None:
    llm = LlmSpec.load(name)
    tables = [table_of(llm, system, engine, tp) for tp in (1, 2, 4, 8)]
    for tokens in (512, 700, 1024, 2048, 3333, 8192, 100_000):
        steps = [table.prefill_step_ms([tokens]) for table in tables]
        assert (np.diff(steps) <= 0).all(), (tokens, steps)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_tensor_parallelism_slows_no_long_step_of_any_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    llm = random_experts(rng) if rng.random() < 0.3 else random_llm(rng)
    system, engine = str(rng.choice(NVSWITCH)), str(rng.choice(ENGINES))
    degrees = [1, 2, 4, 8]
    while Parallelism(tp=degrees[-1]).why_not(llm):
        degrees.pop()
    tables = [table_of(llm, system, engine, tp) for tp in degrees]
    for tokens in np.exp(rng.uniform(np.log(512.0), np.log(3e5), 40)).tolist():
        for prompts in ([tokens], [tokens / 4.0] * 4):
            steps = [table.prefill_step_ms(prompts) for table in tables]
            # The last digits of a sum may differ.
            assert (np.diff(steps) <= 1e-12 * steps[0]).all(), (tokens, steps)


def test_a_table_survives_json() -> None:
    table = table_of(LlmSpec.load("llama-3.1-8b"), "h200_sxm", "vllm")
    again = StepTable(
        **{
            k: tuple(v) if isinstance(v, list) else v
            for k, v in json.loads(json.dumps(asdict(table))).items()
        }
    )
    assert again == table


def test_a_measured_gpu_is_its_own_relative() -> None:
    for system, engine in SHIPPED:
        assert nearest_relative(GpuType.load(system), engine) == system


@pytest.mark.parametrize(
    ("gpu", "relative"),
    [
        ("h100_nvl", "h100_sxm"),
        ("h20", "h100_sxm"),
        ("a6000", "a100_sxm"),
        ("l4", "l40s"),
    ],
)
def test_an_unmeasured_gpu_takes_its_architecture(gpu: str, relative: str) -> None:
    assert nearest_relative(GpuType.load(gpu), "vllm") == relative


def test_another_vendor_has_no_relative() -> None:
    why = FittedSource().why_not_pair(
        LlmSpec.load("llama-3.1-8b"), GpuType.load("mi300x")
    )
    assert why == "no measured relative of mi300x"


def test_efficiency_carries_over_at_the_peaks_of_the_other_gpu() -> None:
    # A twin of the H100 at half of every rate: all of its roofline doubles, and
    # floors, launches and links stay.
    gpu = GpuType.load("h100_sxm")
    fit = load_fit("h100_sxm", "vllm")
    rates = tuple(replace(r, flops_per_s=r.flops_per_s / 2) for r in gpu.flops)
    half = replace(
        gpu, name="half", memory_bytes_per_s=fit.memory_bytes_per_s / 2, flops=rates
    )
    assert nearest_relative(half, "vllm") == "h100_sxm"
    llm = LlmSpec.load("llama-3.1-70b")
    whole = FittedSource().compile(request_of(llm, gpu))[0].prefill_step_ms([8192])
    slow = FittedSource().compile(request_of(llm, half))[0].prefill_step_ms([8192])
    assert slow / whole == pytest.approx(2.0, rel=0.03)


def test_the_fabric_is_chosen_by_the_links_and_not_by_the_gpu() -> None:
    llm, gpu = LlmSpec.load("llama-3.1-70b"), GpuType.load("h100_sxm")
    inside = FittedSource().compile(request_of(llm, gpu, 8))[0]
    over_pcie = replace(gpu, nvlink_bytes_per_s=0.0)
    outside = FittedSource().compile(request_of(llm, over_pcie, 8, LinkKind.PCIE))[0]
    assert outside.prefill_step_ms([4096]) > 2.0 * inside.prefill_step_ms([4096])


def test_latent_attention_is_priced_as_the_measured_block() -> None:
    gpu, llm = GpuType.load("h200_sxm"), LlmSpec.load("deepseek-v3")
    fit = load_fit("h200_sxm", "vllm")
    kernels = {k: v for k, v in fit.operators.items() if "block" not in k}
    request = request_of(llm, gpu, 8)
    (stage,) = stage_shapes(llm, request.parallelism)
    whole, parts = (
        StageModel(
            stage=stage,
            gpu=gpu,
            fit=replace(fit, operators=operators),
            ring=request.links.tp[0],
            reducer=None,
            hop=None,
            step_overhead_ms=0.0,
        ).compile()
        for operators in (fit.operators, kernels)
    )
    # Between vLLM's products lie kernels that nobody measured alone: 61 layers of some
    # 40 us. With many tokens they vanish.
    few = whole.decode_step_ms(1, 1024.0) - parts.decode_step_ms(1, 1024.0)
    assert 61 * 0.02 < few < 61 * 0.08
    many = whole.prefill_step_ms([2048]) / parts.prefill_step_ms([2048])
    assert many == pytest.approx(1.0, abs=0.1)


def test_decode_hides_shared_experts_behind_routed_ones() -> None:
    gpu, llm = GpuType.load("h200_sxm"), LlmSpec.load("deepseek-v3")
    (stage,) = stage_shapes(llm, Parallelism(tp=8))
    costs = OperatorCosts(gpu=gpu, fit=load_fit("h200_sxm", "sglang"))
    (layer,) = (group for group in stage.groups if group.is_moe)
    shared = [gemm for gemm in layer.gemms if gemm.name in ("gate_up", "down")]
    assert len(shared) == 2
    captured = costs.own_ms(layer, decode=True)
    eager = costs.own_ms(layer, decode=False)
    alone = sum(costs.gemm_ms(gemm) for gemm in shared)
    # The rest differs by what absorbing the up-projection of the latent takes: 10 us.
    few = TOKEN_KNOTS <= 64
    assert (captured + alone < eager + 0.015)[few].all()


def test_without_cuda_graphs_a_small_step_waits_for_the_host() -> None:
    gpu, llm = GpuType.load("h100_sxm"), LlmSpec.load("llama-3.1-70b")
    request = request_of(llm, gpu, 8)
    captured = FittedSource().compile(request)[0]
    eager = FittedSource(cuda_graphs=False).compile(request)[0]
    # 80 layers of four products, six operators beside them and two all-reduces.
    call_ms = load_fit("h100_sxm", "vllm").eager_call_ms
    least = 80 * 12 * call_ms + SAMPLER_CALLS * call_ms
    assert eager.decode_step_ms(1, 0.0) == pytest.approx(least)
    assert captured.decode_step_ms(1, 0.0) < 0.6 * least
    # A long prefill keeps the GPU busy for longer than that.
    assert eager.prefill_step_ms([8192]) == captured.prefill_step_ms([8192])


def test_drawing_tokens_takes_the_measured_time_of_a_call() -> None:
    request = request_of(LlmSpec.load("qwen3-8b"), GpuType.load("h200_sxm"))
    plain = FittedSource(step_overhead_ms=0.0).compile(request)[0]
    default = FittedSource().compile(request)[0]
    added = default.decode_step_ms(8, 0.0) - plain.decode_step_ms(8, 0.0)
    call_ms = load_fit("h200_sxm", "vllm").eager_call_ms
    assert 0.01 < call_ms < 0.1
    assert added == pytest.approx(SAMPLER_CALLS * call_ms, rel=0.02)


def test_a_system_can_be_treated_as_unmeasured() -> None:
    gpu = GpuType.load("h200_sxm")
    assert nearest_relative(gpu, "vllm", ("h200_sxm",)) == "h100_sxm"
    request = request_of(LlmSpec.load("qwen3-8b"), gpu)
    own = FittedSource().compile(request)[0].prefill_step_ms([4096])
    relative = FittedSource(without=("h200_sxm",)).compile(request)[0]
    assert relative.prefill_step_ms([4096]) == pytest.approx(own, rel=0.1)
    assert relative.prefill_step_ms([4096]) != own


@pytest.mark.parametrize(
    ("stored", "compute", "variant"),
    [
        (0.53125, Dtype.FP8, "w4a8_mxfp4_mxfp8"),
        (0.53125, Dtype.BF16, "w4a8_mxfp4_mxfp8"),
        (0.5625, Dtype.FP4, "nvfp4"),
        (1.0 + 4 / 128**2, Dtype.FP8, "fp8_block"),
    ],
)
def test_experts_are_priced_in_their_own_format(
    stored: float, compute: Dtype, variant: str
) -> None:
    gpu, fitted = GpuType.load("b200_sxm"), load_fit("b200_sxm", "sglang")
    weights = WeightFormat(bytes_per_weight=stored, compute_dtype=compute)
    assert choose_variant(weights, fitted.variants("moe"), gpu) == variant


def test_the_library_tells_relative_and_error() -> None:
    library = LatencyLibrary(sources=(FittedSource(),))
    own = library.choose(request_of(LlmSpec.load("qwen3-8b"), GpuType.load("h100_sxm")))
    other = library.choose(
        request_of(LlmSpec.load("qwen3-8b"), GpuType.load("h100_nvl"))
    )
    assert (own.source, own.provenance) == ("fitted-vllm", Provenance.FITTED)
    assert "efficiency of h100_sxm at the peaks of h100_nvl" in other.reason
    assert own.expected_error_frac is not None
    assert other.expected_error_frac is not None
    assert 0.01 < own.expected_error_frac < other.expected_error_frac < 0.5


def test_leaving_the_fitted_sizes_warns_and_is_recorded() -> None:
    wide = replace(LlmSpec.load("qwen3-8b"), name="wide", intermediate=524288)
    library = LatencyLibrary(sources=(FittedSource(),))
    with pytest.warns(ExtrapolationWarning, match="gate_up"):
        choice = library.choose(request_of(wide, GpuType.load("h100_sxm")))
    assert "beyond the measured sizes" in choice.reason


def test_sparse_attention_is_outside_the_fit() -> None:
    library = LatencyLibrary(sources=(FittedSource(engine="sglang"),))
    with pytest.warns(ExtrapolationWarning, match="sparse attention"):
        library.choose(request_of(LlmSpec.load("glm-5"), GpuType.load("h200_sxm"), 8))


def test_catalogue_models_stay_within_the_fit() -> None:
    library = LatencyLibrary(sources=(FittedSource(),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("llama-3.1-70b", "qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v3"):
            library.choose(request_of(LlmSpec.load(name), GpuType.load("h200_sxm"), 4))


def test_a_gpu_without_bf16_runs_in_fp16_at_that_peak() -> None:
    table = table_of(LlmSpec.load("llama-2-7b"), "t4", "vllm")
    # 7B at 2048 tokens: 2 * 6.6e9 * 2048 FLOP at 65 TFLOP/s = 416 ms at best.
    assert 416.0 < table.prefill_step_ms([2048]) < 1200.0
