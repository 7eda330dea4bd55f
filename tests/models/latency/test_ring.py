"""Ring attention: where it hides, what more ranks bring, a published million tokens."""

from dataclasses import replace

import numpy as np
import pytest

from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.communication import pipeline_hop_ms
from models.flops import stage_shapes
from models.latency.closed_form import StageRoofline
from models.latency.efficiency import RooflineEfficiency
from models.latency.fitted import FittedSource
from models.latency.rank_operators import RooflineRank
from models.latency.request import LatencyRequest, LatencySource
from models.latency.ring import turns_ms
from models.llm import LlmSpec, WeightFormat
from models.parallelism import Parallelism
from tests.models.latency.rank_tables import (
    FREE,
    H200,
    IDEAL,
    SOURCES,
    compiled,
    nvlink,
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b"])
@pytest.mark.parametrize("gpu", ["a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm"])
def test_more_context_ranks_never_slow_a_long_prefill_in_an_nvswitch_node(
    source: LatencySource, name: str, gpu: str
) -> None:
    kind = GpuType.load(gpu)
    tables = [compiled(source, name, Parallelism(cp=n), kind) for n in (1, 2, 4, 8)]
    for tokens in (32_768, 131_072, 1_000_000):
        steps = [table.prefill_step_ms([tokens]) for table in tables]
        assert (np.diff(steps) < 0).all(), (tokens, steps)
    # A million tokens: attention is nearly everything, and is shared evenly.
    assert 7.2 < steps[0] / steps[-1] < 8.05


@pytest.mark.parametrize("rate_bytes_per_s", [450e9, 60e9, 10e9, 1e9])
def test_the_ring_is_hidden_exactly_from_where_blocks_take_as_long_as_transfers(
    rate_bytes_per_s: float,
) -> None:
    # Llama-3.1-8B on 8 H200 by the roofline. A block of T/8 tokens has 4096 bytes of K
    # and V a token and layer, sent at r; it takes 2 x 32 x 256 FLOP a pair of T^2/2/64,
    # at 0.45 of 989 TFLOP/s. Both take as long at T = 8 x 4096 / r / (8192 / 445e12).
    link = GroupLink(bytes_per_s=rate_bytes_per_s, latency_ms=0.0, kind=LinkKind.NVLINK)
    efficiency = RooflineEfficiency(communication=IDEAL)
    (stage,) = stage_shapes(LlmSpec.load("llama-3.1-8b"), Parallelism(cp=8))
    form = StageRoofline(
        stage=stage, gpu=H200, ring=link, hop=None, efficiency=efficiency
    )
    peak = 0.45 * H200.flops_per_s(Dtype.BF16)
    edge = 8 * 4096 / rate_bytes_per_s / (2 * 32 * 256 / 2 / peak)
    (attention,) = {group.attention for group in stage.groups}
    tokens = edge * np.asarray([0.25, 0.5, 0.99, 1.0001, 2.0])
    exposed = turns_ms(RooflineRank(form=form), link, attention, tokens)
    assert (exposed[:3] > 0).all()
    assert (exposed[3:] == 0).all()
    # Half way, seven transfers last twice as long as the blocks they hide behind.
    transfer = pipeline_hop_ms(4096 * edge / 16, link, efficiency=IDEAL)
    assert exposed[1] == pytest.approx(7 * transfer / 2)


def test_a_slow_ring_costs_short_prompts_and_not_long_ones() -> None:
    # The same in a step table: behind 25 GB/s a prompt of 16k tokens waits for its
    # keys and values, one of 500k does not (block / transfer rises with the prompt).
    parallelism, source = Parallelism(cp=8), FittedSource()
    slow = GroupLink(bytes_per_s=25e9, latency_ms=0.002, kind=LinkKind.NVLINK)
    behind = compiled(source, "llama-3.1-8b", parallelism, link=slow)
    free = compiled(source, "llama-3.1-8b", parallelism, link=FREE)
    short, long = (
        behind.prefill_step_ms([n]) / free.prefill_step_ms([n])
        for n in (16_384, 500_000)
    )
    assert short > 1.3
    assert long == pytest.approx(1.0, abs=0.01)


def test_a_million_tokens_of_llama_405b_take_as_long_as_published() -> None:
    # Yang et al., MLSys 2025: 1M tokens in 77 s on 16 hosts of 8 H100 (TP8 in a host,
    # CP16 over 400 Gbit/s a GPU), 63 % of the FLOPs of GPUs whose power is capped: 77 s
    # x 128 x 0.63 of the 4.94e18 FLOP is 795 TFLOP/s. FP8 in the feed-forward only.
    h100 = GpuType.load("h100_sxm")
    capped = replace(
        h100,
        name="h100_hbm2e",
        memory_bytes_per_s=2.4e12,
        flops=tuple(
            replace(rate, flops_per_s=rate.flops_per_s * 795 / 989)
            for rate in h100.flops
        ),
    )
    llm = LlmSpec.load("llama-3.1-405b")
    fp8 = WeightFormat(bytes_per_weight=1.0, compute_dtype=Dtype.FP8)
    llm = replace(llm, name="fp8", precision=replace(llm.precision, mlp=fp8))
    hosts = GroupLink(
        bytes_per_s=8 * 50e9, latency_ms=0.01, kind=LinkKind.NETWORK, sharers=8
    )
    times = []
    for cp in (1, 16):
        request = LatencyRequest(
            llm=llm,
            parallelism=Parallelism(tp=8, cp=cp),
            gpu=capped,
            links=GroupLinks(
                tp=(hosts if cp > 1 else nvlink(h100),), inner=(nvlink(h100),)
            ),
        )
        (table,) = FittedSource().compile(request)
        times.append(table.prefill_step_ms([1_000_000]))
    assert times[1] == pytest.approx(77_000, rel=0.15)
    # Published: 93 % of 16 times the speed of one host.
    assert 0.90 < times[0] / times[1] / 16 <= 1.0
