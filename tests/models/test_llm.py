"""LlmSpec: what a config says, and the errors when it does not."""

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from clusters.gpu import Dtype
from clusters.mapping import from_mapping, to_mapping
from models.flops import num_active_parameters, num_parameters
from models.hf_config import llm_from_config
from models.llm import CATALOG, LlmSpec, catalog_names

# Published sizes in billions of parameters: model cards, or the papers' tables.
PUBLISHED = {
    "bloom-176b": 176.25,  # arXiv 2211.05100, Table 3
    "deepseek-r1": 671.0,  # arXiv 2501.12948
    "deepseek-r1-nvfp4": 671.0,  # as deepseek-r1
    "deepseek-v3": 671.0,  # arXiv 2412.19437
    "deepseek-v3-nvfp4": 671.0,  # as deepseek-v3
    "deepseek-v3.1": 671.0,  # model card
    "deepseek-v3.1-nvfp4": 671.0,  # as deepseek-v3.1
    "deepseek-v3.2": 671.9,  # deepseek-v3 and 61 indexers of 13.96 million
    "deepseek-v3.2-nvfp4": 671.9,  # as deepseek-v3.2
    "falcon-180b": 179.5,  # arXiv 2311.16867; model card
    "gemma-2-27b": 27.23,  # arXiv 2408.00118, Table 2: 1180 + 26047 million
    "gemma-3-27b": 27.02,  # arXiv 2503.19786, Table 1 without vision: 1416 + 25600
    "glm-4.5": 355.0,  # arXiv 2508.06471
    "glm-4.5-air": 106.0,  # arXiv 2508.06471
    "glm-4.6": 355.0,  # model card
    "glm-5": 744.0,  # model card
    "glm-5-fp8": 744.0,  # as glm-5
    "glm-5-nvfp4": 744.0,  # as glm-5
    "glm-5.1-nvfp4": 744.0,  # as glm-5
    "gpt-oss-120b": 116.83,  # arXiv 2508.10925, Table 1
    "gpt-oss-20b": 20.91,  # arXiv 2508.10925, Table 1
    "kimi-k2": 1040.0,  # arXiv 2507.20534: 1.04 T
    "kimi-k2.5": 1040.0,  # the language model is kimi-k2
    "kimi-k2.5-nvfp4": 1040.0,  # as kimi-k2.5
    "kimi-k2.6-nvfp4": 1040.0,  # as kimi-k2.5
    "llama-13b": 13.0,  # arXiv 2302.13971, Table 2
    "llama-2-13b": 13.02,  # model card
    "llama-2-70b": 68.98,  # model card
    "llama-2-7b": 6.74,  # model card
    "llama-3.1-405b": 405.85,  # model card
    "llama-3.1-70b": 70.55,  # model card
    "llama-3.1-70b-fp8": 70.55,  # as llama-3.1-70b
    "llama-3.1-8b": 8.03,  # model card
    "llama-30b": 32.5,  # arXiv 2302.13971, Table 2
    "llama-65b": 65.2,  # arXiv 2302.13971, Table 2
    "llama-7b": 6.7,  # arXiv 2302.13971, Table 2
    "minimax-m2.5": 230.0,  # model card of MiniMax-M2
    "minimax-m2.5-nvfp4": 230.0,  # as minimax-m2.5
    "minimax-m2.7": 230.0,  # as minimax-m2.5
    "mistral-7b": 7.24,  # model card
    "mixtral-8x22b": 140.6,  # model card
    "mixtral-8x7b": 46.7,  # arXiv 2401.04088
    "opt-13b": 12.85,  # model card (checkpoint)
    "opt-175b": 175.0,  # arXiv 2205.01068, Table 1
    "opt-30b": 30.0,  # arXiv 2205.01068, Table 1
    "opt-66b": 66.0,  # arXiv 2205.01068, Table 1
    "qwen2.5-32b": 32.76,  # model card
    "qwen2.5-72b": 72.71,  # model card
    "qwen2.5-7b": 7.62,  # model card
    "qwen3-235b-a22b": 235.1,  # arXiv 2505.09388
    "qwen3-235b-a22b-fp8": 235.1,  # as qwen3-235b-a22b
    "qwen3-235b-a22b-nvfp4": 235.1,  # as qwen3-235b-a22b
    "qwen3-30b-a3b": 30.53,  # model card
    "qwen3-32b": 32.76,  # model card
    "qwen3-32b-fp8": 32.76,  # model card
    "qwen3-8b": 8.19,  # model card
    "qwen3-coder-480b-a35b": 480.0,  # model card
    "qwen3.5-122b-a10b": 122.0,  # its name
    "qwen3.5-122b-a10b-nvfp4": 122.0,  # its name
    "qwen3.5-27b": 27.0,  # its name
    "qwen3.5-35b-a3b": 35.0,  # its name
    "qwen3.5-397b-a17b": 397.0,  # its name
    "qwen3.5-397b-a17b-nvfp4": 397.0,  # its name
    "yi-34b": 34.39,  # model card
}
# Billions of parameters a token uses, as the papers count them (with embeddings).
PUBLISHED_ACTIVE = {
    "glm-4.5": 32.0 + 1.55,  # counted without embeddings: 2 x 151552 x 5120
    "glm-5": 40.0 + 1.90,  # counted without embeddings: 2 x 154880 x 6144
    "minimax-m2.5": 10.0 + 1.23,  # counted without embeddings: 2 x 200064 x 3072
    "qwen3-coder-480b-a35b": 35.0,
    "deepseek-v3": 37.0,
    "kimi-k2": 32.6,
    "mixtral-8x7b": 12.9,
    "mixtral-8x22b": 39.1,
    "qwen3-30b-a3b": 3.3,
    "qwen3-235b-a22b": 22.0,
}
LLAMA_KEYS = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "silu",
    "vocab_size": 10,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}


