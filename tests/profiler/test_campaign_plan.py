"""The campaign measures what the records in the repository are to hold."""

from pathlib import Path

from profiler.campaign_plan import plan_campaign
from profiler.environment import Device
from profiler.serving import ServingPolicy
from profiler.subject import Subject

CPU = Device(kind="cpu")


def shards(subjects: tuple[Subject, ...]) -> set[tuple[str, int]]:
    return {(subject.llm.name, subject.tp) for subject in subjects}


def test_full_suite_measures_the_models_and_shards_that_plans_need() -> None:
    plan = plan_campaign(CPU, dtype="bf16")
    wanted = {
        ("llama-3.1-8b", 1),
        *(("llama-3.1-70b", tp) for tp in (1, 2, 4, 8)),
        *(("qwen3-32b", tp) for tp in (1, 2, 4)),
        *(("opt-13b", tp) for tp in (1, 2, 4)),
        ("opt-66b", 4),
        ("qwen3-30b-a3b", 1),
        ("deepseek-v3", 8),
    }
    assert wanted <= shards((*plan.main, *plan.rest))
    assert shards(plan.main) == {("llama-3.1-8b", 1)}
    assert plan.total_s < 9 * 60


def test_lengths_of_the_azure_trace_are_served_under_both_policies() -> None:
    validation = plan_campaign(CPU, dtype="bf16").validation
    assert Path(validation.lengths).name == "azure_conversation_head.csv"
    assert Path(validation.lengths).exists()
    assert validation.loads == (0.5, 0.85, 0.95)
    assert set(validation.policies) == {
        ServingPolicy.PREFILL_FIRST,
        ServingPolicy.CHUNKED,
    }
