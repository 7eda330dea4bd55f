"""Measured steps beside what is shipped for the GPU, by hand."""

from dataclasses import replace

import pytest

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from models.latency.fitted import FittedSource
from models.latency.profile_build import fit_profile
from models.latency.request import LatencyRequest
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.profile_records import (
    Environment,
    Role,
    Spread,
    Status,
    StepPoint,
    StepRecord,
)
from models.profile_table import ProfileTable
from profiler.grid import decode_point, predicted_ms
from profiler.shipped import ShippedComparison, compare_shipped
from profiler.shipped_report import shipped_section

LLM = LlmSpec.load("llama-3.1-8b")
PROMPTS = [StepPoint(new_tokens=(n,)) for n in (128, 512, 1024, 2048, 4096)]
DECODES = [decode_point(b, c) for b in (1, 4, 16, 64) for c in (512, 2048)]
OF_BOTH = {"layers": 0.9, "ends": 0.1}
"""Shares of the shipped step that the layers and the ends get here."""


def shipped_table(tp: int = 1) -> StepTable:
    """What is shipped for the model on an H200, without host time."""
    gpu = GpuType.load("h200_sxm")
    ring = GroupLink(bytes_per_s=gpu.nvlink_bytes_per_s, latency_ms=0.002)
    request = LatencyRequest(
        llm=LLM,
        parallelism=Parallelism(tp=tp),
        gpu=gpu,
        links=GroupLinks(tp=(ring,)),
    )
    (table,) = FittedSource(step_overhead_ms=0.0).compile(request)
    return table


def records(factor: float, *, gpu: str = "h200_sxm") -> ProfileTable:
    """Points that take `factor` times what is shipped, one part of it in the ends."""
    table = shipped_table()
    where = Environment(device="synthetic", device_name="paper", gpu=gpu)
    found = []
    for point in (*PROMPTS, *DECODES):
        for part, num in (("dense", LLM.num_layers), ("ends", 1)):
            share = OF_BOTH["layers" if part == "dense" else "ends"]
            ms = factor * share * predicted_ms(table, point) / num
            found.append(
                StepRecord(
                    environment=where,
                    llm=LLM,
                    tp=1,
                    part=part,
                    dtype="bf16",
                    point=point,
                    role=Role.FIT,
                    status=Status.OK,
                    step=Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0, num_samples=9),
                )
            )
    return ProfileTable(records=tuple(found))


def compared(factor: float, **more: str) -> ShippedComparison:
    table = records(factor, **more)
    return compare_shipped(table, fit_profile(table))


def test_device_as_shipped_has_no_difference() -> None:
    found = compared(1.0)
    assert not found.left_out
    assert [step.point for step in found.steps[: len(PROMPTS)]] == PROMPTS
    assert len(found.steps) == len(PROMPTS) + len(DECODES)
    for each in found.differences():
        # What is left is the fit of the ends, a tenth of the step.
        assert each.shipped_frac == pytest.approx(0.0, abs=0.02)
        assert each.within_frac == 1.0


def test_slower_device_is_told_by_how_much() -> None:
    # 25 % slower than shipped: shipped over measured is 1 / 1.25.
    for each in compared(1.25).differences():
        assert each.shipped_frac == pytest.approx(-0.2, abs=0.02)
        assert each.within_frac == 0.0


def test_layers_count_as_they_were_measured_not_as_they_were_fitted() -> None:
    table = records(1.0)
    slow = table.records[2]  # the layer at 512 tokens
    assert isinstance(slow, StepRecord)
    assert slow.step is not None
    assert slow.point == PROMPTS[1]
    profile = fit_profile(table)
    late = replace(slow.step, ms=2 * slow.step.ms, p90_ms=2 * slow.step.ms)
    rest = table.records[:2] + table.records[3:]
    moved = ProfileTable(records=(*rest, replace(slow, step=late)))
    (before,) = (
        s for s in compare_shipped(table, profile).steps if s.point == PROMPTS[1]
    )
    (after,) = (
        s for s in compare_shipped(moved, profile).steps if s.point == PROMPTS[1]
    )
    assert after.profile_ms == before.profile_ms
    extra = LLM.num_layers * slow.step.ms
    assert after.measured_ms - before.measured_ms == pytest.approx(extra)


def test_steps_are_told_apart_by_phase_and_size() -> None:
    kinds = {each.kind: each.num_points for each in compared(1.0).differences()}
    assert kinds == {
        "prefill, under 512 tokens": 1,
        "prefill, 512 or more tokens": 4,
        "decode, under 16 requests": 4,
        "decode, 16 or more requests": 4,
    }


def test_device_of_no_catalogue_is_not_compared() -> None:
    found = compared(1.0, gpu="paper")
    assert not found.steps
    assert found.left_out == ("paper is not in the catalogue of GPUs",)
    assert "not compared: paper is not in the catalogue" in shipped_section(found)


def test_model_without_its_ends_is_named() -> None:
    table = records(1.0)
    layers = [
        r for r in table.records if isinstance(r, StepRecord) and r.part != "ends"
    ]
    only = ProfileTable(records=tuple(layers))
    found = compare_shipped(only, fit_profile(only))
    assert not found.steps
    assert "llama-3.1-8b TP1 bf16" in found.left_out[0]
    assert "'ends' was not measured" in found.left_out[0]


def test_section_marks_what_has_to_be_explained() -> None:
    text = shipped_section(compared(1.25))
    assert "| **-2" in text  # about -20 %, in bold
    assert "| prefill 1x4096 |" in text
    fine = shipped_section(compared(1.0))
    assert "**" not in fine
