"""Stages with ranks: by hand, against a stage without them, and their laws."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.communication import (
    CommunicationEfficiency,
    ExpertRouting,
)
from models.flops import stage_shapes
from models.latency.attention_costs import never_cheaper
from models.latency.closed_form import StageRoofline
from models.latency.efficiency import RooflineEfficiency
from models.latency.fabrics import fabrics_of
from models.latency.fit_file import load_fit
from models.latency.fitted import FittedSource
from models.latency.operators.collective import Collective
from models.latency.rank_operators import FittedRank, RooflineRank
from models.latency.ranked import RankedStage
from models.latency.request import (
    LatencyRequest,
    LatencySource,
    LatencyUnavailableError,
    StageLinks,
)
from models.latency.roofline import RooflineSource
from models.latency.stage_model import StageModel
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.shapes import AttentionShape, Gemm, StageShapes
from tests.models.latency.rank_tables import (
    FREE,
    H200,
    IDEAL,
    SOURCES,
    compiled,
    nvlink,
)

FloatArray = NDArray[np.float64]
MOE = ("deepseek-v3", "qwen3-235b-a22b", "gpt-oss-120b", "mixtral-8x7b")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRank:
    """A rank whose every part is a line: 1 ms a token, 2 a row of the head, ..."""

    stage: StageShapes
    communication: CommunicationEfficiency = IDEAL
    memory_bytes_per_s: float = 1e30
    host_ms: float = 0.0
    per_sq_token_ms: float = 0.01

    def own_ms(self, tokens: FloatArray, *, decode: bool) -> FloatArray:
        return (1.1 if decode else 1.0) * tokens

    def routed_ms(self, tokens: FloatArray) -> FloatArray:
        return 0.1 * tokens

    def exchange_ms(
        self,
        num_bytes: FloatArray,
        link: GroupLink,
        routing: ExpertRouting,
        *,
        decode: bool,
    ) -> FloatArray:
        """1 ms a token in all layers, whatever the link."""
        assert routing.num_gpus == self.stage.num_gpus
        return num_bytes / self.stage.residual_bytes(1.0) / self.stage.exchanges

    def reduce_ms(
        self, num_bytes: FloatArray, link: GroupLink, *, num_gpus: int
    ) -> FloatArray:
        """0.7 ms a row of attention outputs in all layers."""
        assert num_gpus == self.stage.ranks.cp
        return 0.7 * num_bytes / (2 * 4096) / self.stage.num_layers

    def head_ms(self, rows: FloatArray) -> FloatArray:
        return 2.0 * rows

    def end_ms(self, tokens: FloatArray) -> FloatArray:
        return np.full_like(tokens, 0.5)

    def product_ms(self, gemm: Gemm, tokens: FloatArray) -> FloatArray:
        raise AssertionError(gemm)

    def prefill_rest(self, tokens: FloatArray) -> FloatArray:
        return 0.2 * tokens

    def prompt_ms(self, attention: AttentionShape, tokens: FloatArray) -> FloatArray:
        return 0.01 / self.stage.num_layers * tokens**2

    def least_block_ms(self, attention: AttentionShape) -> float:
        return 0.0

    def decode_attention(self, requests: FloatArray) -> tuple[FloatArray, FloatArray]:
        return 0.3 * requests, np.full_like(requests, 0.001)


def ranked(
    llm: LlmSpec, parallelism: Parallelism, prompt_tokens: float | None = None
) -> StepTable:
    """The table of `LinearRank` over links that cost nothing."""
    (stage,) = stage_shapes(llm, parallelism)
    return RankedStage(
        operators=LinearRank(stage=stage),
        links=StageLinks(tensor=FREE, stage=FREE, hop=None),
        prompt_tokens=prompt_tokens,
    ).compile()


def test_a_prefill_by_hand() -> None:
    # DP4, prompts of 100 tokens. A lone prompt: its rank does 100 ms of matrices,
    # 20 ms and 0.01 x 100^2 = 100 ms of attention; experts 10 ms and the way to them
    # 100, head 2, end 0.5.
    table = ranked(LlmSpec.load("mixtral-8x7b"), Parallelism(attention_dp=4), 100.0)
    assert table.prefill_step_ms([100]) == pytest.approx(332.5)
    # Four prompts, one each: the same but for three times 110 ms for the experts.
    assert table.prefill_step_ms([100] * 4) == pytest.approx(662.5)
    # A fifth has to wait behind another: 120 + 100 ms more, and 110 for the experts.
    assert table.prefill_step_ms([100] * 5) == pytest.approx(992.5)
    assert table.prefill_step_ms([100] * 8) == pytest.approx(1322.5)


def test_a_prefill_of_even_ranks_by_hand() -> None:
    # Not knowing the prompts, 400 tokens are 100 a rank, and squares a quarter each.
    table = ranked(LlmSpec.load("mixtral-8x7b"), Parallelism(attention_dp=4))
    squares = 0.01 * 4 * 100**2 / 4
    assert table.prefill_step_ms([100] * 4) == pytest.approx(
        100 + 20 + squares + 40 + 400 + 2 + 0.5, rel=1e-4
    )


def test_a_decode_by_hand() -> None:
    # DP4: 5 requests of 1000 tokens put 2 on one rank: 2 x (1.1 + 2 + 0.3) ms, experts
    # 5 x (0.1 + 1) ms, end 0.5 ms, and 2 x 1000 x 0.001 ms for the cache.
    table = ranked(LlmSpec.load("mixtral-8x7b"), Parallelism(attention_dp=4))
    assert table.decode_step_ms(5, 5000) == pytest.approx(6.8 + 5.5 + 0.5 + 2.0)
    assert table.decode_step_ms(4, 4000) == pytest.approx(3.4 + 4.4 + 0.5 + 1.0)
    assert table.decode_step_ms(1, 1000) == pytest.approx(3.4 + 1.1 + 0.5 + 1.0)


def test_a_context_parallel_step_by_hand() -> None:
    # CP4 over free links: a quarter of matrices, rest and squares of 800 tokens; decode
    # repeats the matrices, attends to a quarter and adds up 5 rows.
    table = ranked(LlmSpec.load("llama-3.1-8b"), Parallelism(cp=4))
    alone = 200 + 160 / 4 + 0.01 * 800**2 / 4 + 80 + 2 + 0.5
    assert table.prefill_step_ms([800]) == pytest.approx(alone)
    decode = 5 * (1.1 + 2 + 0.3 + 0.7) + 0.5 + 0.5 + 5000 * 0.001 / 4
    assert table.decode_step_ms(5, 5000) == pytest.approx(decode)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "gpt-oss-20b"])
def test_a_single_rank_is_a_stage_without_ranks(name: str) -> None:
    (stage,) = stage_shapes(LlmSpec.load(name), Parallelism(tp=2))
    link = nvlink(H200)
    closed = StageRoofline(
        stage=stage, gpu=H200, ring=link, hop=None, efficiency=RooflineEfficiency()
    )
    fitted = StageModel(
        stage=stage,
        gpu=H200,
        fit=load_fit("h200_sxm", "vllm"),
        ring=link,
        reducer=None,
        hop=None,
        step_overhead_ms=0.3,
    )
    plain = RooflineSource().compile(
        LatencyRequest(
            llm=LlmSpec.load(name),
            parallelism=Parallelism(tp=2),
            gpu=H200,
            links=GroupLinks(tp=(link,)),
        )
    )[0]
    links = StageLinks(tensor=link, stage=link, hop=None)
    for whole, operators in (
        (plain, RooflineRank(form=closed)),
        (fitted.compile(), FittedRank.of(fitted, {}, {})),
    ):
        table = RankedStage(operators=operators, links=links, prompt_tokens=None)
        one = table.compile()
        for tokens in (1, 77, 1024, 5000, 100_000):
            ours = one.prefill_step_ms([tokens])
            assert ours == pytest.approx(whole.prefill_step_ms([tokens]), rel=0.015)
        for batch in (1, 7, 64, 1000):
            ours = one.decode_step_ms(batch, batch * 3000)
            expected = whole.decode_step_ms(batch, batch * 3000)
            assert ours == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize("name", MOE)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_attention_ranks_take_over_from_tensor_ranks_in_large_batches(
    source: LatencySource, name: str
) -> None:
    # Eight GPUs read every cached token once instead of sharing each (GQA) or reading
    # all eight times (MLA), and need no all-reduce; small batches read all attention
    # weights on each GPU.
    tensor = compiled(source, name, Parallelism(tp=8, ep=8))
    ranks = compiled(source, name, Parallelism(attention_dp=8, ep=8))
    assert ranks.decode_step_ms(1, 1000) > tensor.decode_step_ms(1, 1000)
    ratio = [
        ranks.decode_step_ms(n, n * 1000) / tensor.decode_step_ms(n, n * 1000)
        for n in (8, 1024)
    ]
    assert ratio[1] < ratio[0]
    if name == "deepseek-v3":  # its latent cache repeats on every tensor rank
        assert ratio[1] < 0.85


@settings(max_examples=40, deadline=None)
@given(
    source=st.sampled_from(SOURCES),
    name=st.sampled_from((*MOE, "llama-3.1-8b", "gemma-3-27b")),
    gpu=st.sampled_from(["h200_sxm", "b200_sxm", "l40s"]),
    tp=st.sampled_from([1, 2]),
    attention_dp=st.sampled_from([1, 2, 8, 32]),
    cp=st.sampled_from([1, 2, 8]),
    prompt_tokens=st.sampled_from([None, 300.0, 5000.0]),
)
def test_steps_are_finite_and_rise_with_work(
    source: LatencySource,
    name: str,
    gpu: str,
    tp: int,
    attention_dp: int,
    cp: int,
    prompt_tokens: float | None,
) -> None:
    parallelism = Parallelism(tp=tp, attention_dp=attention_dp, cp=cp)
    if parallelism.why_not(LlmSpec.load(name)):
        return
    table = compiled(
        source, name, parallelism, GpuType.load(gpu), prompt_tokens=prompt_tokens
    )
    tokens = np.unique(np.geomspace(1, 2e6, 300).round())
    prefill = np.asarray([table.prefill_step_ms([int(n)]) for n in tokens])
    assert np.isfinite(prefill).all()
    assert (prefill > 0).all()
    assert (np.diff(prefill) >= -1e-9 * prefill[1:]).all()
    fixed, slope = table.decode_arrays(2000)
    for context in (1.0, 3000.0, 1e6):
        decode = (fixed + slope * np.arange(2001) * context)[1:]
        assert (np.diff(decode) >= -1e-9 * decode[1:]).all()


def test_the_tensor_group_talks_over_its_own_links() -> None:
    # Two hosts: TP8 inside, two ranks over the network. The ring over all 16 GPUs is
    # slow, that of the groups is not.
    network = GroupLink(bytes_per_s=50e9, latency_ms=0.01, kind=LinkKind.NETWORK)
    llm, source = LlmSpec.load("deepseek-v3"), FittedSource()
    times = []
    for inner in ((), (nvlink(H200),)):
        request = LatencyRequest(
            llm=llm,
            parallelism=Parallelism(tp=8, attention_dp=2, ep=16),
            gpu=H200,
            links=GroupLinks(tp=(network,), inner=inner),
        )
        times.append(source.compile(request)[0].prefill_step_ms([8192]))
    assert times[1] < 0.8 * times[0]


def test_sources_without_ranks_refuse_them() -> None:
    request = LatencyRequest(
        llm=LlmSpec.load("llama-3.1-8b"),
        parallelism=Parallelism(cp=2),
        gpu=H200,
        links=GroupLinks(tp=(nvlink(H200),)),
    )
    with pytest.raises(LatencyUnavailableError, match="the profile has TP and PP only"):
        request.refuse_ranks("the profile")


def test_remarks_say_what_comes_from_the_link_rate() -> None:
    request = LatencyRequest(
        llm=LlmSpec.load("qwen3-30b-a3b"),
        parallelism=Parallelism(attention_dp=2, cp=2),
        gpu=H200,
        links=GroupLinks(tp=(nvlink(H200),)),
    )
    (note,) = FittedSource().remarks(request).notes
    assert note == "ring of keys and values from the link rate"
    network = replace(nvlink(H200), kind=LinkKind.NETWORK)
    apart = replace(request, links=GroupLinks(tp=(network,)))
    notes = FittedSource().remarks(apart).notes
    assert "exchange of tokens with the experts from the link rate" in notes


def test_rows_take_the_cheapest_way_that_was_measured() -> None:
    # Few tokens to eight GPUs: gathering them all beats the kernels for throughput,
    # which take 0.1 ms and more to start. Many to 32: sending them to a quarter does.
    (stage,) = stage_shapes(LlmSpec.load("deepseek-v3"), Parallelism(attention_dp=8))
    link = nvlink(H200)
    model = StageModel(
        stage=stage,
        gpu=H200,
        fit=load_fit("h200_sxm", "trtllm"),
        ring=link,
        reducer=None,
        hop=None,
        step_overhead_ms=0.0,
    )
    fabrics = fabrics_of(link, "trtllm", "h200_sxm")
    rank = FittedRank.of(model, fabrics, {})
    for rows, num_gpus, ways in (
        (64, 8, (Collective.ALL_GATHER, Collective.REDUCE_SCATTER)),
        (65536, 32, (Collective.EXPERT_DISPATCH, Collective.EXPERT_COMBINE)),
    ):
        routing = ExpertRouting(
            num_gpus=num_gpus, expert_gpus=num_gpus, experts_per_token=8
        )
        num_bytes = np.asarray([7168 * 2.0 * rows])
        ours = rank.exchange_ms(num_bytes, link, routing, decode=False)
        only = FittedRank.of(model, {way: fabrics[way] for way in ways}, {})
        assert ours == only.exchange_ms(num_bytes, link, routing, decode=False)
        both = fabrics[ways[0]].ms(
            num_bytes, num_gpus=num_gpus, bytes_per_s=link.bytes_per_s
        )
        assert 0 < ours < 3 * both


@given(
    heights=st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12),
    apart=st.sampled_from([0.0, 1.0]),
)
def test_another_request_never_makes_a_step_cheaper(
    heights: list[float], apart: float
) -> None:
    # Neighbouring sizes, and gaps after each: 1, 2, 3, 8, 9, 20, ...
    sizes = np.asarray([1.0, 2, 3, 8, 9, 20, 40, 41, 42, 100, 500, 501])
    slope = never_cheaper(sizes, np.asarray(heights), apart=apart)
    assert (slope >= heights).all()
    batch = np.arange(1.0, 502.0)
    whole = batch * np.interp(batch, sizes, slope)
    assert (np.diff(whole) >= -1e-9 * whole[1:]).all()
