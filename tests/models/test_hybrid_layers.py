"""Layers with a state or a scorer beside attention: shapes, memory and time by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from clusters.fields import InputError
from clusters.gpu import Dtype, GpuType
from models.flops import (
    decode_work,
    num_parameters,
    prefill_work,
    stage_shapes,
)
from models.latency.fitted import FittedSource
from models.latency.library import LatencyRequest
from models.latency.roofline import RooflineSource
from models.llm import IndexerSpec, LinearAttentionSpec, LlmSpec, MlaSpec
from models.memory import MemorySettings, kv_bytes, kv_bytes_per_token, memory_of
from models.parallelism import Parallelism

# Of the two layers the first keeps a state: 2 value heads of 4 x 3 fp32, and the last
# 3 inputs of a convolution over 2 x 1 x 4 + 2 x 3 = 14 channels in 2 bytes.
LINEAR = LinearAttentionSpec(
    layers=(0,),
    num_key_heads=1,
    num_value_heads=2,
    key_head_dim=4,
    value_head_dim=3,
    conv_kernel=4,
)
TINY_STATE_BYTES = 2 * 4 * 3 * 4 + 3 * 14 * 2
MLA = MlaSpec(
    q_lora_rank=4,
    kv_lora_rank=6,
    qk_nope_head_dim=3,
    qk_rope_head_dim=2,
    v_head_dim=5,
)
INDEXER = IndexerSpec(num_heads=2, head_dim=4, selected_tokens=8)


@pytest.fixture
def tiny_hybrid(tiny_llm: LlmSpec) -> LlmSpec:
    """The tiny model with a state in the first of its two layers."""
    return replace(tiny_llm, name="tiny_hybrid", linear=LINEAR)


@pytest.fixture
def tiny_sparse(tiny_llm: LlmSpec) -> LlmSpec:
    """The tiny model with latent attention to the 8 best-scored tokens."""
    return replace(tiny_llm, name="tiny_sparse", mla=MLA, indexer=INDEXER)


def test_a_linear_layer_has_its_own_projections(tiny_hybrid: LlmSpec) -> None:
    (stage,) = stage_shapes(tiny_hybrid, Parallelism())
    linear = next(group for group in stage.groups if group.recurrence)
    widths = {gemm.name: (gemm.k, gemm.n) for gemm in linear.gemms}
    # Queries and keys 4 each, values 6, output gates 6; decay and step size of 2 heads.
    assert widths["linear_in"] == (8, 4 + 4 + 6 + 6)
    assert widths["linear_gates"] == (8, 2 + 2)
    assert widths["linear_out"] == (6, 8)
    assert linear.attentions == ()


def test_a_gate_doubles_the_queries(tiny_llm: LlmSpec) -> None:
    gated = replace(tiny_llm, attention_gate=True)
    # Two layers of 8 x (4 heads x 2) more weights.
    more = num_parameters(gated) - num_parameters(tiny_llm)
    assert more == 2 * 8 * 8


def test_states_are_kept_whatever_the_context(tiny_hybrid: LlmSpec) -> None:
    # The other layer caches K and V of 2 heads of 2 in 2 bytes: 16 a token.
    assert kv_bytes_per_token(tiny_hybrid) == 16
    assert kv_bytes(tiny_hybrid, 0) == TINY_STATE_BYTES
    assert kv_bytes(tiny_hybrid, 100) == TINY_STATE_BYTES + 1600


def test_qwen3_5_caches_in_every_fourth_layer() -> None:
    llm = LlmSpec.load("qwen3.5-397b-a17b")
    assert [llm.is_linear_layer(i) for i in range(5)] == [True, True, True, False, True]
    # 15 layers x K and V x 2 heads of 256 x 2 bytes.
    assert kv_bytes_per_token(llm) == 15 * 2 * 2 * 256 * 2
    # 45 layers x (64 heads x 128 x 128 fp32; 3 inputs of 2 x 2048 + 8192 channels).
    assert kv_bytes(llm, 0) == 45 * (64 * 128 * 128 * 4 + 3 * 12288 * 2)


def test_glm_5_caches_latents_and_index_keys() -> None:
    llm = LlmSpec.load("glm-5")
    # 78 layers x (512 + 64 elements in bf16; an index key of 128 in fp8 and its scale).
    assert kv_bytes_per_token(llm) == 78 * (576 * 2 + 128 + 4)


def test_states_of_a_whole_batch_are_reserved(tiny_hybrid: LlmSpec) -> None:
    gpu = GpuType.load("a100_sxm")
    few, many = (
        memory_of(
            tiny_hybrid, Parallelism(), gpu, MemorySettings(max_batch_requests=requests)
        )
        for requests in (10, 30)
    )
    assert many.reserve_bytes - few.reserve_bytes == 20 * TINY_STATE_BYTES


def test_a_stage_of_states_alone_leaves_the_bound_to_the_others(
    tiny_hybrid: LlmSpec,
) -> None:
    gpu = GpuType.load("a100_sxm")
    memory = memory_of(tiny_hybrid, Parallelism(pp=2), gpu)
    assert memory.fits
    assert memory.stage == 1
    assert memory.kv_bytes_per_token == 16


def test_a_decode_step_streams_states_in_and_out(tiny_hybrid: LlmSpec) -> None:
    (stage,) = stage_shapes(tiny_hybrid, Parallelism())
    short, long = (decode_work(stage, 3, 3.0 * context) for context in (10, 1000))
    assert long.kv_bytes - short.kv_bytes == 3 * 990 * 16
    assert short.kv_bytes == 3 * (10 * 16 + 2 * TINY_STATE_BYTES)


def test_tensor_parallelism_spreads_the_states(tiny_hybrid: LlmSpec) -> None:
    wide = replace(tiny_hybrid, linear=replace(LINEAR, num_key_heads=2))
    (one,), (half,) = (stage_shapes(wide, Parallelism(tp=tp)) for tp in (1, 2))
    assert half.state_bytes_per_request * 2 == one.state_bytes_per_request


def test_sparse_attention_reads_the_selected_tokens_and_all_index_keys(
    tiny_sparse: LlmSpec,
) -> None:
    (stage,) = stage_shapes(tiny_sparse, Parallelism())
    # 2 layers: a latent of 6 + 2 in 2 bytes; an index key of 4 in 1 byte and a scale.
    latent, index = 2 * 16, 2 * (4 + 4)
    assert kv_bytes_per_token(tiny_sparse) == latent + index
    work = decode_work(stage, 1, 100.0)
    assert work.kv_bytes == 8 * latent + 100 * index
    assert decode_work(stage, 1, 5.0).kv_bytes == 5 * (latent + index)


def test_sparse_prefill_grows_with_the_square_of_the_scorer_only(
    tiny_sparse: LlmSpec,
) -> None:
    (stage,) = stage_shapes(tiny_sparse, Parallelism())
    # Per layer and token: 4 heads, padded to 64, on (6 + 2) + 6 wide latents, 8 tokens.
    attended = 2 * 2 * 64 * 14 * 8
    # Per layer and pair: 2 scoring heads 4 wide.
    scored = 2 * 2 * 2 * 4
    work = prefill_work(stage, [1000])
    assert work.attention_flops == attended * 1000 + scored * 1000**2 / 2


def test_sparse_prefill_pads_heads_over_a_bf16_cache_only() -> None:
    llm = LlmSpec.load("glm-5")
    for model, tp, heads in (
        (llm, 1, 64),
        (llm, 8, 64),
        (llm.with_kv_dtype("fp8"), 8, 8),
        (LlmSpec.load("deepseek-v3.2"), 1, 128),
    ):
        (stage,) = stage_shapes(model, Parallelism(tp=tp))
        assert stage.groups[0].attention.prefill_heads == heads
        assert stage.groups[0].attention.num_heads == model.num_heads // tp


@pytest.mark.parametrize("source", [RooflineSource(), FittedSource()])
def test_context_costs_a_hybrid_a_quarter_of_the_layers(
    source: RooflineSource | FittedSource,
    nvlink_request: Callable[..., LatencyRequest],
) -> None:
    hybrid = LlmSpec.load("qwen3.5-397b-a17b")
    full = replace(hybrid, name="full", linear=None)
    ours, theirs = (
        source.compile(nvlink_request(llm, "h200_sxm", tp=8))[0]
        for llm in (hybrid, full)
    )
    slope = [
        table.decode_step_ms(64, 64 * 32768.0) - table.decode_step_ms(64, 64 * 1024.0)
        for table in (ours, theirs)
    ]
    assert slope[0] == pytest.approx(slope[1] / 4, rel=0.05)
    squares = [t.prefill_per_sq_token_ms for t in (ours, theirs)]
    assert squares[0] == pytest.approx(squares[1] / 4, rel=0.05)


def test_states_cost_a_request_their_bytes(
    nvlink_request: Callable[..., LatencyRequest],
) -> None:
    hybrid = LlmSpec.load("qwen3.5-397b-a17b")
    assert hybrid.linear is not None
    half = replace(hybrid.linear, state_dtype=Dtype.BF16)
    tables = [
        RooflineSource().compile(nvlink_request(llm, "h200_sxm", tp=8))[0]
        for llm in (hybrid, replace(hybrid, linear=half))
    ]
    saved = [t.decode_step_ms(256, 256.0) for t in tables]
    # 45 layers x 8 heads x 128 x 128, half of 4 bytes, read and written, 256 requests,
    # at 75 % of 4.8 TB/s: 1.68 ms. Knots add up to 1 % of the step.
    expected_ms = 45 * 8 * 128 * 128 * 2 * 2 * 256 / (0.75 * 4.8e12) * 1e3
    assert saved[0] - saved[1] == pytest.approx(expected_ms, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"layers": ()}, "layers"),
        ({"num_value_heads": 3, "num_key_heads": 2}, "num_value_heads"),
    ],
)
def test_impossible_linear_attention_is_refused(
    changes: dict[str, object], key: str
) -> None:
    with pytest.raises(InputError, match=key):
        replace(LINEAR, **changes)


@pytest.mark.parametrize("layers", [(0, 1), (2,), (-1,)])
def test_linear_layers_are_some_of_the_layers(
    tiny_llm: LlmSpec, layers: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match=r"linear\.layers"):
        replace(tiny_llm, linear=replace(LINEAR, layers=layers))
