"""A model is shown with what it needs and how fast it runs, and why that is known."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from clusters.gpu import GpuType
from models.latency.library import LatencyLibrary, LatencyRequest
from models.llm import LlmSpec, catalog_names
from models.memory import memory_of
from models.parallelism import Parallelism
from planner.cli.model_facts import machine_with


def test_facts_are_those_of_the_library(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan(
        "model", "show", "opt-13b", "--gpu", "a100_sxm", "--tp", 2, "--format", "json"
    )
    facts = json.loads(ended.stdout)
    llm, gpu = LlmSpec.load("opt-13b"), GpuType.load("a100_sxm")
    parallelism = Parallelism(tp=2)
    memory = memory_of(llm, parallelism, gpu)
    assert facts["memory"]["max_kv_tokens"] == memory.max_kv_tokens
    assert facts["memory"]["weights_bytes"] == memory.weights_bytes
    links = machine_with(gpu, parallelism).links
    request = LatencyRequest(llm=llm, parallelism=parallelism, gpu=gpu, links=links)
    (table,) = LatencyLibrary.default().choose(request).stages
    first = facts["latency"]["prefill"][0]
    assert first["latency_ms"] == table.prefill_step_ms([first["prompt_tokens"]])
    last = facts["latency"]["decode"][-1]
    kv_tokens = last["num_requests"] * last["context_tokens"]
    assert last["latency_ms"] == table.decode_step_ms(last["num_requests"], kv_tokens)


def test_latency_source_is_chosen_and_explained(phaseplan: Callable[..., Any]) -> None:
    published = phaseplan("model", "show", "opt-13b", "--gpu", "a100_sxm").stdout
    assert "published-distserve (published)" in published
    assert "published-distserve covers opt-13b on a100_sxm" in published
    fitted = phaseplan("model", "show", "opt-13b", "--gpu", "h100_sxm").stdout
    assert "fitted-vllm (fitted)" in fitted
    roofline = phaseplan("model", "show", "opt-13b", "--gpu", "mi300x").stdout
    assert "roofline (datasheet)" in roofline


def test_a_named_source_answers_with_its_publication_and_error(
    phaseplan: Callable[..., Any],
) -> None:
    words = ("model", "show", "llama-2-70b", "--gpu", "a100_sxm", "--tp", 8)
    ended = phaseplan(*words, "--source", "published-splitwise", "--format", "json")
    latency = json.loads(ended.stdout)["latency"]
    assert latency["source"] == "published-splitwise"
    assert "Splitwise, perf_model.csv" in latency["reason"]
    assert 0 < latency["expected_error_frac"] < 0.1
    unknown = phaseplan(*words, "--source", "published-splitwis")
    assert unknown.code == 2
    assert "nearest is 'published-splitwise'" in unknown.stderr


def test_ranks_are_shown_with_their_cache(phaseplan: Callable[..., Any]) -> None:
    words = ("model", "show", "deepseek-v3", "--gpu", "mi300x", "--format", "json")
    tensor = json.loads(phaseplan(*words, "--tp", 8, "--ep", 8).stdout)
    ranks = json.loads(phaseplan(*words, "--attention-dp", 8, "--ep", 8).stdout)
    assert ranks["parallelism"] == "TP1 PP1 EP8 DPA8"
    assert ranks["num_gpus"] == tensor["num_gpus"] == 8
    # A latent cache is kept once a request, not on every GPU.
    ratio = ranks["memory"]["max_kv_tokens"] / tensor["memory"]["max_kv_tokens"]
    assert 6 < ratio < 8
    refused = phaseplan("model", "show", "opt-13b", "--attention-dp", 2)
    assert refused.code != 0
    assert "needs a mixture of experts" in refused.stderr


def test_states_and_sparse_attention_are_shown(phaseplan: Callable[..., Any]) -> None:
    roofline = ("--source", "roofline")
    linear = phaseplan("model", "show", "Qwen/Qwen3.5-397B-A17B", *roofline).stdout
    # 45 x (64 x 128 x 128 x 4 + 3 x 12288 x 2) bytes.
    assert "45 of 60 layers, 183.2 MiB a request" in linear
    assert "30,720 bytes/token" in linear
    sparse = phaseplan("model", "show", "zai-org/GLM-5-FP8", *roofline).stdout
    assert "to the 2,048 tokens scored best" in sparse
    mixed = phaseplan("model", "show", "deepseek-v3.1-nvfp4", *roofline).stdout
    assert "MLP, experts fp4 (0.562 bytes)" in mixed


def test_prompts_are_no_longer_than_the_context(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("model", "show", "opt-13b", "--format", "json")
    steps = json.loads(ended.stdout)["latency"]["prefill"]
    assert [step["prompt_tokens"] for step in steps] == [128, 512, 2048]


def test_pipeline_spans_nodes_where_one_is_too_small() -> None:
    gpu = GpuType.load("h100_sxm")
    machine = machine_with(gpu, Parallelism(tp=8, pp=2))
    assert machine.name == "2 x p5.48xlarge"
    assert [str(link.kind) for link in machine.links.tp] == ["nvlink", "nvlink"]
    assert str(machine.links.pp[0].kind) == "network"


def test_gpu_without_an_instance_gets_a_plain_machine() -> None:
    machine = machine_with(GpuType.load("a40"), Parallelism(tp=2))
    assert machine.name == "a machine with 2 x a40"


def test_model_that_does_not_fit_says_what_it_needs(
    phaseplan: Callable[..., Any],
) -> None:
    ended = phaseplan("model", "show", "llama-3.1-405b", "--gpu", "t4")
    assert ended.code == 0
    assert "does not fit: stage 0 needs" in ended.stdout


# Beyond what was measured is told by a warning; the width is the claim here.
@pytest.mark.filterwarnings("ignore::models.latency.request.ExtrapolationWarning")
@pytest.mark.parametrize("name", catalog_names())
def test_every_model_fits_in_a_hundred_columns(
    name: str, phaseplan: Callable[..., Any]
) -> None:
    ended = phaseplan("model", "show", name)
    assert (ended.code, ended.stderr) == (0, "")
    assert max(len(line) for line in ended.stdout.splitlines()) <= 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["opt-13"],
            "llm = 'opt-13': expected a catalogue name (nearest is 'opt-13b')",
        ),
        (["opt-13b", "--gpu", "h100"], "'h100': expected a name in the catalogue of"),
        (["opt-13b", "--tp", "3"], "TP3 does not divide the 40 heads"),
        (["opt-13b", "--pp", "41"], "PP41 has more stages than the 40 layers"),
        (["opt-13b", "--tp", "0"], "tp = 0: expected a number >= 1"),
        (["opt-13b", "--tp", "8000000"], "TP8000000 does not divide the 40 heads"),
    ],
)
def test_impossible_request_is_one_line(
    words: list[str], message: str, phaseplan: Callable[..., Any]
) -> None:
    ended = phaseplan("model", "show", *words)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {message}")
    assert ended.stderr.count("\n") == 1
