"""How servers of measured runs were launched: flags that rows do not say."""

import importlib
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.silicon_lines import PUBLIC, row_of

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))

silicon_launch: Any = importlib.import_module("silicon_launch")
silicon_predict: Any = importlib.import_module("silicon_predict")
silicon_rows: Any = importlib.import_module("silicon_rows")


def launch_of(concurrency: int = 64, **columns: str) -> Any:
    return silicon_launch.launch_of(row_of(**columns), concurrency)


def test_flags_of_the_public_harness() -> None:
    launch = launch_of()
    assert launch.preset.max_batch_tokens == 8192
    assert (launch.kv.value, launch.hold_steps) == ("fp8", 0.0)
    minimax = {
        "model_path": "MiniMaxAI/MiniMax-M2.5",
        "system": "b200_sxm",
        "isl": "4096",
    }
    assert launch_of(**minimax).preset.max_batch_tokens == 8192
    early = {"source": PUBLIC.replace("2026-04-05", "2026-03-01"), "isl": "8192"}
    assert launch_of(**{**minimax, **early}).preset.max_batch_tokens == 8192
    late = launch_of(**{**minimax, "isl": "8192", "backend_version": "0.19.0"})
    assert late.preset.max_batch_tokens == 2 * 8192
    assert late.prefill_graph_tokens == 2048


def test_waits_of_the_public_harness() -> None:
    sglang = {
        "backend": "sglang",
        "model_path": "deepseek-ai/DeepSeek-R1",
        "system": "b200_sxm",
        "tp_size": "8",
        "moe_tp_size": "8",
    }
    assert launch_of(8, **sglang).poll_steps == 10.0
    assert launch_of(16, **sglang).poll_steps == 30.0
    assert launch_of(16, **sglang, mode="agg", source="other.csv").poll_steps == 0.0
    assert launch_of(16, **sglang).hold_steps == 0.0
    trtllm = {"backend": "trtllm"}
    assert launch_of(**trtllm).hold_steps == 20.0
    assert launch_of(**trtllm, tp_size="8", moe_tp_size="8").hold_steps == 0.0
    ranks = {
        "model_path": "deepseek-ai/DeepSeek-R1",
        "tp_size": "1",
        "attention_dp_size": "8",
        "moe_tp_size": "1",
        "moe_ep_size": "8",
    }
    # Prompts wait for the other ranks, for sixty steps at most.
    assert launch_of(**{**trtllm, **ranks}).poll_steps == 60.0


def test_versions_are_compared_by_their_numbers() -> None:
    numbers_of = silicon_launch.numbers_of
    assert numbers_of("0.5.9") < numbers_of("0.5.10.post1") < numbers_of("v1.2.0rc6")
    assert numbers_of("nightly-5b8c30d") == numbers_of("") == ()
    sglang = {"backend": "sglang", "backend_version": "0.5.10.post1"}
    assert launch_of(**sglang).prefill_graph_tokens > 0
    for version in ("0.5.9", "nightly-dev", ""):
        sglang["backend_version"] = version
        assert launch_of(**sglang).prefill_graph_tokens == 0


def test_flags_go_with_a_model_under_its_longer_names() -> None:
    is_of = silicon_launch.is_of
    assert is_of("DeepSeek-R1-0528-FP4", "DeepSeek-R1")
    assert is_of("minimax-m2.5", "MiniMax-M2.5")
    assert not is_of("DeepSeek-V3.2", "DeepSeek-V3")
    assert not is_of("DeepSeek", "DeepSeek-R1")
    # Another model, whatever it was distilled from; A17B is part of the family's name.
    for name in ("Llama-70B", "Qwen-1.5B", "llama-8b-FP8"):
        assert not is_of(f"DeepSeek-R1-Distill-{name}", "DeepSeek-R1")
    assert is_of("Qwen3.5-397B-A17B-FP8", "Qwen3.5-397B-A17B")
    named = launch_of(model_path="acme/Llama-3.1-70B-Instruct")
    assert named == launch_of(model_path="meta-llama/Llama-3.1-70B")


def test_prompts_are_captured_where_the_script_asks_for_it() -> None:
    trtllm = {
        "backend": "trtllm",
        "model_path": "deepseek-ai/DeepSeek-R1",
        "system": "b200_sxm",
        "backend_version": "1.2.0rc6.post2",
        "isl": "8192",
        "tp_size": "8",
        "moe_tp_size": "8",
    }
    assert launch_of(64, **trtllm).prefill_graph_tokens > 0
    assert launch_of(32, **trtllm).prefill_graph_tokens == 0
    # The scripts for the H200 do not.
    assert launch_of(64, **{**trtllm, "system": "h200_sxm"}).prefill_graph_tokens == 0


def test_kernels_that_the_harness_names() -> None:
    trtllm = {
        "backend": "trtllm",
        "model_path": "deepseek-ai/DeepSeek-R1",
        "system": "b200_sxm",
        "backend_version": "1.2.0rc6.post2",
        "tp_size": "8",
        "moe_tp_size": "8",
    }
    assert launch_of(**trtllm).experts_of == "sglang"
    assert launch_of(**{**trtllm, "gemm_quant_mode": "nvfp4"}).experts_of == ""
    oss = {"model_path": "openai/gpt-oss-120b"}
    assert launch_of(**oss).experts_variant == "int4_wo"
    assert launch_of(**oss, system="b200_sxm").experts_variant == ""


def test_experts_that_a_row_does_not_say_are_spread() -> None:
    columns = {"model_path": "MiniMaxAI/MiniMax-M2.5", "moe_quant_mode": "fp8"}
    case = silicon_predict.case_of(row_of(**columns))
    # The script gave --enable-expert-parallel whatever the degree.
    assert case.launch.spreads_experts
    (stage,) = case.instances[0].stages
    experts = [gemm for group in stage.groups for gemm in group.gemms if gemm.is_expert]
    assert {gemm.expert_gpus for gemm in experts} == {4}
    h100 = silicon_predict.case_of(row_of(**columns, system="h100_sxm"))
    assert not h100.launch.spreads_experts


def test_captured_sizes_end_at_the_largest_given() -> None:
    sglang = {
        "backend": "sglang",
        "model_path": "deepseek-ai/DeepSeek-R1",
        "system": "b200_sxm",
    }
    launch = launch_of(64, **sglang)
    assert launch.captured[-1] == 128
    assert launch.preset.max_num_seqs == 128
    assert launch_of(64).captured == launch_of(64).preset.captured


def test_drafts_of_the_public_harness() -> None:
    trtllm = {
        "backend": "trtllm",
        "model_path": "deepseek-ai/DeepSeek-R1",
        "backend_version": "1.2.0rc6.post3",
        "isl": "8192",
    }
    launch = launch_of(100, **trtllm)
    assert launch.draft_tokens == 3
    # No least budget: short prompts are taken one by one.
    assert launch_of(8, **{**trtllm, "isl": "1024"}).preset.max_batch_tokens < 2048
    # A prompt and four tokens a client, rounded as the script does it.
    expected = (8192 + 400 + 127) // 64 * 64
    assert launch.preset.max_batch_tokens == expected
    assert launch_of(**{**trtllm, "backend_version": "1.2.0rc2"}).draft_tokens == 0
