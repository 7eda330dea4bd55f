"""Contention: a share of the SMs, and steps that share a GPU."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from clusters.gpu import Dtype, GpuType
from models.flops import decode_work, prefill_work, stage_shapes
from models.latency.contention import (
    Job,
    SmSharing,
    StepDemand,
    native_dtype,
    together_ms,
)
from models.latency.efficiency import RooflineEfficiency
from models.llm import LlmSpec
from models.parallelism import Parallelism

COSTS = Path(__file__).parents[4] / "shared/reference/muxserve/cost.csv"
A100 = GpuType.load("a100_sxm")
PUBLISHED = SmSharing.published()


def step(whole, memory=0.0, arithmetic=0.0, exchange=0.0, **least) -> StepDemand:
    """Times in ms; what all engines reach together is what this one does."""
    return StepDemand(
        whole_ms=whole,
        memory_ms=memory,
        arithmetic_ms=arithmetic,
        exchange_ms=exchange,
        least_memory_ms=least.get("least_memory", memory),
        least_arithmetic_ms=least.get("least_arithmetic", arithmetic),
    )


def job(share: float, demand: StepDemand) -> Job:
    return Job(sm_share_frac=share, step=demand)


@given(a=st.floats(0.01, 1.0), b=st.floats(0.01, 1.0))
def test_more_sms_are_faster_and_memory_saturates_before_arithmetic(a, b) -> None:
    low, high = sorted((a, b))
    for part in (PUBLISHED.memory_part, PUBLISHED.arithmetic_part):
        assert 0 < part(low) <= part(high) <= 1.0
    assert PUBLISHED.memory_part(low) >= PUBLISHED.arithmetic_part(low) >= low - 1e-9


def test_all_sms_are_the_whole_gpu() -> None:
    assert PUBLISHED.memory_part(1.0) == PUBLISHED.arithmetic_part(1.0) == 1.0
    assert PUBLISHED.alone_ms(step(20.0, 12.0, 5.0, 3.0), 1.0) == pytest.approx(20.0)


def test_host_time_hides_what_the_gpu_loses() -> None:
    # 4 ms of memory at half of its rate or more is 8 at most: the host takes 13.
    sharing = replace(PUBLISHED, memory_scale=0.2)
    assert sharing.alone_ms(step(13.0, memory=4.0), 0.2) == pytest.approx(13.0)


def test_a_share_slows_memory_and_arithmetic_by_their_parts_only() -> None:
    half_memory = PUBLISHED.memory_part(0.5)
    half_arithmetic = PUBLISHED.arithmetic_part(0.5)
    expected = 10.0 / half_memory + 30.0 / half_arithmetic + 5.0
    assert PUBLISHED.alone_ms(step(45.0, 10.0, 30.0, 5.0), 0.5) == pytest.approx(
        expected
    )


def test_what_fits_together_is_not_slowed() -> None:
    # 6 of 20 ms and 8 of 40 ms of the memory: 0.5 of it in all.
    jobs = [job(0.3, step(20.0, memory=6.0)), job(0.7, step(40.0, memory=8.0))]
    alone = [PUBLISHED.alone_ms(each.step, each.sm_share_frac) for each in jobs]
    assert together_ms(jobs, PUBLISHED) == pytest.approx(alone)


def test_two_memory_bound_steps_halve_each_other() -> None:
    demand = step(20.0, memory=20.0)
    # Each would use 20 of 20 ms on all SMs; together 40 ms of memory take 40 ms.
    assert together_ms([job(0.5, demand)] * 2, PUBLISHED) == pytest.approx((40.0, 40.0))


def test_prefill_and_decode_hardly_meet() -> None:
    prefill = step(150.0, memory=5.0, arithmetic=145.0)
    decode = step(20.0, memory=15.0)
    slow_prefill, slow_decode = together_ms(
        [job(0.7, prefill), job(0.3, decode)], PUBLISHED
    )
    assert slow_decode == pytest.approx(PUBLISHED.alone_ms(decode, 0.3))
    assert slow_prefill == pytest.approx(PUBLISHED.alone_ms(prefill, 0.7))


def test_sms_that_are_promised_twice_are_halved() -> None:
    demand = step(100.0, arithmetic=100.0, least_arithmetic=20.0)
    both = together_ms([job(1.0, demand)] * 2, PUBLISHED)
    assert both == pytest.approx((PUBLISHED.alone_ms(demand, 0.5),) * 2)


demands = st.builds(
    lambda whole, memory, arithmetic: step(
        whole, memory * whole, arithmetic * (1 - memory) * whole
    ),
    st.floats(1.0, 100.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
jobs_of = st.lists(st.builds(job, st.floats(0.1, 1.0), demands), min_size=1, max_size=4)


@given(jobs_of)
def test_a_gpu_never_gives_more_than_it_has_and_company_never_helps(jobs) -> None:
    times = together_ms(jobs, PUBLISHED)
    memory = sum(j.step.least_memory_ms / t for j, t in zip(jobs, times, strict=True))
    arithmetic = sum(
        j.step.least_arithmetic_ms / t for j, t in zip(jobs, times, strict=True)
    )
    assert max(memory, arithmetic) <= 1.0 + 1e-6
    for each, time in zip(jobs, times, strict=True):
        assert time >= PUBLISHED.alone_ms(each.step, each.sm_share_frac) - 1e-9


def test_parts_follow_from_shapes_and_never_exceed_the_step() -> None:
    (stage,) = stage_shapes(LlmSpec.load("llama-7b"), Parallelism())
    work = decode_work(stage, 1, 128.0)
    demand = PUBLISHED.demand(work, 11.26, gpu=A100, dtype=Dtype.BF16)
    # 13 GB of weights at 54 % of 2.04 TB/s would take longer than the measured step.
    assert demand.memory_ms + demand.arithmetic_ms == pytest.approx(11.26)
    peak_ms = work.memory_bytes / A100.memory_bytes_per_s * 1000
    assert demand.least_memory_ms == pytest.approx(
        peak_ms / RooflineEfficiency().memory_frac
    )


def test_a_format_that_the_gpu_lacks_is_unpacked() -> None:
    assert native_dtype(A100, Dtype.FP8) is Dtype.BF16
    assert native_dtype(A100, Dtype.INT8) is Dtype.INT8


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(InputError, match="sm_share_frac"):
        PUBLISHED.memory_part(share)


@pytest.mark.skipif(not COSTS.exists(), reason="no reference data")
@pytest.mark.parametrize(
    ("llm", "tp", "share", "batch", "tokens", "column"),
    [
        ("llama-7b", 1, 50, 8, 128, "decode_ms"),
        ("llama-13b", 1, 40, 8, 128, "decode_ms"),
        ("llama-65b", 4, 40, 32, 128, "decode_ms"),
        ("llama-7b", 2, 30, 8, 128, "decode_ms"),
        ("llama-13b", 1, 50, 16, 512, "prefill_ms"),
        ("llama-30b", 2, 40, 4, 512, "prefill_ms"),
    ],
)
def test_measured_slowdowns_are_met(llm, tp, share, batch, tokens, column) -> None:
    """MuxServe's cost table: single rows within 12 % (its noise is 10 %)."""
    point = {"model": llm, "ngpu": tp, "batch": batch, "seq_len": tokens}
    with COSTS.open(encoding="utf-8", newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if all(row[key] == str(value) for key, value in point.items())
        ]
    ms = {int(row["mps"]): float(row[column]) for row in rows}
    (stage,) = stage_shapes(LlmSpec.load(llm), Parallelism(tp=tp))
    if column == "decode_ms":
        work = decode_work(stage, batch, batch * tokens)
    else:
        work = prefill_work(stage, [tokens] * batch)
    demand = PUBLISHED.demand(work, ms[100], gpu=A100, dtype=Dtype.BF16)
    assert PUBLISHED.alone_ms(demand, share / 100) == pytest.approx(ms[share], rel=0.12)
