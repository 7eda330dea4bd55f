"""Memory of replicas whose stages are unlike, by hand."""

import pytest

from clusters.gpu import GpuType
from models.llm import LlmSpec
from models.memory import MemorySettings, kv_shares, memory_of, memory_of_stage
from models.parallelism import Parallelism

A100 = GpuType.load("a100_sxm")


def test_unlike_stages_are_limited_by_the_one_with_least_room() -> None:
    """Each stage as in a pipeline of its kind; the fewest KV tokens count."""
    llm, small = LlmSpec.load("opt-13b"), GpuType.load("l4")
    split = Parallelism(tp=2, pp=2, stage_tp=(1, 2), stage_layers=(30, 10))
    found = memory_of(llm, split, (A100, small))
    first = memory_of_stage(llm, split.of_stage(0), 0, A100, MemorySettings())
    second = memory_of_stage(llm, split.of_stage(1), 1, small, MemorySettings())
    assert found.max_kv_tokens == min(first.max_kv_tokens, second.max_kv_tokens)
    # Ten layers over two GPUs: 10 * 12 * 5120^2 weights of 2 bytes, halved, and the
    # head (tied, so a copy): 50272 * 5120 * 2 / 2.
    layers = 10 * 12 * 5120**2 * 2 / 2
    assert second.weights_bytes == pytest.approx(layers + 50272 * 5120, rel=1e-3)
    assert second.memory_bytes == small.memory_bytes


def test_stages_of_one_type_are_the_uniform_replica() -> None:
    llm = LlmSpec.load("opt-13b")
    uniform = memory_of(llm, Parallelism(tp=2, pp=2), A100)
    spelled = Parallelism(tp=2, pp=2, stage_tp=(2, 2), stage_layers=(20, 20))
    assert memory_of(llm, spelled, (A100, A100)) == uniform


def test_shares_of_layers_follow_what_they_keep() -> None:
    llm = LlmSpec.load("opt-13b")
    assert kv_shares(llm, 512) == pytest.approx((1 / 40,) * 40)
    windowed = LlmSpec.load("gemma-3-27b")
    shares = kv_shares(windowed, 4096)
    assert sum(shares) == pytest.approx(1.0)
    # A layer that sees 1024 of 4096 tokens keeps a quarter.
    assert min(shares) == pytest.approx(max(shares) / 4)
