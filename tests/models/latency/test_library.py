"""LatencyLibrary: one source a pair, with its reason."""

from collections.abc import Callable

import pytest

from clusters.fields import InputError
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from models.latency.library import (
    LatencyLibrary,
    LatencyRequest,
    LatencyUnavailableError,
    Provenance,
)
from models.latency.published import PublishedSource
from models.llm import LlmSpec
from models.parallelism import Parallelism

Build = Callable[..., LatencyRequest]


def test_published_coefficients_win_where_they_exist(nvlink_request: Build) -> None:
    choice = LatencyLibrary.default().choose(nvlink_request("opt-13b", "a100_sxm"))
    assert choice.source == "published-distserve"
    assert choice.provenance is Provenance.PUBLISHED
    assert choice.reason == "published-distserve covers opt-13b on a100_sxm"


def test_fits_answer_where_nothing_is_published(nvlink_request: Build) -> None:
    choice = LatencyLibrary.default().choose(nvlink_request("opt-13b", "h100_sxm"))
    assert choice.source == "fitted-vllm"
    assert choice.provenance is Provenance.FITTED
    assert "measured on a100_sxm only, not h100_sxm" in choice.reason
    assert choice.expected_error_frac is not None


def test_first_principles_answer_for_the_rest_and_say_why(
    nvlink_request: Build,
) -> None:
    choice = LatencyLibrary.default().choose(nvlink_request("opt-13b", "mi300x"))
    assert choice.source == "roofline"
    assert choice.provenance is Provenance.DATASHEET
    assert "no measured relative of mi300x" in choice.reason
    assert choice.expected_error_frac is not None


def test_a_pair_is_never_priced_from_two_sources(nvlink_request: Build) -> None:
    # TP8 of OPT-13B is not published: unavailable, not silently a roofline.
    with pytest.raises(LatencyUnavailableError, match="no published latency"):
        LatencyLibrary.default().choose(nvlink_request("opt-13b", "a100_sxm", tp=8))


def test_with_sources_selects_by_name(nvlink_request: Build) -> None:
    request = nvlink_request("opt-13b", "a100_sxm", tp=8)
    library = LatencyLibrary.default().with_sources("roofline")
    assert library.choose(request).source == "roofline"
    vllm = LatencyLibrary.default().with_sources("published-vllm", "roofline")
    choice = vllm.choose(nvlink_request("opt-13b", "a100_sxm"))
    assert choice.source == "published-vllm"


def test_an_unknown_source_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="nearest is 'roofline'"):
        LatencyLibrary.default().with_sources("rooflin")


def test_without_a_source_every_reason_is_given(nvlink_request: Build) -> None:
    library = LatencyLibrary(sources=(PublishedSource(engine="distserve"),))
    with pytest.raises(LatencyUnavailableError, match="no coefficients of yi-34b"):
        library.choose(nvlink_request("yi-34b", "a100_sxm"))


@pytest.mark.parametrize(
    ("name", "parallelism", "reason"),
    [
        ("opt-13b", Parallelism(tp=3), "TP3 does not divide the 40 heads"),
        ("opt-13b", Parallelism(attention_dp=8), "attention DP8 needs a mixture"),
        ("opt-13b", Parallelism(cp=2), "the publication has TP and PP only"),
    ],
)
def test_impossible_or_uncosted_parallelism_is_unavailable(
    name: str, parallelism: Parallelism, reason: str
) -> None:
    link = GroupLink(bytes_per_s=300e9, latency_ms=0.0)
    request = LatencyRequest(
        llm=LlmSpec.load(name),
        parallelism=parallelism,
        gpu=GpuType.load("a100_sxm"),
        links=GroupLinks(tp=(link,), pp=()),
    )
    with pytest.raises(LatencyUnavailableError, match=reason):
        LatencyLibrary.default().choose(request)


def test_the_same_request_is_compiled_once(nvlink_request: Build) -> None:
    library = LatencyLibrary.default()
    first = library.choose(nvlink_request("yi-34b", "h100_sxm", tp=2))
    assert library.choose(nvlink_request("yi-34b", "h100_sxm", tp=2)) is first


def test_links_must_match_the_stages() -> None:
    link = GroupLink(bytes_per_s=300e9, latency_ms=0.0)
    with pytest.raises(InputError, match=r"links\.tp"):
        LatencyRequest(
            llm=LlmSpec.load("opt-13b"),
            parallelism=Parallelism(pp=2),
            gpu=GpuType.load("a100_sxm"),
            links=GroupLinks(tp=(link,), pp=(link,)),
        )