def load(folder: Path, **changes: object) -> LlmSpec:
    config = {k: v for k, v in {**LLAMA_KEYS, **changes}.items() if v != "absent"}
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return LlmSpec.load(file)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_come_out_at_the_published_size(name: str) -> None:
    assert num_parameters(LlmSpec.load(name)) / 1e9 == pytest.approx(
        PUBLISHED[name], rel=0.015
    )


@pytest.mark.parametrize("name", sorted(PUBLISHED_ACTIVE))
def test_active_parameters_come_out_at_the_published_size(name: str) -> None:
    assert num_active_parameters(LlmSpec.load(name)) / 1e9 == pytest.approx(
        PUBLISHED_ACTIVE[name], rel=0.02
    )


def test_active_parameters_round_to_the_number_in_the_name() -> None:
    named = {name: re.search(r"-a(\d+)b", name) for name in catalog_names()}
    found = {
        name: round(num_active_parameters(LlmSpec.load(name)) / 1e9)
        for name, match in named.items()
        if match
    }
    assert len(found) >= 8
    assert found == {name: int(m[1]) for name, m in named.items() if m}


def test_every_catalogue_model_has_a_published_size_to_check() -> None:
    assert set(catalog_names()) == set(PUBLISHED)
    assert len(catalog_names()) >= 24


def test_every_catalogue_file_names_its_source_and_date() -> None:
    for file in CATALOG.glob("*.json"):
        content = json.loads(file.read_text())
        assert content["_source"], file.name
        assert content["_date"], file.name


def test_a_plain_config_is_read_from_a_file_or_its_folder(
    tmp_path: Path, tiny_llm: LlmSpec
) -> None:
    from_file = load(tmp_path)
    assert replace(from_file, name="tiny") == tiny_llm
    assert LlmSpec.load(tmp_path) == from_file
    assert from_file.name == tmp_path.name


def test_a_hub_id_finds_the_catalogue_model() -> None:
    assert LlmSpec.load("Qwen/Qwen3-32B-FP8") == LlmSpec.load("qwen3-32b-fp8")


