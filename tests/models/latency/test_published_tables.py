"""Published tables: what was published, only where asked for, and nothing beyond."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from clusters.gpu import GpuType
from models.latency.library import (
    LatencyLibrary,
    LatencyRequest,
    LatencyUnavailableError,
    Provenance,
)
from models.latency.published_tables import (
    PUBLICATIONS,
    PublishedTableSource,
    load_publication,
)
from models.llm import LlmSpec

Build = Callable[..., LatencyRequest]
SPLITWISE = PublishedTableSource(publication="splitwise")
MUXSERVE = PublishedTableSource(publication="muxserve")


@pytest.mark.parametrize(
    ("llm", "gpu", "tp", "tokens", "ms"),
    [
        # Medians of the released table, to four digits.
        ("llama-2-70b", "a100_sxm", 8, 1024, 154.5),
        ("llama-2-70b", "a100_sxm", 2, 8192, 2990),
        ("llama-2-70b", "h100_sxm", 8, 2048, 136.8),
        ("bloom-176b", "a100_sxm", 8, 128, 79.67),
        ("bloom-176b", "h100_sxm", 8, 4096, 688.7),
    ],
)
def test_a_prompt_costs_what_splitwise_measured(
    nvlink_request: Build, llm: str, gpu: str, tp: int, tokens: int, ms: float
) -> None:
    (table,) = SPLITWISE.compile(nvlink_request(llm, gpu, tp=tp))
    assert table.prefill_step_ms([tokens]) == ms


@pytest.mark.parametrize(
    ("llm", "gpu", "requests", "ms"),
    [
        # Prompts of 512 and outputs of 128 tokens: 576 in the cache on average.
        ("llama-2-70b", "a100_sxm", 64, 71.61),
        ("llama-2-70b", "h100_sxm", 32, 38.62),
        ("bloom-176b", "a100_sxm", 16, 57.34),
        ("bloom-176b", "h100_sxm", 64, 63.82),
    ],
)
def test_a_batch_costs_what_splitwise_measured(
    nvlink_request: Build, llm: str, gpu: str, requests: int, ms: float
) -> None:
    (table,) = SPLITWISE.compile(nvlink_request(llm, gpu, tp=8))
    assert table.decode_step_ms(requests, requests * 576) == pytest.approx(ms, rel=2e-3)


def test_a_batch_costs_what_muxserve_measured(nvlink_request: Build) -> None:
    (table,) = MUXSERVE.compile(nvlink_request("llama-7b", "a100_sxm"))
    # The released rows of 128 requests with 512 and 32 tokens, and of one of 256.
    assert table.decode_step_ms(128, 128 * 512) == pytest.approx(40.856, rel=0.02)
    assert table.decode_step_ms(128, 128 * 32) == pytest.approx(19.666, rel=0.03)
    assert table.prefill_step_ms([256]) == pytest.approx(23.75, rel=0.03)
    assert table.prefill_step_ms([512] * 16) == pytest.approx(608.969, rel=0.01)


@pytest.mark.parametrize("name", PUBLICATIONS)
def test_published_tables_never_fall(name: str) -> None:
    for knots in load_publication(name).tables:
        table = knots.table
        prefill = [table.prefill_step_ms([n]) for n in (1, 128, 700, 5000, 40000)]
        assert (np.diff(prefill) >= 0).all(), knots
        decode = [
            [table.decode_step_ms(b, b * c) for b in (1, 2, 3, 20, 33, 64, 100, 300)]
            for c in (32, 576, 4096)
        ]
        assert (np.diff(decode, axis=0) >= 0).all(), knots
        assert (np.diff(decode, axis=1) >= 0).all(), knots


def test_they_answer_only_when_named(nvlink_request: Build) -> None:
    request = nvlink_request("llama-2-70b", "a100_sxm", tp=8)
    library = LatencyLibrary.default()
    assert library.choose(request).source == "fitted-vllm"
    named = library.with_sources("published-splitwise", "fitted-vllm")
    choice = named.choose(request)
    assert choice.source == "published-splitwise"
    assert choice.provenance is Provenance.PUBLISHED
    assert "Splitwise, perf_model.csv" in choice.reason
    # 9 of 10 published points are as near as the file says; batches of prompts not.
    assert choice.expected_error_frac is not None
    assert 0 < choice.expected_error_frac < 0.3


def test_a_pair_nobody_published_has_a_reason() -> None:
    a100, h200 = GpuType.load("a100_sxm"), GpuType.load("h200_sxm")
    yi, llama = LlmSpec.load("yi-34b"), LlmSpec.load("llama-2-70b")
    assert SPLITWISE.why_not_pair(llama, a100) is None
    assert SPLITWISE.why_not_pair(yi, a100) == "no table of yi-34b"
    reason = SPLITWISE.why_not_pair(llama, h200)
    assert reason is not None
    assert "not h200_sxm" in reason
    # The same name with other shapes is another model.
    assert SPLITWISE.why_not_pair(llama.with_kv_dtype("fp8"), a100) is not None


def test_a_parallelism_nobody_published_is_unavailable(nvlink_request: Build) -> None:
    with pytest.raises(LatencyUnavailableError, match=r"published: TP2, TP4, TP8"):
        SPLITWISE.compile(nvlink_request("llama-2-70b", "a100_sxm", tp=1))


def test_a_pipeline_stage_takes_its_layers(nvlink_request: Build) -> None:
    (whole,) = SPLITWISE.compile(nvlink_request("llama-2-70b", "a100_sxm", tp=8))
    first, last = SPLITWISE.compile(
        nvlink_request("llama-2-70b", "a100_sxm", tp=8, pp=2)
    )
    assert last.prefill_step_ms([1024]) == pytest.approx(
        whole.prefill_step_ms([1024]) / 2
    )
    assert first.prefill_step_ms([1024]) > last.prefill_step_ms([1024])


def test_a_capped_h100_prefills_slower_and_decodes_alike(nvlink_request: Build) -> None:
    h100 = GpuType.load("h100_sxm")
    capped = replace(h100, name="h100_sxm_capped")
    (whole,), (slow,) = (
        SPLITWISE.compile(nvlink_request("bloom-176b", gpu, tp=8))
        for gpu in (h100, capped)
    )
    # An assumption of the publication: 1.3 times the prefill, the same decode.
    for tokens in (128, 2048, 8192):
        assert slow.prefill_step_ms([tokens]) == pytest.approx(
            1.3 * whole.prefill_step_ms([tokens]), rel=2e-3
        )
    assert slow.decode_step_ms(32, 20_000) == whole.decode_step_ms(32, 20_000)
