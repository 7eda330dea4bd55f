"""Fixtures of the profiler's tests: tiny models, one thread, a synthetic device."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.llm import LlmSpec

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


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small products are faster on one thread, and repeat better."""
    try:
        import torch
    except ModuleNotFoundError:  # tests that need it say so themselves
        return
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """A ``config.json`` of four layers of 64."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def tiny_llm(tiny_config: Path) -> LlmSpec:
    """The model of `tiny_config`: dense, 4 query and 2 K/V heads."""
    return LlmSpec.load(tiny_config)


@pytest.fixture
def changed(tiny_llm: LlmSpec) -> Callable[..., LlmSpec]:
    """The tiny model with some facts changed."""

    def change(**facts: object) -> LlmSpec:
        return replace(tiny_llm, **facts)

    return change
