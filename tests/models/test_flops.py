"""Shapes, FLOPs and bytes, derived by hand on a two-layer model."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.gpu import Dtype
from models.flops import decode_work, num_parameters, prefill_work, stage_shapes
from models.llm import LlmSpec, MlaSpec, MoeSpec
from models.parallelism import Parallelism
from models.shapes import StageShapes

# The tiny model, per layer: qkv 8 x (4 + 2*2)*2 = 128, out 8 x 8 = 64,
# gate-up 8 x 32 = 256, down 16 x 8 = 128: 576 weights. Embedding and head: 80 each.
LAYER = 576
EMBEDDING = 80


def shapes(llm: LlmSpec, **degrees: int) -> tuple[StageShapes, ...]:
    return stage_shapes(llm, Parallelism(**degrees))


def test_parameters_are_the_sum_of_the_matrices(tiny_llm: LlmSpec) -> None:
    assert num_parameters(tiny_llm) == 2 * LAYER + 2 * EMBEDDING
    tied = replace(tiny_llm, tied_embeddings=True)
    assert num_parameters(tied) == 2 * LAYER + EMBEDDING
    learned = replace(tiny_llm, learned_positions=True)  # 64 positions x 8
    assert num_parameters(learned) == 2 * LAYER + 2 * EMBEDDING + 512


def test_two_matrix_mlps_have_no_gate(tiny_llm: LlmSpec) -> None:
    # up 8 x 16 and down 16 x 8: 128 weights fewer than the gated 384.
    ungated = replace(tiny_llm, mlp_matrices=2)
    assert num_parameters(tiny_llm) - num_parameters(ungated) == 2 * 128


def test_tensor_parallelism_splits_every_matrix(tiny_llm: LlmSpec) -> None:
    (whole,), (half,) = shapes(tiny_llm), shapes(tiny_llm, tp=2)
    assert half.weight_bytes == whole.weight_bytes / 2
    names = [(gemm.name, gemm.k, gemm.n) for gemm in half.groups[0].gemms]
    assert names == [
        ("qkv", 8, 8),  # 2 query and 2 x 1 KV heads of 2
        ("attention_out", 4, 8),
        ("gate_up", 8, 16),
        ("down", 8, 8),
    ]


def test_kv_heads_repeat_beyond_their_number(tiny_llm: LlmSpec) -> None:
    # TP4 with 2 KV heads: each GPU still holds one K and one V head of 2.
    (quarter,) = shapes(tiny_llm, tp=4)
    assert quarter.groups[0].gemms[0].n == 2 + 2 * 2
    assert quarter.groups[0].attention.kv_bytes_per_token == 2 * 2 * 2


def test_embedding_sits_on_the_first_stage_and_the_head_on_the_last(
    tiny_llm: LlmSpec,
) -> None:
    first, last = shapes(tiny_llm, pp=2)
    assert first.weight_bytes == 2 * (LAYER + EMBEDDING)
    assert last.weight_bytes == 2 * (LAYER + EMBEDDING)
    assert first.head is None


def test_a_tied_head_costs_memory_only_on_another_stage(tiny_llm: LlmSpec) -> None:
    tied = replace(tiny_llm, tied_embeddings=True)
    assert shapes(tied)[0].weight_bytes == 2 * (2 * LAYER + EMBEDDING)
    assert shapes(tied, pp=2)[1].weight_bytes == 2 * (LAYER + EMBEDDING)


def test_prefill_work_by_hand(tiny_llm: LlmSpec) -> None:
    # One prompt of 3: 2 layers x 2 FLOPs x 576 weights x 3 tokens, head on one row.
    work = prefill_work(shapes(tiny_llm)[0], [3])
    assert work.gemm_flops == 2 * 2 * LAYER * 3 + 2 * EMBEDDING
    # 4 heads x (2 + 2) wide x 2 FLOPs a pair, 3*3/2 causal pairs, 2 layers.
    assert work.attention_flops == 2 * 2 * 4 * 4 * 4.5
    assert work.weight_bytes == 2 * (2 * LAYER + EMBEDDING)
    # K and V of 2 heads x 2 in bf16 are 16 bytes a token and layer.
    assert work.kv_bytes == 2 * 16 * 3


def test_past_tokens_add_pairs_to_a_chunk(tiny_llm: LlmSpec) -> None:
    # A chunk of 2 after 3: 2*2/2 + 2*3 = 8 pairs.
    work = prefill_work(shapes(tiny_llm)[0], [2], [3])
    assert work.attention_flops == 2 * 2 * 4 * 4 * 8


def test_decode_work_by_hand(tiny_llm: LlmSpec) -> None:
    work = decode_work(shapes(tiny_llm)[0], num_requests=2, kv_tokens=10)
    assert work.gemm_flops == 2 * 2 * (2 * LAYER + EMBEDDING)
    assert work.kv_bytes == 2 * 16 * 10
    assert work.attention_flops == 2 * 2 * 4 * 4 * 10
    assert work.all_reduce_bytes == 0


def test_two_all_reduces_of_the_residual_a_layer(tiny_llm: LlmSpec) -> None:
    # 2 layers x 2 collectives x 5 tokens x 8 wide x 2 bytes.
    work = decode_work(shapes(tiny_llm, tp=2)[0], num_requests=5, kv_tokens=5)
    assert work.all_reduce_bytes == 4 * 5 * 16


def test_branches_in_parallel_are_reduced_once_a_layer(tiny_llm: LlmSpec) -> None:
    falcon = replace(tiny_llm, parallel_branches=True)
    work = decode_work(shapes(falcon, tp=2)[0], num_requests=5, kv_tokens=5)
    assert work.all_reduce_bytes == 2 * 5 * 16
    assert LlmSpec.load("falcon-180b").parallel_branches
    assert not LlmSpec.load("llama-3.1-70b").parallel_branches


def test_a_short_window_caps_what_decode_reads(tiny_windowed: LlmSpec) -> None:
    # 2 requests of 10: the windowed layer reads 4 each, the other all 20.
    work = decode_work(shapes(tiny_windowed)[0], num_requests=2, kv_tokens=20)
    assert work.kv_bytes == 16 * (2 * 4 + 20)


def test_experts_are_read_as_often_as_tokens_touch_them(tiny_llm: LlmSpec) -> None:
    moe = MoeSpec(num_experts=4, experts_per_token=1, expert_intermediate=4)
    (stage,) = shapes(replace(tiny_llm, moe=moe))
    expert = next(g for g in stage.groups[0].gemms if g.name == "expert_gate_up")
    assert expert.num_weights == 4 * 8 * 8
    # One token reads one expert of 64 weights, two tokens 1.75 of them on average.
    assert expert.read_bytes(1.0) == pytest.approx(2 * 64)
    assert expert.read_bytes(2.0) == pytest.approx(2 * 64 * 1.75)
    assert expert.flops(3.0) == 2 * 64 * 3


def test_latent_attention_caches_one_vector_for_all_heads(tiny_llm: LlmSpec) -> None:
    mla = MlaSpec(kv_lora_rank=6, qk_nope_head_dim=2, qk_rope_head_dim=1, v_head_dim=2)
    for tp in (1, 2):
        (stage,) = shapes(replace(tiny_llm, mla=mla), tp=tp)
        assert stage.groups[0].attention.kv_bytes_per_token == 2 * (6 + 1)


def test_quantised_weights_stream_fewer_bytes() -> None:
    (bf16,) = shapes(LlmSpec.load("qwen3-32b"))
    (fp8,) = shapes(LlmSpec.load("qwen3-32b-fp8"))
    saved = bf16.weight_bytes - fp8.weight_bytes
    # Everything but the two 151936 x 5120 tables halves (less the block scales).
    linears = num_parameters(LlmSpec.load("qwen3-32b")) - 2 * 151936 * 5120
    assert saved == pytest.approx(linears, rel=1e-3)
    assert fp8.groups[0].gemms[0].weights.compute_dtype is Dtype.FP8


@given(
    name=st.sampled_from(["opt-13b", "llama-3.1-8b", "deepseek-v3", "gpt-oss-20b"]),
    tp=st.sampled_from([1, 2, 4]),
    pp=st.integers(1, 6),
)
def test_stages_hold_every_layer_and_more_gpus_never_more_weights(
    name: str, tp: int, pp: int
) -> None:
    llm = LlmSpec.load(name)
    stages = stage_shapes(llm, Parallelism(tp=tp, pp=pp))
    assert sum(stage.num_layers for stage in stages) == llm.num_layers
    wider = stage_shapes(llm, Parallelism(tp=2 * tp, pp=pp))
    for narrow, wide in zip(stages, wider, strict=True):
        assert wide.weight_bytes <= narrow.weight_bytes
        # A shard is at least its even share.
        assert wide.weight_bytes >= narrow.weight_bytes / 2 - 1e-6
