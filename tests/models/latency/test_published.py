"""Published coefficients: exactly the released form, and nothing beyond it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from models.latency.library import LatencyRequest, LatencyUnavailableError
from models.latency.published import PublishedSource, load_published
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism

Build = Callable[..., LatencyRequest]
SOURCE = PublishedSource(engine="distserve")
A100 = GpuType.load("a100_sxm")


def test_a_prefill_step_by_hand(nvlink_request: Build) -> None:
    # 13B TP1, prompts of 512 and 100: 18.1025 + 0.101912*612 + 7.1223e-6*272144.
    (table,) = SOURCE.compile(nvlink_request("opt-13b", A100))
    assert table.prefill_step_ms([512, 100]) == pytest.approx(
        18.1025 + 62.370144 + 1.938291, rel=1e-6
    )


@pytest.mark.parametrize(
    ("num_requests", "fixed_ms", "per_kv_ms", "per_request_ms"),
    [
        (1, 19.9347, 6.2694e-4, 0.038507),
        (94, 19.9347, 6.2694e-4, 0.038507),
        (95, 7.1662, 5.7980e-4, 0.158311),
        (1000, 7.1662, 5.7980e-4, 0.158311),
        (9000, 7.1662, 5.7980e-4, 0.158311),
    ],
)
def test_decode_switches_pieces_exactly_at_95_requests(
    nvlink_request: Build,
    num_requests: int,
    fixed_ms: float,
    per_kv_ms: float,
    per_request_ms: float,
) -> None:
    (table,) = SOURCE.compile(nvlink_request("opt-13b", A100))
    expected = fixed_ms + per_kv_ms * 48_000 + per_request_ms * num_requests
    assert table.decode_step_ms(num_requests, 48_000) == pytest.approx(
        expected, rel=1e-12
    )


@given(
    num_requests=st.integers(1, 5000),
    context=st.integers(1, 4096),
    tp=st.sampled_from([2, 3, 4, 8]),
)
def test_every_whole_batch_size_is_exact(
    num_requests: int, context: int, tp: int
) -> None:
    engine = next(e for e in load_published().engines if e.engine == "distserve")
    fit = next(f for f in engine.fits if f.llm == "opt-66b" and f.tp == tp)
    piece = fit.decode_small if num_requests < 95 else fit.decode_large
    kv_tokens = num_requests * context
    table = _table("opt-66b", tp)
    expected = (
        piece.fixed_ms
        + piece.per_kv_token_ms * kv_tokens
        + piece.per_request_ms * num_requests
    )
    assert table.decode_step_ms(num_requests, kv_tokens) == pytest.approx(
        expected, rel=1e-12
    )


def test_pipeline_stages_take_their_share_of_the_layers(nvlink_request: Build) -> None:
    (whole,) = SOURCE.compile(nvlink_request("opt-13b", A100, tp=2))
    first, last = SOURCE.compile(nvlink_request("opt-13b", A100, tp=2, pp=2))
    assert last.prefill_step_ms([700]) == pytest.approx(
        whole.prefill_step_ms([700]) / 2
    )
    # The first also sends 700 x 5120 x 2 bytes at 0.77 x 300 GB/s, after 14 us.
    hop_ms = 0.012 + 0.002 + 700 * 10240 / (0.77 * 300e9) * 1e3
    assert first.prefill_step_ms([700]) == pytest.approx(
        whole.prefill_step_ms([700]) / 2 + hop_ms, rel=1e-9
    )
    assert first.decode_step_ms(95, 9500) == pytest.approx(
        whole.decode_step_ms(95, 9500) / 2 + 0.014 + 95 * 10240 / 231e9 * 1e3, rel=1e-9
    )


def test_a_tp_without_coefficients_is_unavailable(nvlink_request: Build) -> None:
    reason = r"no published latency of opt-13b at TP8 \(published: TP1, TP2, TP4\)"
    with pytest.raises(LatencyUnavailableError, match=reason):
        SOURCE.compile(nvlink_request("opt-13b", A100, tp=8))


def test_negative_squared_cost_makes_an_entry_unusable(nvlink_request: Build) -> None:
    vllm = PublishedSource(engine="vllm")
    with pytest.raises(LatencyUnavailableError, match="negative"):
        vllm.compile(nvlink_request("opt-66b", A100, tp=2))
    assert vllm.compile(nvlink_request("opt-66b", A100, tp=4))


def test_every_entry_with_a_negative_coefficient_says_it_is_unusable() -> None:
    for engine in load_published().engines:
        for fit in engine.fits:
            assert (fit.prefill.per_sq_token_ms < 0) == (fit.unusable is not None)


@pytest.mark.parametrize("gpu", ["h100_sxm", "a100_pcie", "a100_sxm_40gb"])
def test_other_gpus_are_not_covered(gpu: str) -> None:
    why_not = SOURCE.why_not_pair(LlmSpec.load("opt-13b"), GpuType.load(gpu))
    assert why_not == f"measured on a100_sxm only, not {gpu}"


def test_a_model_of_the_same_name_but_other_shape_is_not_covered() -> None:
    impostor = replace(LlmSpec.load("opt-13b"), num_layers=41)
    assert SOURCE.why_not_pair(impostor, A100) == "no coefficients of opt-13b"
    assert SOURCE.why_not_pair(LlmSpec.load("opt-175b"), A100) is not None


def _table(name: str, tp: int) -> StepTable:
    link = GroupLink(bytes_per_s=300e9, latency_ms=0.0)
    request = LatencyRequest(
        llm=LlmSpec.load(name),
        parallelism=Parallelism(tp=tp),
        gpu=A100,
        links=GroupLinks(tp=(link,), pp=()),
    )
    return SOURCE.compile(request)[0]
