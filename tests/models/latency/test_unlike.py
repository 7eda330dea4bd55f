"""Pipelines of unlike stages: each stage as in a pipeline of its kind."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from models.communication import CommunicationEfficiency, all_gather_ms
from models.latency.library import LatencyLibrary, LatencyRequest, Provenance
from models.latency.unlike import UnlikeRequest, choose_unlike
from models.llm import LlmSpec
from models.parallelism import Parallelism

LLM = LlmSpec.load("llama-3.1-8b")
A100, L4 = GpuType.load("a100_sxm"), GpuType.load("l4")
FAST = GroupLink(bytes_per_s=3e11, latency_ms=0.002)
SLOW = GroupLink(bytes_per_s=1e10, latency_ms=0.02)
LIBRARY = LatencyLibrary.default().with_sources("fitted-vllm", "roofline")


def tables(parallelism: Parallelism, gpu: GpuType, ring: GroupLink):
    links = GroupLinks(tp=(ring,) * parallelism.pp, pp=(SLOW,) * (parallelism.pp - 1))
    request = LatencyRequest(llm=LLM, parallelism=parallelism, gpu=gpu, links=links)
    return LIBRARY.choose(request)


def unlike(parallelism: Parallelism, gpus, rings):
    links = GroupLinks(tp=rings, pp=(SLOW,) * (parallelism.pp - 1))
    return choose_unlike(
        LIBRARY,
        UnlikeRequest(llm=LLM, parallelism=parallelism, gpus=gpus, links=links),
    )


def test_equal_stages_are_the_uniform_replica_exactly():
    split = Parallelism(tp=2, pp=3, stage_layers=(11, 11, 10))
    spelled = replace(split, stage_tp=(2, 2, 2))
    uniform = tables(Parallelism(tp=2, pp=3), A100, FAST)
    assert unlike(spelled, (A100,) * 3, (FAST,) * 3) == uniform


def test_a_stage_is_one_of_a_pipeline_of_its_kind():
    split = Parallelism(pp=2, stage_layers=(24, 8))
    found = unlike(split, (A100, L4), (FAST, SLOW))
    assert found.stages[0] == tables(split, A100, FAST).stages[0]
    assert found.stages[1] == tables(split, L4, SLOW).stages[1]


def test_a_stage_of_another_width_gathers_what_it_receives():
    """From one GPU to two: each gets a half of every token, and then the other half."""
    split = Parallelism(tp=2, pp=2, stage_tp=(1, 2), stage_layers=(24, 8))
    found = unlike(split, (A100, A100), (FAST, FAST))
    plain = tables(split.of_stage(1), A100, FAST).stages[1]
    token_bytes = 2.0 * LLM.hidden
    expected_ms = all_gather_ms(
        512 * token_bytes, FAST, num_gpus=2, efficiency=CommunicationEfficiency()
    )
    added_ms = found.stages[1].prefill_step_ms([512]) - plain.prefill_step_ms([512])
    assert added_ms == pytest.approx(expected_ms, rel=1e-6)
    assert found.stages[0] == tables(split.of_stage(0), A100, FAST).stages[0]
    # Towards a single GPU there is nothing to gather.
    back = Parallelism(tp=2, pp=2, stage_tp=(2, 1), stage_layers=(24, 8))
    alone = unlike(back, (A100, A100), (FAST, FAST)).stages[1]
    assert alone == tables(back.of_stage(1), A100, FAST).stages[1]


def test_the_weakest_evidence_is_told():
    split = Parallelism(pp=2, stage_layers=(24, 8))
    found = unlike(split, (A100, GpuType.load("mi300x")), (FAST, FAST))
    assert found.provenance is Provenance.DATASHEET
    assert found.source == "fitted-vllm + roofline"
    assert "a100_sxm" in found.reason
    assert "mi300x" in found.reason


def test_a_gpu_type_is_needed_for_every_stage():
    with pytest.raises(InputError, match="2 \\(one a stage\\)"):
        UnlikeRequest(
            llm=LLM,
            parallelism=Parallelism(pp=2),
            gpus=(A100,),
            links=GroupLinks(tp=(FAST, FAST), pp=(SLOW,)),
        )
