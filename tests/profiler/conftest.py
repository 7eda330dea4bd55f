"""Fixtures of the profiler's tests: tiny models, one thread, a synthetic device."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


@dataclass
class FakeCuda:
    """What a CUDA device that is not there was asked; it ticks 1 ms a call."""

    calls: list[str] = field(default_factory=list)
    now_ms: float = 0.0
    free_bytes: int = 90
    total_bytes: int = 100
    fails: str = ""
    stream: Any = "default"
    used: list[Any] = field(default_factory=list)

    def call(self, name: str) -> None:
        """Note a call, or fail as it should."""
        self.calls.append(name)
        self.now_ms += 1.0
        if name == self.fails:
            raise RuntimeError(f"CUDA error: {name}")


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """`torch.cuda` as far as clocks and graphs use it, without a device."""
    torch = pytest.importorskip("torch", reason="the profiler needs torch")
    cuda = FakeCuda()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.ms = 0.0

        def record(self) -> None:
            cuda.call("record")
            self.ms = cuda.now_ms

        def elapsed_time(self, other: "Event") -> float:
            return other.ms - self.ms

    class Graph:
        def capture_begin(self) -> None:
            cuda.call("capture_begin")

        def capture_end(self) -> None:
            cuda.call("capture_end")

        def replay(self) -> None:
            cuda.call("replay")

    class Stream:
        def __init__(self, name: object = "side") -> None:
            self.name = name

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Stream) and self.name == other.name

        def __hash__(self) -> int:
            return hash(self.name)

        def wait_stream(self, other: "Stream") -> None:
            """Order two streams: there is only one here."""

    def use(stream: Stream) -> Any:
        cuda.used.append(stream.name)
        return nullcontext()

    fakes: dict[str, Any] = {
        "Event": Event,
        "CUDAGraph": Graph,
        "Stream": lambda _index: Stream("side"),
        "stream": use,
        "current_stream": lambda: Stream(cuda.stream),
        "default_stream": lambda: Stream("default"),
        "current_device": lambda: 0,
        "synchronize": lambda *_: cuda.call("synchronize"),
        "empty_cache": lambda: cuda.call("empty_cache"),
        "mem_get_info": lambda *_: (cuda.free_bytes, cuda.total_bytes),
        "get_device_properties": lambda _: SimpleNamespace(L2_cache_size=64),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    steps = pytest.importorskip("profiler.steps")
    steps._side_stream.cache_clear()
    return cuda
