"""Sizes of an LLM that several commands show."""

from models.flops import stage_shapes
from models.llm import LlmSpec
from models.memory import kv_bytes
from models.parallelism import Parallelism


def weights_bytes(llm: LlmSpec) -> float:
    """Bytes of all weights of one copy of the model."""
    return sum(stage.weight_bytes for stage in stage_shapes(llm, Parallelism()))


def short_kv_bytes_per_token(llm: LlmSpec) -> float:
    """KV bytes of a token over all layers, while no attention window is full."""
    return kv_bytes(llm, 1.0) - kv_bytes(llm, 0.0)


def state_bytes(llm: LlmSpec) -> float:
    """Bytes kept for a request beside its KV cache, by linear-attention layers."""
    return kv_bytes(llm, 0.0)
