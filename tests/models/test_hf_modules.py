"""Modules a quantisation leaves alone, as the tools write them."""

import json
from pathlib import Path

import pytest

from clusters.fields import InputError
from clusters.gpu import Dtype
from models.hf_modules import Part, parts_left_out
from models.llm import LlmSpec

LAYERS = range(30, 34)


@pytest.mark.parametrize(
    ("patterns", "parts"),
    [
        ((), set()),
        (("lm_head", "model.embed_tokens"), set()),
        # Norms and routers have no format of their own.
        (("model.layers.31.input_layernorm", "model.layers.31.mlp.gate"), set()),
        (("model.layers.31.self_attn.q_a_layernorm",), set()),
        (("gate",), set()),
        # Exceptions at the ends say nothing about the rest.
        (("model.layers.0.self_attn", "model.layers.61*"), set()),
        (("model.layers.3.self_attn",), set()),
        (("model.layers.*.self_attn",), {Part.ATTENTION, Part.ATTENTION_OUT}),
        (("self_attn",), {Part.ATTENTION, Part.ATTENTION_OUT}),
        (("model.layers.33.self_attn*",), {Part.ATTENTION, Part.ATTENTION_OUT}),
        (("model.layers.31.self_attn.q_b_proj",), {Part.ATTENTION}),
        (("language_model.model.layers.30.self_attn.o_proj",), {Part.ATTENTION_OUT}),
        (("model.layers.32.mlp.shared_expert*",), {Part.MLP}),
        ((r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",), {Part.MLP}),
        (("re:.*self_attn.*",), {Part.ATTENTION, Part.ATTENTION_OUT}),
        (("model.layers.30.mlp.experts",), {Part.EXPERTS}),
        (("model.layers.30.mlp",), {Part.MLP, Part.EXPERTS}),
    ],
)
def test_patterns_name_parts(patterns: tuple[str, ...], parts: set[Part]) -> None:
    assert parts_left_out(patterns, layers=LAYERS) == parts


def test_a_broken_expression_is_an_input_error() -> None:
    with pytest.raises(InputError, match="a regular expression"):
        parts_left_out(("re:(",), layers=LAYERS)


def test_deepseek_in_nvfp4_quantises_the_output_projection_only() -> None:
    precision = LlmSpec.load("deepseek-v3.1-nvfp4").precision
    assert precision.attention.compute_dtype is Dtype.BF16
    assert precision.out.compute_dtype is Dtype.FP4
    assert precision.experts.bytes_per_weight == 0.5625
    assert precision.kv is Dtype.FP8


def test_kimi_k2_5_quantises_its_routed_experts_only() -> None:
    precision = LlmSpec.load("kimi-k2.5").precision
    # 4-bit integers with a bf16 scale for 32 weights, no zero point.
    assert precision.experts.bytes_per_weight == 0.5 + 2 / 32
    assert precision.mlp == precision.attention == precision.out
    assert precision.mlp.bytes_per_weight == 2


def test_formats_beside_the_config_are_read(tmp_path: Path, tiny_llm: LlmSpec) -> None:
    config = {
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
    formats = {
        "producer": {"name": "modelopt"},
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": "FP8",
            "exclude_modules": ["lm_head", "model.layers.1.self_attn*"],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert LlmSpec.load(tmp_path).precision == tiny_llm.precision
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(formats))
    precision = LlmSpec.load(tmp_path).precision
    assert precision.mlp.compute_dtype is Dtype.FP4
    assert precision.attention.compute_dtype is Dtype.BF16
    assert precision.kv is Dtype.FP8
