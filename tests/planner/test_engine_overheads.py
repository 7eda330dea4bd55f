"""What an engine adds to operators: floors, drafts, padding, by hand on one table."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.flops import stage_shapes
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from planner.engine_overheads import (
    EngineOverheads,
    VersionSkew,
    engine_table,
    num_distances,
    num_kernels,
    num_piece_launches,
)

NONE = EngineOverheads()
SAME = VersionSkew(generation="hopper")
TABLE = StepTable(
    prefill_tokens=(100.0, 1100.0),
    prefill_ms=(10.0, 110.0),
    prefill_per_sq_token_ms=1e-6,
    decode_batch=(1.0, 11.0),
    decode_ms=(8.0, 18.0),
    decode_per_kv_token_ms=(1e-4, 1e-4),
)
"""0.1 ms a token from 10 ms at 100; a decode of B requests takes 7 + B ms."""
LLAMA = LlmSpec.load("llama-3.1-8b")
(STAGE,) = stage_shapes(LLAMA, Parallelism())


def test_kernels_of_a_dense_layer_by_hand() -> None:
    # Two norms, qkv, rotation, attention, output, gate and up, activation, down.
    assert num_kernels(STAGE) == 9 * 32
    (split,) = stage_shapes(LLAMA, Parallelism(tp=2))
    # Two all-reduces a layer on top.
    assert num_kernels(split) == 11 * 32


def test_kernels_of_an_expert_layer_by_hand() -> None:
    llm = LlmSpec.load("qwen3-30b-a3b")
    (stage,) = stage_shapes(llm, Parallelism())
    # Two norms, qkv, rotation, attention, output, router, and eight of the experts.
    assert num_kernels(stage) == 15 * llm.num_layers


def test_distances_inside_a_measured_block_are_its_own() -> None:
    # A layer of DeepSeek-V3 has four projections, two kernels of attention and four
    # small ones of the latent: one block, so nine distances less than kernels.
    llm = LlmSpec.load("deepseek-v3")
    (stage,) = stage_shapes(llm, Parallelism())
    assert num_distances(stage) == num_kernels(stage) - 9 * llm.num_layers
    # Selected tokens are read by another kernel, which was not measured in a block.
    (sparse,) = stage_shapes(LlmSpec.load("deepseek-v3.2"), Parallelism())
    assert num_distances(sparse) == num_kernels(sparse)
    assert num_distances(STAGE) == num_kernels(STAGE)


def test_without_overheads_the_latencies_are_those_of_the_table() -> None:
    table = engine_table(TABLE, STAGE, NONE, SAME)
    for tokens in (1, 100, 400, 2000):
        assert table.prefill_step_ms([tokens]) == pytest.approx(
            TABLE.prefill_step_ms([tokens])
        )
    for requests in (1, 5, 11, 40):
        assert table.decode_step_ms(requests, 1000.0) == pytest.approx(
            TABLE.decode_step_ms(requests, 1000.0)
        )


def test_launches_bound_a_prefill_step_from_below() -> None:
    # 288 kernels of 0.1 ms: 28.8 ms, which the operators reach at 288 tokens.
    table = engine_table(TABLE, STAGE, EngineOverheads(launch_ms=0.1), SAME)
    square = TABLE.prefill_per_sq_token_ms
    for tokens, linear_ms in ((1, 28.8), (200, 28.8), (288, 28.8), (388, 38.8)):
        expected = linear_ms + square * tokens**2
        assert table.prefill_step_ms([tokens]) == pytest.approx(expected)


def test_launches_may_bound_every_step_of_the_table() -> None:
    # 288 ms; the last slope of 0.1 ms a token gets there at 2880 tokens.
    table = engine_table(TABLE, STAGE, EngineOverheads(launch_ms=1.0), SAME)
    square = TABLE.prefill_per_sq_token_ms
    for tokens, linear_ms in ((10, 288.0), (2880, 288.0), (3880, 388.0)):
        expected = linear_ms + square * tokens**2
        assert table.prefill_step_ms([tokens]) == pytest.approx(expected)


def test_decode_adds_time_between_kernels_and_for_requests() -> None:
    overheads = EngineOverheads(graph_kernel_ms=0.01, step_per_request_ms=0.5)
    table = engine_table(TABLE, STAGE, overheads, SAME)
    # 12 + 288 * 0.01 + 5 * 0.5 for 5 requests, beside their KV tokens.
    assert table.decode_step_ms(5, 1000.0) == pytest.approx(12 + 2.88 + 2.5 + 0.1)
    # Neither is of a step with prompt tokens.
    assert table.prefill_step_ms([500]) == pytest.approx(TABLE.prefill_step_ms([500]))


def test_handling_grows_with_the_clients_that_are_answered() -> None:
    overheads = EngineOverheads(request_ms=30.0, answer_per_client_ms=0.5)
    assert overheads.handling_ms(0) == pytest.approx(30.0)
    assert overheads.handling_ms(64) == pytest.approx(62.0)


def test_factors_scale_each_phase() -> None:
    skew = VersionSkew(generation="hopper", prefill_factor=2.0, decode_factor=0.5)
    table = engine_table(TABLE, STAGE, NONE, skew)
    assert table.prefill_step_ms([500]) == pytest.approx(
        2 * TABLE.prefill_step_ms([500])
    )
    assert table.decode_step_ms(5, 1e4) == pytest.approx(
        0.5 * TABLE.decode_step_ms(5, 1e4)
    )


def test_batches_are_padded_to_captured_sizes() -> None:
    table = engine_table(TABLE, STAGE, NONE, SAME, graph_sizes=(1, 2, 4, 8))
    padded = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8, 9: 9, 12: 12}
    for requests, runs_as in padded.items():
        assert table.decode_step_ms(requests, 0.0) == pytest.approx(7.0 + runs_as)


def test_beyond_the_captured_sizes_kernels_are_launched_one_by_one() -> None:
    overheads = EngineOverheads(launch_ms=0.1)
    table = engine_table(TABLE, STAGE, overheads, SAME, graph_sizes=(1, 2, 4))
    assert table.decode_step_ms(4, 0.0) == pytest.approx(11.0)
    assert table.decode_step_ms(5, 0.0) == pytest.approx(28.8)


def test_attention_ranks_pad_and_sample_their_own_requests() -> None:
    llm = LlmSpec.load("deepseek-r1")
    (stage,) = stage_shapes(llm, Parallelism(tp=1, attention_dp=2, ep=2))
    overheads = EngineOverheads(step_per_request_ms=1.0)
    table = engine_table(TABLE, stage, overheads, SAME, graph_sizes=(1, 4))
    # One each runs as it is; three and more run as four each, and each rank samples
    # half of all requests.
    assert table.decode_step_ms(2, 0.0) == pytest.approx(7.0 + 2.0 + 1.0)
    assert table.decode_step_ms(3, 0.0) == pytest.approx(7.0 + 8.0 + 2.0)
    assert table.decode_step_ms(8, 0.0) == pytest.approx(7.0 + 8.0 + 4.0)


@given(
    launch_ms=st.floats(0.0, 1.0),
    per_request_ms=st.floats(0.0, 0.5),
    tokens=st.integers(1, 5000),
    requests=st.integers(1, 40),
)
def test_more_work_never_takes_less_time(
    launch_ms: float,
    per_request_ms: float,
    tokens: int,
    requests: int,
) -> None:
    overheads = EngineOverheads(
        launch_ms=launch_ms,
        step_per_request_ms=per_request_ms,
    )
    table = engine_table(TABLE, STAGE, overheads, SAME, graph_sizes=(1, 2, 4, 8, 16))
    more = table.prefill_step_ms([tokens + 1])
    assert more >= table.prefill_step_ms([tokens]) - 1e-9
    more = table.decode_step_ms(requests + 1, 1000.0)
    assert more >= table.decode_step_ms(requests, 1000.0) - 1e-9


def test_drafts_share_the_cost_of_a_step() -> None:
    overheads = EngineOverheads(draft_acceptance_frac=0.5)
    assert overheads.tokens_per_step(0) == pytest.approx(1.0)
    assert overheads.tokens_per_step(2) == pytest.approx(1.75)
    table = engine_table(TABLE, STAGE, overheads, SAME, draft_tokens=2)
    layers = sum(group.num_layers for group in STAGE.groups)
    verified = TABLE.decode_step_ms(12, 0.0) + 2 * TABLE.decode_step_ms(4, 0.0) / layers
    assert table.decode_step_ms(4, 0.0) == pytest.approx(verified / 1.75)
    slope = table.decode_step_ms(4, 1000.0) - table.decode_step_ms(4, 0.0)
    before = TABLE.decode_step_ms(4, 1000.0) - TABLE.decode_step_ms(4, 0.0)
    assert slope == pytest.approx(before / 1.75)


def test_padding_leaves_a_table_of_one_size_alone() -> None:
    single = replace(
        TABLE, decode_batch=(1.0,), decode_ms=(8.0,), decode_per_kv_token_ms=(1e-4,)
    )
    table = engine_table(single, STAGE, NONE, SAME, graph_sizes=(1, 2))
    assert table.decode_step_ms(30, 0.0) == pytest.approx(8.0)


def test_captured_pieces_are_launched_by_their_attention_alone() -> None:
    overheads = EngineOverheads(launch_ms=0.1)
    # 288 kernels take the host 28.8 ms; a piece and two of attention a layer, 9.6.
    assert num_piece_launches(STAGE) == 3 * 32
    table = engine_table(TABLE, STAGE, overheads, SAME, prefill_graph_tokens=200)
    expected = {150: 15.0, 200: 20.0, 201: 28.8, 250: 28.8, 300: 30.0, 1500: 150.0}
    for tokens, linear_ms in expected.items():
        squares_ms = 1e-6 * tokens**2
        found = table.prefill_step_ms([tokens])
        assert found == pytest.approx(linear_ms + squares_ms)
    slow = EngineOverheads(launch_ms=0.5)
    table = engine_table(TABLE, STAGE, slow, SAME, prefill_graph_tokens=5000)
    # Captured at every size: 48 ms at least, and no step to the launches beyond.
    assert table.prefill_step_ms([300]) == pytest.approx(48.0 + 1e-6 * 300**2)
    assert table.prefill_step_ms([600]) == pytest.approx(60.0 + 1e-6 * 600**2)


def test_latent_attention_is_launched_with_its_products() -> None:
    llm = LlmSpec.load("deepseek-v3")
    (stage,) = stage_shapes(llm, Parallelism())
    # A piece, two kernels, four small ones and two products a layer.
    assert num_piece_launches(stage) == 9 * llm.num_layers
    (ranks,) = stage_shapes(llm, Parallelism(attention_dp=8, ep=8))
    overheads = EngineOverheads(launch_ms=1.0)
    table = engine_table(TABLE, ranks, overheads, SAME, prefill_graph_tokens=10)
    # Eight ranks of ten tokens each.
    pieces = num_piece_launches(ranks)
    assert table.prefill_step_ms([80]) == pytest.approx(pieces + 1e-6 * 80**2)
    assert table.prefill_step_ms([81]) > num_kernels(ranks)
