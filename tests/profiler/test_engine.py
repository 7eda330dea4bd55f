"""Captured decodes give what eager ones give, padded or not, whatever the slots."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine needs torch")

from clusters.fields import InputError  # noqa: E402
from models.llm import LlmSpec  # noqa: E402
from profiler import engine as engine_module  # noqa: E402
from profiler.engine import Chunk, Decodes, Engine, EngineLimits  # noqa: E402
from profiler.features import LEFT_OUT  # noqa: E402
from profiler.layers import gqa  # noqa: E402
from profiler.layers.attention import KvCache  # noqa: E402
from profiler.layers.batch import StepBatch  # noqa: E402
from profiler.layers.settings import LayerSettings  # noqa: E402

LIMITS = EngineLimits(max_num_seqs=6, max_context_tokens=32)
CPU = LayerSettings(device=torch.device("cpu"), dtype=torch.float32)


def attend_by_tensors(
    queries: torch.Tensor, cache: KvCache, batch: StepBatch, window: int | None
) -> torch.Tensor:
    """What the ragged flash kernel computes, from the tensors that it reads alone."""
    out = torch.empty_like(queries)
    share = queries.shape[1] // cache.keys.shape[1]
    for index, length in enumerate(batch.kv_lengths.tolist()):
        first, last = batch.query_starts[index : index + 2].tolist()
        start = int(batch.kv_starts[index])
        keys = cache.keys[start : start + length].repeat_interleave(share, 1)
        values = cache.values[start : start + length].repeat_interleave(share, 1)
        for token in range(first, last):
            seen = length - (last - 1 - token)
            scores = torch.einsum("hd,khd->hk", queries[token], keys[:seen])
            weights = (scores / queries.shape[2] ** 0.5).softmax(dim=-1)
            out[token] = torch.einsum("hk,khd->hd", weights, values[:seen])
    return out


@pytest.fixture
def engine(tiny_llm: LlmSpec, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose kernels could be captured; a capture just keeps the step."""
    kernel = ("varlen", attend_by_tensors)
    monkeypatch.setattr(gqa, "attention_for", lambda *_, **__: kernel)
    monkeypatch.setattr(engine_module, "capture", lambda step: step)
    return Engine(tiny_llm, CPU, LIMITS)


def decoded(engine: Engine, num: int) -> list[list[int]]:
    """Three steps of `num` requests of different lengths in slots out of order."""
    slots = [5, 0, 3, 1, 4][:num]
    prompts = [[slot + 1] * (3 + slot) for slot in slots]
    chunks = [Chunk(s, 0, p) for s, p in zip(slots, prompts, strict=True)]
    tokens, _ = engine.step(chunks)
    found, contexts = [tokens], [len(prompt) for prompt in prompts]
    for _ in range(3):
        contexts = [context + 1 for context in contexts]
        _, tokens = engine.step([], Decodes(slots, contexts, tokens))
        found.append(tokens)
    return found


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_captured_decodes_give_what_eager_ones_give(engine: Engine, num: int) -> None:
    eager = decoded(engine, num)
    assert engine.prepare() is None
    # Graphs of 1, 2, 4 and 6 requests: 3 and 5 are padded.
    assert engine.graph_sizes == (1, 2, 4, 6)
    assert engine.backend == "varlen graph"
    assert decoded(engine, num) == eager


def test_padding_writes_to_nobodys_slot(engine: Engine) -> None:
    engine.prepare()
    before = [cache.keys.clone() for cache in engine._caches]
    engine.step([], Decodes([2], [5], [7]))
    rows = {2 * 32 + 4, 6 * 32}  # its own row, and the one of padded requests
    for cache, held in zip(engine._caches, before, strict=True):
        changed = (cache.keys != held).flatten(1).any(dim=1).nonzero().flatten()
        assert set(changed.tolist()) <= rows


def test_engine_without_such_kernels_says_why_it_is_eager(tiny_llm: LlmSpec) -> None:
    engine = Engine(tiny_llm, CPU, LIMITS)
    assert engine.prepare() == "the kernels (sdpa) ask the host for lengths"
    assert engine.backend == "sdpa eager"


def test_capture_that_fails_leaves_an_engine_that_works(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = decoded(engine, 2)

    def fail(step: Any) -> Any:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(engine_module, "capture", fail)
    assert engine.prepare() == "operation not permitted"
    assert engine.graph_sizes == ()
    assert decoded(engine, 2) == eager


def test_graphs_are_left_out_when_somebody_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEFT_OUT, "graphs")
    assert engine.prepare() == f"left out by {LEFT_OUT}"


def test_slot_longer_than_the_model_allows_is_refused(tiny_llm: LlmSpec) -> None:
    limits = EngineLimits(max_context_tokens=8192)
    with pytest.raises(InputError, match="max_context_tokens"):
        Engine(tiny_llm, CPU, limits)
