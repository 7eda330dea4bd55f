"""Repositories of the Hub, and the catalogue models and formats they mean."""

import csv
from pathlib import Path

import pytest

from clusters.fields import InputError
from clusters.gpu import Dtype
from models.hf_names import FORMATS, OWNERS, aliases, find_model
from models.llm import LlmSpec, catalog_names

SILICON = Path(__file__).parents[3] / "shared/reference/aiconfigurator/silicon.csv"
# Formats by the precision a public benchmark names: stored bytes, compute format.
PRECISIONS = {
    "fp8": ({1.0, 1.0 + 4 / 128**2}, Dtype.FP8),
    "bf16": ({2.0}, Dtype.BF16),
    "int4": ({0.5 + 2 / 32}, Dtype.BF16),
    "fp4": ({0.5 + 1 / 16}, Dtype.FP4),
}


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Llama-2-70b-chat-hf", "llama-2-70b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("moonshotai/Kimi-K2-Instruct-0905", "kimi-k2"),
        ("zhipuai/GLM-5", "glm-5"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "qwen3-coder-480b-a35b"),
        ("nvidia/DeepSeek-R1-0528-NVFP4-v2", "deepseek-r1-nvfp4"),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b-fp8"),
    ],
)
def test_a_repository_is_found_in_the_catalogue(repository: str, name: str) -> None:
    assert LlmSpec.load(repository) == LlmSpec.load(name)
    assert LlmSpec.load(repository).name == name


@pytest.mark.parametrize(
    ("repository", "base", "stored", "compute", "kv"),
    [
        # NVIDIA: one scale a tensor, and an fp8 cache.
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b", 1.0, "fp8", "fp8"),
        # NVFP4: 4 bits and an fp8 scale for 16 weights.
        ("nvidia/Qwen3-32B-NVFP4", "qwen3-32b", 0.5625, "fp4", "fp8"),
        # Qwen: one fp32 scale for a block of 128 x 128.
        ("Qwen/Qwen3-30B-A3B-FP8", "qwen3-30b-a3b", 1 + 4 / 128**2, "fp8", "bf16"),
        ("RedHatAI/Llama-3.1-8B-FP8", "llama-3.1-8b", 1.0, "fp8", "bf16"),
        # 4 bits, a scale of 2 bytes and a zero of half a byte for 128 weights.
        ("Qwen/Qwen2.5-7B-AWQ", "qwen2.5-7b", 0.5 + 2.5 / 128, "fp16", "fp16"),
    ],
)
def test_a_suffix_changes_the_number_format_and_nothing_else(
    repository: str, base: str, stored: float, compute: str, kv: str
) -> None:
    llm, plain = LlmSpec.load(repository), LlmSpec.load(base)
    assert llm.precision.mlp.bytes_per_weight == pytest.approx(stored)
    if compute != "fp16":
        assert llm.precision.mlp.compute_dtype is Dtype(compute)
        assert llm.precision.kv is Dtype(kv)
    assert llm.precision.embedding == plain.precision.embedding
    assert (llm.num_layers, llm.hidden, llm.moe) == (
        plain.num_layers,
        plain.hidden,
        plain.moe,
    )
    assert llm.name == repository.rsplit("/", 1)[-1].lower()
    assert isinstance(llm.to_file_form(), dict)  # not a catalogue name: all fields


@pytest.mark.skipif(not SILICON.exists(), reason="no reference data")
def test_every_measured_model_is_known_in_its_measured_precision() -> None:
    with SILICON.open(newline="") as file:
        wanted = {(row["model_path"], row["precision"]) for row in csv.DictReader(file)}
    assert len(wanted) > 20
    for path, precision in sorted(wanted):
        named = precision and not path.lower().endswith(("-fp8", "-nvfp4"))
        llm = LlmSpec.load(f"{path}-{precision}" if named else path)
        if not precision:
            continue
        part = llm.precision.experts if llm.moe else llm.precision.mlp
        if llm.name == "gpt-oss-120b":  # 4 bits there are MXFP4
            assert part.bytes_per_weight == 0.5 + 1 / 32
            continue
        stored, compute = PRECISIONS[precision]
        assert part.bytes_per_weight in stored, (path, precision)
        assert part.compute_dtype is compute, (path, precision)


def test_aliases_name_catalogue_models_and_hide_none() -> None:
    assert set(aliases().values()) <= set(catalog_names())
    assert not set(aliases()) & set(catalog_names())


def test_the_owners_exceptions_are_about_known_suffixes() -> None:
    assert all(set(suffixes) <= set(FORMATS) for suffixes in OWNERS.values())


def test_a_suffix_alone_or_on_a_stranger_is_unknown() -> None:
    assert find_model("Somebody/Else-7B-FP8", catalog_names()) is None
    assert find_model("-fp8", catalog_names()) is None
    with pytest.raises(InputError, match="a catalogue name"):
        LlmSpec.load("Somebody/Else-7B-FP8")
