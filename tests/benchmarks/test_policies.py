"""Published figures of batching policies, and the shape of the benchmark's output."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The benchmark, with the modules beside it."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        return importlib.import_module("policies")
    finally:
        sys.path.pop(0)


def by_name(checks) -> dict:
    return {check.name: check for check in checks}


def test_the_best_ratio_of_prompt_to_answer_is_that_of_sarathi(benchmark) -> None:
    # SARATHI: C/(B-1) is 15.1 and 30.1 at B = 18; measured peaks 14 and 28.
    found = [c.ours for c in benchmark.best_ratios() if c.name.startswith("best P:D")]
    assert found == [pytest.approx(14, abs=2), pytest.approx(28, abs=3)]


def test_a_decode_that_rides_along_costs_a_seventh(benchmark) -> None:
    # SARATHI: 12.49 ms alone, 1.2 ms beside a prompt. Ours is 1.8: said in the docs.
    alone, rides, attention, least, largest = benchmark.piggybacked()
    assert alone.holds
    assert attention.holds
    assert rides.ours < alone.ours / 6
    assert least.ours > 2.0
    assert largest.holds


def test_equal_steps_leave_few_bubbles_in_a_pipeline(benchmark) -> None:
    # SARATHI: bubbles 6.29 times less, 1.91 times Orca's throughput.
    ratio, orca, chunks, rate, *_ = benchmark.bubbles(400)
    assert orca.ours > 0.5 > 0.2 > chunks.ours
    assert ratio.ours > 6.29
    assert rate.ours == pytest.approx(1.91, rel=0.35)


def test_bubbles_hang_on_attention_and_on_equal_stages(benchmark, monkeypatch) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        bubbles = importlib.import_module("policies_bubbles")
    finally:
        sys.path.pop(0)
    monkeypatch.setattr(bubbles, "NUM_REQUESTS", 400)
    plain, slow, unequal = (
        bubbles.ratios(bubbles.CASES[name])
        for name in (
            "as simulated",
            "attention of decodes x 4",
            "one stage 10 % slower",
        )
    )
    assert slow["over_orca"] < plain["over_orca"]
    assert slow["idle_orca"] < plain["idle_orca"]
    assert unequal["idle_chunks"] > plain["idle_chunks"]
    assert min(row["bubbles"] for row in (plain, slow, unequal)) > 6.29


def test_step_times_are_those_that_the_docs_explain_misses_by(benchmark) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        steps = importlib.import_module("policies_steps")
    finally:
        sys.path.pop(0)
    for row in steps.yi_34b().values():  # a little slower than released, as a whole
        assert 0.0 < row["more_frac"] < 0.1
        assert 0.15 < row["chunks_more_frac"] < 0.26
    (falcon,) = steps.falcon_180b().values()
    assert falcon["prompt_of_a_stage"] == pytest.approx(1385, rel=0.01)
    # With 58 ms more in each of two stages: the printed 200 ms.
    assert falcon["decode_token"] + 2 * 58 == pytest.approx(200, rel=0.01)
    (llama,) = steps.llama_13b().values()
    assert llama["257_tokens"] < 1.01 * llama["256_tokens"]


def test_chunks_cost_less_the_larger_they_are(benchmark) -> None:
    # Sarathi-Serve, Yi-34B: about 25 % with chunks of 512, hardly any with 2,048.
    small, large = benchmark.chunk_overheads()[:2]
    assert small.holds
    assert large.holds
    assert 0.0 <= large.ours < small.ours


def test_iteration_level_serves_more_than_request_level(benchmark) -> None:
    assert all(check.ours > 2 for check in benchmark.orca_gap())


def test_chunked_prefill_serves_more_under_a_strict_limit_on_gaps(benchmark) -> None:
    # Sarathi-Serve: 2.6 times vLLM on Mistral-7B, one A100.
    found = by_name(benchmark.capacities([0]))
    best = found["mistral-7b: largest capacity over prefill first, times"]
    assert best.ours == pytest.approx(2.6, rel=0.25)
    assert all(check.ours > 1 for check in found.values())


def test_whole_prompts_stall_decodes(benchmark) -> None:
    # Sarathi-Serve: up to 28.3 times a decode step.
    ratios = [check.ours for check in benchmark.stalls()]
    assert ratios == sorted(ratios)
    assert ratios[-1] > 28.3 > ratios[0]


def test_the_order_of_policies_on_one_workload(benchmark) -> None:
    ((label, case),) = benchmark.SWEEPS["policies"]
    names = ("prefill_first", "chunked", "orca", "request_level")
    rates = {r.policy: r.rate_rps for r in benchmark.rows_of(label, case, names)}
    assert rates["chunked"] > rates["prefill_first"] > rates["request_level"]
    assert rates["orca"] > rates["request_level"]


def test_the_report_counts_what_holds(benchmark) -> None:
    checks = benchmark.piggybacked()
    summary = benchmark.report_of(checks, {})["summary"]
    assert summary["asked"] == len(checks)
    assert summary["held"] + len(summary["misses"]) == summary["asked"]
    assert benchmark.markdown_of(checks, {}).count("\n") == 2 + len(checks)
