"""Memory: figures published elsewhere, and parts that add up."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.gpu import GpuType
from clusters.units import GIB, MIB, gb_to_bytes
from models.flops import stage_shapes
from models.llm import LlmSpec
from models.memory import (
    MemorySettings,
    activation_bytes,
    kv_bytes,
    kv_bytes_per_token,
    memory_of,
)
from models.parallelism import Parallelism

A100 = GpuType.load("a100_sxm")
H200 = GpuType.load("h200_sxm")

# KV tokens of DistServe's profiled instances (released max_num_tokens.csv), fp16 on
# 80 GiB: {model: {(tp, pp): tokens}}.
DISTSERVE_TOKENS = {
    "opt-13b": {
        (1, 1): 66144,
        (1, 2): 163008,
        (1, 4): 356752,
        (1, 8): 744224,
        (2, 1): 163008,
        (2, 2): 356752,
        (2, 4): 744224,
        (4, 1): 356736,
        (4, 4): 1519168,
        (8, 1): 744208,
        (8, 8): 6168896,
    },
    "opt-66b": {
        (1, 2): 11600,
        (1, 4): 78512,
        (1, 8): 212320,
        (2, 1): 11600,
        (2, 2): 78512,
        (2, 4): 212320,
        (3, 1): 45056,
        (4, 1): 78496,
        (4, 2): 212320,
        (6, 1): 145408,
        (8, 1): 212304,
        (8, 4): 1015184,
    },
    "opt-175b": {
        (1, 6): 26208,
        (1, 8): 59536,
        (2, 3): 26208,
        (2, 4): 59536,
        (3, 2): 26208,
        (3, 3): 76192,
        (4, 3): 126160,
        (6, 1): 26208,
        (8, 1): 59520,
        (8, 2): 192784,
        (8, 8): 992400,
    },
}


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [
        ("llama-3.1-8b", 131_072),  # 2 x 32 layers x 8 heads x 128 x 2 bytes
        ("llama-3.1-70b", 327_680),
        ("qwen3-32b", 262_144),
        ("qwen3-235b-a22b", 192_512),
        ("mixtral-8x7b", 131_072),
        ("deepseek-v3", 70_272),  # 61 layers x (512 + 64) x 2 bytes
        ("llama-7b", 524_288),
        ("bloom-176b", 4_014_080),  # 2 x 70 x 14336 x 2
    ],
)
def test_kv_bytes_per_token_of_known_models(name: str, num_bytes: int) -> None:
    assert kv_bytes_per_token(LlmSpec.load(name)) == num_bytes


def test_an_fp8_cache_halves_the_kv_of_qwen3_32b() -> None:
    llm = LlmSpec.load("qwen3-32b-fp8")
    assert kv_bytes_per_token(llm) == 262_144
    assert kv_bytes_per_token(llm.with_kv_dtype("fp8")) == 131_072


def test_windowed_kv_is_bounded_then_grows_with_the_full_layers_only() -> None:
    # gpt-oss-120b: 18 + 18 layers x 2 x 8 heads x 64 x 2 bytes; window 128.
    llm = LlmSpec.load("gpt-oss-120b")
    assert kv_bytes(llm, 128) / 128 == 73_728
    assert kv_bytes_per_token(llm) == 36_864
    assert kv_bytes(llm, 1000) == 36_864 * (1000 + 128)


@pytest.mark.parametrize(
    ("name", "printed_mb", "printed_weights_gb"),
    [
        ("llama-7b", 262.1, 14),
        ("llama-13b", 409.6, 26),
        ("llama-30b", 798.72, 60),
        ("llama-65b", 1310.7, 130),
    ],
)
def test_a_published_kv_table_prints_half_of_the_true_size(
    name: str, printed_mb: float, printed_weights_gb: float
) -> None:
    # It lists "per 1k tokens", but counts K and V of 500 (or one byte an element).
    llm = LlmSpec.load(name)
    assert kv_bytes(llm, 500) == pytest.approx(printed_mb * 1e6, rel=1e-3)
    assert kv_bytes(llm, 1000) == pytest.approx(2 * printed_mb * 1e6, rel=1e-3)
    weights = stage_shapes(llm, Parallelism())[0].weight_bytes
    assert weights == pytest.approx(gb_to_bytes(printed_weights_gb), rel=0.09)


def test_opt_66b_prompt_of_512_is_the_gigabyte_distserve_transfers() -> None:
    # DistServe (OSDI 2024): 1.13 GB for 512 tokens, 90 Gbit/s at 10 requests/s; its GB
    # is binary: 2 x 64 x 9216 x 2 bytes x 512 = 1.125 GiB.
    size = kv_bytes(LlmSpec.load("opt-66b"), 512)
    assert size / GIB == pytest.approx(1.13, rel=0.01)
    assert 10 * size * 8 / GIB == pytest.approx(90, rel=0.01)


def test_llama_13b_on_an_a6000_holds_about_18_requests_of_1k() -> None:
    # SARATHI: at most 18 with an engine that prefills the batch in one step.
    # 48 GiB x 0.9 - 26.0 GB weights - 1.6 GB reserve - 1.9 GB activations = 16.8 GB;
    # 1024 tokens are 0.84 GB: 20, within the paper's allocator slack.
    memory = memory_of(
        LlmSpec.load("llama-13b"),
        Parallelism(),
        GpuType.load("a6000"),
        MemorySettings(max_batch_tokens=18 * 1024, max_batch_requests=18),
    )
    assert 18 <= memory.max_kv_tokens // 1024 <= 20


def test_qwen3_32b_fp8_on_h200_matches_a_captured_engine() -> None:
    # Captured from one engine: total 151,397,597,184 B, weights 34,317,271,040,
    # activations 1,476,395,008, overhead 3,758,096,384, KV 11,528 blocks of 64.
    gpu = replace(H200, memory_bytes=151_397_597_184)
    memory = memory_of(
        LlmSpec.load("qwen3-32b-fp8").with_kv_dtype("fp8"),
        Parallelism(),
        gpu,
        MemorySettings(block_tokens=64, runtime_reserve_bytes=3_758_096_384),
    )
    assert memory.kv_bytes_per_token == 131_072
    assert memory.weights_bytes == pytest.approx(34_317_271_040, rel=0.005)
    assert memory.activation_bytes == pytest.approx(1_476_395_008, rel=0.1)
    assert memory.max_kv_tokens / 64 == pytest.approx(11_528, rel=0.005)
    # With our own reserve (1.5 instead of 3.5 GiB) it stays within a few percent.
    ours = memory_of(
        LlmSpec.load("qwen3-32b-fp8").with_kv_dtype("fp8"), Parallelism(), gpu
    )
    assert ours.max_kv_tokens == pytest.approx(11_528 * 64, rel=0.03)


@pytest.mark.parametrize(
    ("name", "tp", "pp"),
    [(name, *key) for name, table in DISTSERVE_TOKENS.items() for key in table],
)
def test_kv_tokens_of_distserve_instances(name: str, tp: int, pp: int) -> None:
    # Its profile keeps 5 % free, 1 % of slack and about 1 % more that it does not
    # name (0.93 of 80 GiB), no activations, and a whole embedding on every GPU.
    llm = LlmSpec.load(name)
    embedding = (llm.vocab + llm.max_positions) * llm.hidden * 2
    shard = (-(-llm.vocab // tp) + llm.max_positions) * llm.hidden * 2
    settings = MemorySettings(
        utilisation_frac=0.93,
        max_batch_tokens=1,
        max_batch_requests=1,
        runtime_reserve_bytes=embedding - shard,
        communication_reserve_bytes=0,
    )
    memory = memory_of(llm, Parallelism(tp=tp, pp=pp), A100, settings)
    assert memory.max_kv_tokens == pytest.approx(
        DISTSERVE_TOKENS[name][tp, pp], rel=0.03
    )


def test_opt_66b_does_not_fit_one_a100_and_says_so() -> None:
    # 131 GB of weights, 0.9 x 80 GiB = 77.3 GB.
    memory = memory_of(LlmSpec.load("opt-66b"), Parallelism(), A100)
    assert not memory.fits
    assert memory.max_kv_tokens == 0
    assert memory.why_not is not None
    assert "a100_sxm gives 77.3 GB" in memory.why_not


@pytest.mark.parametrize(
    ("parallelism", "reason"),
    [
        (Parallelism(tp=3), "TP3 does not divide the 40 heads"),
        (
            Parallelism(attention_dp=2),
            "attention DP2 needs a mixture of experts: ranks of a dense model share "
            "nothing, so they are replicas",
        ),
    ],
)
def test_an_impossible_split_does_not_fit(
    parallelism: Parallelism, reason: str
) -> None:
    memory = memory_of(LlmSpec.load("opt-13b"), parallelism, A100)
    assert memory.why_not == reason


def test_replicated_kv_heads_are_paid_for() -> None:
    # 4 KV heads on TP4 and TP8: the same K and V bytes on every GPU.
    llm = LlmSpec.load("qwen3-30b-a3b")
    four = memory_of(llm, Parallelism(tp=4), A100)
    eight = memory_of(llm, Parallelism(tp=8), A100)
    assert four.kv_bytes_per_token == eight.kv_bytes_per_token == 48 * 2 * 128 * 2


def test_uneven_stages_are_limited_by_the_fullest() -> None:
    llm = LlmSpec.load("opt-13b")
    even = memory_of(llm, Parallelism(pp=2), A100)
    uneven = memory_of(llm, Parallelism(pp=2, stage_layers=(30, 10)), A100)
    assert uneven.stage == 0
    assert uneven.max_kv_tokens < even.max_kv_tokens


def test_window_layers_count_in_full_unless_a_context_is_given() -> None:
    llm = LlmSpec.load("gemma-3-27b")  # 52 of 62 layers see 1024 tokens
    safe = memory_of(llm, Parallelism(tp=2), A100)
    mean = memory_of(
        llm, Parallelism(tp=2), A100, MemorySettings(mean_context_tokens=4096)
    )
    # (10 + 52 / 4) / 62 of the bytes a token.
    assert mean.kv_bytes_per_token == pytest.approx(
        safe.kv_bytes_per_token * 23 / 62, rel=1e-9
    )


def test_blockwise_feed_forward_leaves_two_bytes_per_residual_element() -> None:
    # Blockwise Parallel Transformer: 2*b*s*h bytes instead of 8*b*s*h or more.
    (stage,) = stage_shapes(LlmSpec.load("llama-7b"), Parallelism())
    headless = replace(stage, head=None)
    tokens = 1_000_000
    blockwise = activation_bytes(
        headless,
        MemorySettings(max_batch_tokens=tokens, feed_forward_block_tokens=1024),
    )
    assert blockwise == pytest.approx(2 * tokens * 4096, rel=0.02)
    whole = activation_bytes(headless, MemorySettings(max_batch_tokens=tokens))
    assert whole > 8 * tokens * 4096


def test_kv_capacity_of_ranks_adds_up(tiny_llm: LlmSpec) -> None:
    # Each of 4 context ranks holds 1 of 4 prompt tokens: 2 x (8 + 8 + 32 + 16) bytes,
    # logits of 10 words, and two blocks of K and V of one layer, 2 x 2 x 2 x 2 bytes.
    # The rest of its MiB holds tokens at 32 bytes (2 layers).
    gpu = replace(A100, memory_bytes=MIB)
    settings = MemorySettings(
        utilisation_frac=1.0,
        max_batch_tokens=4,
        max_batch_requests=1,
        runtime_reserve_bytes=0,
        communication_reserve_bytes=0,
    )
    memory = memory_of(tiny_llm, Parallelism(cp=4), gpu, settings)
    assert memory.kv_bytes_per_token == 32
    assert memory.activation_bytes == 2 * (8 + 8 + 32 + 16) + 40 + 2 * 16
    room = MIB - memory.weights_bytes - memory.activation_bytes
    assert memory.max_kv_tokens == 4 * (room // (32 * 16) * 16)
    assert memory.num_ranks == 4
    assert memory.kv_bytes == memory.max_kv_tokens / 4 * 32
    assert memory.total_bytes <= MIB


@given(
    name=st.sampled_from(["deepseek-v3", "qwen3-235b-a22b", "mixtral-8x7b"]),
    attention_dp=st.sampled_from([2, 4, 8]),
    tp=st.sampled_from([1, 2]),
)
def test_attention_ranks_multiply_the_cache_of_one(
    name: str, attention_dp: int, tp: int
) -> None:
    parallelism = Parallelism(tp=tp, attention_dp=attention_dp)
    memory = memory_of(LlmSpec.load(name), parallelism, GpuType.load("b200_sxm"))
    used = memory.weights_bytes + memory.activation_bytes + memory.reserve_bytes
    blocks = (memory.budget_bytes - used) // (memory.kv_bytes_per_token * 16)
    assert memory.max_kv_tokens == attention_dp * max(0, int(blocks)) * 16
    assert memory.fits == (blocks > 0)


def test_latent_caches_are_kept_once_a_request_only_with_attention_ranks() -> None:
    # TP8 keeps the same 70,272 bytes a token on all 8 GPUs; 8 ranks keep other tokens
    # each, with 15.7 GB more of weights (attention of 61 layers) on every GPU.
    llm = LlmSpec.load("deepseek-v3")
    tensor = memory_of(llm, Parallelism(tp=8, ep=8), H200)
    ranks = memory_of(llm, Parallelism(attention_dp=8, ep=8), H200)
    assert tensor.kv_bytes_per_token == ranks.kv_bytes_per_token == 70_272
    assert ranks.weights_bytes > tensor.weights_bytes
    assert ranks.max_kv_tokens > 5 * tensor.max_kv_tokens


@pytest.mark.parametrize("gpu", ["h100_sxm", "h200_sxm"])
def test_a_million_tokens_fit_eight_gpus(gpu: str) -> None:
    # Llama-3.1-8B: 2^20 x 131,072 bytes = 137 GB of KV, 17.2 GB on each of 8 ranks,
    # beside 16 GB of weights. Blockwise: 2 x 131,072 x 4096 = 1.07 GB of residual
    # stream on a rank, as much for the two blocks of K and V of one layer, and 0.7 GB
    # for 8192 tokens in the feed-forward.
    settings = MemorySettings(
        max_batch_tokens=1 << 20, feed_forward_block_tokens=8192, max_batch_requests=1
    )
    llm, kind = LlmSpec.load("llama-3.1-8b"), GpuType.load(gpu)
    memory = memory_of(llm, Parallelism(cp=8), kind, settings)
    assert memory.max_kv_tokens > 1 << 20
    blocks = 2 * (1 << 17) * (8 * 128 * 2 * 2)
    stream = 2 * (1 << 17) * 4096
    feed_forward = 2 * 8192 * (4096 + 2 * 14336 + 14336)
    expected = blocks + stream + feed_forward + 128_256 * 4
    assert memory.activation_bytes == pytest.approx(expected, rel=1e-9)
    # One GPU has no room for the prompt, nor for its activations if kept whole.
    assert memory_of(llm, Parallelism(), kind, settings).max_kv_tokens < 1 << 20


def test_activations_by_hand(tiny_llm: LlmSpec) -> None:
    # 10 tokens x 2 bytes x (8 residual + 8 normed + 32 gate-up + 16 activated), and
    # fp32 logits of 3 requests x 10 words.
    (stage,) = stage_shapes(tiny_llm, Parallelism())
    settings = MemorySettings(max_batch_tokens=10, max_batch_requests=3)
    assert activation_bytes(stage, settings) == 10 * 2 * (8 + 8 + 32 + 16) + 120


def test_kv_tokens_are_whole_blocks(tiny_llm: LlmSpec) -> None:
    # 2 layers x 2 KV heads x (2 + 2) wide x 2 bytes = 32 bytes of KV a token.
    gpu = replace(A100, memory_bytes=MIB)
    settings = MemorySettings(
        utilisation_frac=1.0,
        max_batch_tokens=1,
        max_batch_requests=1,
        runtime_reserve_bytes=0,
    )
    memory = memory_of(tiny_llm, Parallelism(), gpu, settings)
    used = memory.weights_bytes + memory.activation_bytes
    assert memory.kv_bytes_per_token == 32
    assert memory.max_kv_tokens == (MIB - used) // (32 * 16) * 16


@given(
    name=st.sampled_from(
        ["opt-13b", "llama-3.1-70b", "deepseek-v3", "gpt-oss-120b", "gemma-3-27b"]
    ),
    gpu=st.sampled_from(["a100_sxm", "h200_sxm", "l40s", "b200_sxm"]),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.integers(1, 6),
    tokens=st.sampled_from([512, 8192, 65536]),
)
def test_memory_adds_up(name: str, gpu: str, tp: int, pp: int, tokens: int) -> None:
    memory = memory_of(
        LlmSpec.load(name),
        Parallelism(tp=tp, pp=pp),
        GpuType.load(gpu),
        MemorySettings(max_batch_tokens=tokens),
    )
    assert memory.fits == (memory.max_kv_tokens > 0)
    if memory.fits:
        assert memory.total_bytes <= memory.budget_bytes <= memory.memory_bytes
    assert memory.max_kv_tokens % 16 == 0


def test_more_stages_never_hold_fewer_tokens() -> None:
    llm = LlmSpec.load("llama-3.1-70b")
    for tp, pp in product((1, 2, 4), (1, 2, 4)):
        here = memory_of(llm, Parallelism(tp=tp, pp=pp), H200)
        deeper = memory_of(llm, Parallelism(tp=tp, pp=2 * pp), H200)
        assert deeper.max_kv_tokens >= here.max_kv_tokens
