"""The whole path on a CPU: measure, fit, plan, validate; and what goes wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
PROBLEM = """
api_version: phaseplan/v1
cluster: {name: two, nodes: [{type: {name: pair, gpu: a100_sxm, num_gpus: 2,
  interconnect: nvswitch, gpus_per_pcie_switch: 2}}]}
services:
  - llm: tiny.json
    workload: {lengths: 64x16, arrivals: {kind: poisson}, rate_rps: 20}
    slo: {ttft_ms: 500, tpot_ms: 100}
search: {tp: [1], max_pp: 1}
"""
PROFILE = """
{"gpu": "paper", "models": [],
 "environment": {"device": "synthetic", "device_name": "paper", "gpu": "paper"}}
"""
ON_CPU = ("--device", "cpu", "--dtype", "fp32")
SMALL = (
    *("--max-prompt-tokens", 256, "--max-context-tokens", 256),
    *("--max-requests", 16, "--max-kv-tokens", 2048, "--target-ci", 0.3),
)
Phaseplan = Callable[..., Any]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.mark.slow
def test_whole_path_from_measurement_to_validation(
    tiny: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    records, profile = tmp_path / "r.jsonl", tmp_path / "profile.json"
    ended = phaseplan(
        *("profile", "run", tiny, "-r", records, *ON_CPU, *SMALL, "--budget", "40s")
    )
    assert ended.code == 0, ended.stderr
    assert "0 over budget" in ended.stderr

    # Whatever the noise of a shared machine: the path is the claim, not the error.
    ended = phaseplan(
        *("profile", "fit", records, "-o", profile, "--gpu", "a100_sxm"),
        "--with-unstable",
    )
    assert ended.code == 0, ended.stderr
    assert "dense" in ended.stdout
    assert phaseplan("profile", "show", profile).code == 0

    problem, plan = tmp_path / "problem.yaml", tmp_path / "plan.json"
    problem.write_text(PROBLEM)
    ended = phaseplan(
        *("plan", problem, "--profile", profile, "-o", plan, "-q"),
        *("--method", "aggregated"),
    )
    assert ended.code == 0, ended.stderr
    evidence = json.loads(plan.read_text())["evidence"]
    assert {each["latency_source"] for each in evidence} == {"measured"}
    # The profile is in the plan: it replays without the file.
    profile_text = profile.read_text()
    profile.unlink()
    assert phaseplan("simulate", plan, "-q").code == 0
    profile.write_text(profile_text)

    ended = phaseplan(
        *("profile", "validate", profile, tiny, *ON_CPU, "--lengths", "48x16"),
        *("--requests", 30, "--max-context-tokens", 128, "--max-num-seqs", 8),
        *("--max-batch-tokens", 256, "--load", "0.5", "--format", "json"),
    )
    assert ended.code == 0, ended.stderr
    (level,) = json.loads(ended.stdout)["levels"]
    assert level["is_complete"]
    names = {row["name"] for row in level["compared"]}
    assert {"ttft p50", "ttft p90", "ttft p99", "tpot p50", "goodput"} <= names


CAMPAIGN = ("profile", "campaign", *ON_CPU, "--small", "--target-ci", 0.9)


@pytest.mark.slow
def test_campaign_leaves_a_small_folder_that_says_it_all(
    tiny: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    out = tmp_path / "out"
    words = (*CAMPAIGN, "--model", tiny, "--out", out, "--minutes", 1)
    ended = phaseplan(*words)
    assert ended.code == 0, ended.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert not [key for key in summary if key.endswith("_failed")], summary
    names = {path.name for path in out.iterdir()}
    assert {
        *("records.jsonl.gz", "repeat.jsonl.gz", "served.json.gz"),
        *("profile.json", "validation.json", "summary.json", "summary.md"),
    } <= names
    # Whoever takes the folder along may take eight files, and no more.
    assert len(names) <= 8
    report = (out / "summary.md").read_text()
    for heading in (
        *("Features", "Ceilings", "Held-out errors", "Phases", "Mixed steps"),
        *("SM shares", "Repeatability", "Engine and layers", "Predicted"),
        "Steps of the engine",
    ):
        assert f"## {heading}" in report
    policies = {level["policy"] for level in _levels(out / "validation.json")}
    assert policies == {"prefill_first", "chunked"}

    # Started again it has no point of the grid and nothing to serve left.
    ended = phaseplan(*words)
    assert ended.code == 0, ended.stderr
    assert "0 measured now" in ended.stderr
    assert "serving" not in ended.stderr

    # Elsewhere, the served traces are predicted from the profile without a device.
    ended = phaseplan(
        *("profile", "validate", out / "profile.json", tiny, "--format", "json"),
        *("--served", out / "served.json.gz"),
    )
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout)["levels"] == _levels(out / "validation.json")


@pytest.mark.slow
def test_campaign_does_not_wait_for_a_simulator_that_is_not_ready(
    tiny: Path, tmp_path: Path, phaseplan: Phaseplan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planner.cli import profile_prediction, profile_simulator

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the simulator was run")

    monkeypatch.setattr(profile_simulator, "_COMMAND", ("-c", "exit('no compiler')"))
    monkeypatch.setattr("planner.validation.capacity_rps", refuse)
    monkeypatch.setattr(profile_prediction, "predict_campaign", refuse)
    out = tmp_path / "out"
    ended = phaseplan(
        *(*CAMPAIGN, "--model", tiny, "--out", out, "--minutes", 1),
        *("--sm-share", "none"),
    )
    assert ended.code == 0, ended.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["capacity"] == "predicted roughly: no compiler"
    assert summary["predict_skipped"] == "the simulator: no compiler"
    assert (out / "served.json.gz").exists()
    assert (
        "predict skipped: the simulator: no compiler"
        in (out / "summary.md").read_text()
    )


def _levels(path: Path) -> list[dict[str, Any]]:
    levels: list[dict[str, Any]] = json.loads(path.read_text())["levels"]
    return levels


def test_served_traces_of_another_model_are_refused(
    tiny: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    served = tmp_path / "served.json.gz"
    served.write_bytes(b"no gzip")
    profile = tmp_path / "profile.json"
    profile.write_text(PROFILE)
    ended = phaseplan("profile", "validate", profile, tiny, "--served", served)
    assert ended.code == 2
    assert "runs (Not a gzipped file" in ended.stderr


def test_smoke_test_tells_what_works_and_why_not(
    tiny: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    results = tmp_path / "smoke.json"
    ended = phaseplan(
        *("profile", "smoke", "--model", tiny, *ON_CPU, "--small", "-o", results),
        *("--seconds", 300),
    )
    by_name = {each["name"]: each for each in json.loads(results.read_text())}
    assert by_name["device"]["outcome"] == "ok"
    assert by_name["simulator"]["outcome"] == "ok"
    assert by_name["chunked prefill"]["outcome"] == "ok"
    assert by_name["layer tiny TP1 dense fp32"]["outcome"] == "ok", ended.stdout
    # What a CPU cannot have is absent, what it could have and has not failed.
    assert by_name["flash, ragged batches"]["outcome"] == "absent"
    assert by_name["fp8 products"]["outcome"] == "failed"
    assert "fp8 products give bf16 here" in by_name["fp8 products"]["detail"]
    assert "layer tiny TP1 ends fp32" in ended.stdout
    assert ended.code == 1


def test_dry_run_lists_points_and_measures_nothing(
    tiny: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    records = tmp_path / "r.jsonl"
    ended = phaseplan("profile", "run", tiny, "-r", records, *ON_CPU, "--dry-run")
    assert ended.code == 0, ended.stderr
    assert "tiny TP1 dense fp32" in ended.stdout
    assert "points" in ended.stdout
    assert not records.exists()


def test_dry_run_needs_no_device(tiny: Path, phaseplan: Phaseplan) -> None:
    words = ("profile", "run", tiny, "--dry-run", "--gpu", "h200_sxm", "--budget", "8m")
    ended = phaseplan(*words)
    assert ended.code == 0, ended.stderr
    assert "the budget is 480 s" in ended.stdout
    assert "h200_sxm" in ended.stdout


def test_dry_run_of_the_suite_holds_the_shards_of_the_shipped_models(
    phaseplan: Phaseplan,
) -> None:
    ended = phaseplan(
        *("profile", "campaign", "--dry-run", "--gpu", "h200_sxm", "--device", "cpu")
    )
    assert ended.code == 0, ended.stderr
    for subject in (
        *(f"llama-3.1-70b TP{tp} dense bf16" for tp in (1, 2, 4, 8)),
        *("qwen3-30b-a3b TP1 moe bf16", "opt-66b TP4 dense bf16"),
        *("llama-3.1-8b-fp8 TP1 dense bf16", "deepseek-v3 TP8 dense bf16"),
    ):
        assert subject in ended.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "a model, or --suite"),
        (("opt-13b", "--suite", "quick"), "a model, or --suite"),
        (("--suite", "quik"), "'quick'"),
        (("--suite", "quick", "--tp", "2"), "no shards beside --suite"),
    ],
    ids=["neither", "both", "unknown", "shards"],
)
def test_run_measures_a_model_or_a_suite(
    words: tuple[str, ...], told: str, phaseplan: Phaseplan
) -> None:
    ended = phaseplan("profile", "run", *words, "--dry-run")
    assert ended.code == 2
    assert told in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_is_told_and_exits_with_two(tiny: Path, phaseplan: Phaseplan) -> None:
    ended = phaseplan("profile", "run", tiny)
    assert ended.code == 2
    assert "torch finds no CUDA device here" in ended.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--tp", "3"), "TP3 does not divide"),
        (("--tp", "none"), "whole numbers >= 1"),
        (("--budget", "soon"), "a duration such as"),
        (("--dtype", "fp7"), "one of bf16, fp16, fp32"),
        (("-r", "/nowhere/r.jsonl"), "can be written"),
    ],
    ids=["tp", "tp_text", "budget", "dtype", "output"],
)
def test_slips_of_run_exit_with_two(
    words: tuple[str, ...], told: str, tiny: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    rest = () if "--dtype" in words else ("--dtype", "fp32")
    own = () if "-r" in words else ("-r", tmp_path / "r.jsonl")
    ended = phaseplan("profile", "run", tiny, "--device", "cpu", *rest, *own, *words)
    assert ended.code == 2
    assert told in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_corrupt_record_is_named_and_too_few_are_refused(
    tmp_path: Path, phaseplan: Phaseplan
) -> None:
    records = tmp_path / "r.jsonl"
    records.write_text("garbage\n")
    ended = phaseplan("profile", "fit", records)
    assert ended.code == 2
    assert f"{records}:1: left out" in ended.stderr
    assert "at least one readable record" in ended.stderr


def test_profile_of_another_model_is_refused(
    tiny: Path, tmp_path: Path, phaseplan: Phaseplan
) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"gpu": "x"}')
    problem = tmp_path / "problem.yaml"
    problem.write_text(PROBLEM)
    ended = phaseplan("plan", problem, "--profile", profile)
    assert ended.code == 2
    assert "profile.json" in ended.stderr