def test_a_multimodal_wrapper_is_unwrapped(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    outer = {"model_type": "llava", "torch_dtype": "float16"}
    inner = {k: v for k, v in LLAMA_KEYS.items() if k != "torch_dtype"}
    file.write_text(json.dumps({**outer, "text_config": inner}))
    llm = LlmSpec.load(file)
    assert llm.hidden == 8
    assert llm.precision.kv is Dtype.FP16


def test_explicit_head_dim_wins_over_hidden_by_heads(tmp_path: Path) -> None:
    assert load(tmp_path, head_dim=16).head_dim == 16
    assert load(tmp_path).head_dim == 2


def test_deepseek_has_latent_attention_and_three_dense_layers() -> None:
    llm = LlmSpec.load("deepseek-v3")
    assert llm.mla is not None
    assert llm.mla.cached_dim == 512 + 64
    assert [llm.is_moe_layer(layer) for layer in (0, 2, 3, 60)] == [
        False,
        False,
        True,
        True,
    ]
    # Block-quantised to fp8 with one fp32 scale for 128 x 128 weights.
    assert llm.precision.mlp.bytes_per_weight == pytest.approx(1 + 4 / 128**2)
    assert llm.precision.embedding.bytes_per_weight == 2


def test_only_the_experts_of_gpt_oss_are_mxfp4() -> None:
    precision = LlmSpec.load("gpt-oss-120b").precision
    assert precision.experts.bytes_per_weight == 0.5 + 1 / 32
    assert precision.attention.bytes_per_weight == 2


def test_windows_follow_the_layers_of_each_family(tmp_path: Path) -> None:
    assert LlmSpec.load("gpt-oss-20b").windows[:3] == (128, None, 128)
    assert LlmSpec.load("gemma-2-27b").windows[:3] == (4096, None, 4096)
    gemma3 = LlmSpec.load("gemma-3-27b").windows
    assert gemma3[:7] == (1024, 1024, 1024, 1024, 1024, None, 1024)
    assert LlmSpec.load("mistral-7b").windows == (4096,) * 32
    assert load(tmp_path, sliding_window=4, use_sliding_window=False).windows == ()


@pytest.mark.parametrize(
    ("quantization", "num_bytes", "compute"),
    [
        # 4 bits and, a group of 128, a 2-byte scale with a 4-bit zero point.
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128},
            0.5 + 2.5 / 128,
            "bf16",
        ),
        ({"quant_method": "fp8"}, 1.0, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 0.5 + 1 / 16, "fp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 8, "type": "int"},
                        "input_activations": {"num_bits": 8},
                    }
                },
            },
            1.0,
            "int8",
        ),
    ],
)
def test_quantised_weights_have_their_stored_size(
    tmp_path: Path, quantization: dict[str, object], num_bytes: float, compute: str
) -> None:
    weights = load(tmp_path, quantization_config=quantization).precision.mlp
    assert weights.bytes_per_weight == pytest.approx(num_bytes)
    assert weights.compute_dtype == compute


def test_kv_scheme_of_a_quantised_config_is_kept(tmp_path: Path) -> None:
    quantization = {"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8}}
    assert load(tmp_path, quantization_config=quantization).precision.kv is Dtype.FP8


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_hidden_layers": "absent"}, "num_hidden_layers"),
        ({"vocab_size": "absent"}, "vocab_size"),
        ({"hidden_size": -8}, "hidden_size"),
        ({"num_key_value_heads": 3}, "num_kv_heads"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"torch_dtype": "int3"}, "torch_dtype"),
        ({"quantization_config": {"quant_method": "magic"}}, "quant_method"),
    ],
)
def test_a_config_that_cannot_be_used_names_file_and_key(
    tmp_path: Path, changes: dict[str, object], key: str
) -> None:
    with pytest.raises(InputError, match=key) as caught:
        load(tmp_path, **changes)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


JUNK = st.sampled_from(
    [-1, 0, 1, 2.5, "x", "", [], [1], ["a"], {}, {"a": 1}, True, 10**12, float("nan")]
)


@given(
    name=st.sampled_from(["gpt-oss-20b", "deepseek-v3", "gemma-3-27b", "opt-13b"]),
    data=st.data(),
)
def test_junk_values_are_input_errors_never_crashes(
    name: str, data: st.DataObject
) -> None:
    config = json.loads((CATALOG / f"{name}.json").read_text())
    extra = ["layer_types", "mlp_only_layers", "quantization_config", "hidden_act"]
    key = data.draw(st.sampled_from([*sorted(config), *extra]))
    with contextlib.suppress(InputError):
        llm_from_config({**config, key: data.draw(JUNK)}, name=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "kimi_linear"},
        {"compress_ratios": [0, 4]},
        {"model_type": "jamba"},
        {"layer_types": ["linear_attention", "full_attention"]},
        {"full_attention_interval": 4},
        {"attn_type_list": [0, 1]},
    ],
)
def test_hybrid_linear_attention_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(InputError, match="hybrids are not supported"):
        load(tmp_path, **changes)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="nearest is 'opt-13b'"):
        LlmSpec.load("opt13b")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json"):
        LlmSpec.load(tmp_path / "nowhere.json")


def test_file_form_round_trips(tmp_path: Path) -> None:
    assert to_mapping(LlmSpec.load("opt-13b")) == "opt-13b"
    for llm in (*map(LlmSpec.load, catalog_names()), load(tmp_path)):
        assert from_mapping(LlmSpec, to_mapping(llm)) == llm
        assert hash(from_mapping(LlmSpec, to_mapping(llm))) == hash(llm)


def test_a_problem_file_may_name_a_config_beside_it(tmp_path: Path) -> None:
    llm = load(tmp_path)
    problem = str(tmp_path / "problem.yaml")
    assert from_mapping(LlmSpec, "config.json", file=problem) == llm
