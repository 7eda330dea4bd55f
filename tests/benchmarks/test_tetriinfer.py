"""The benchmark of TetriInfer's parts: which way each of them moves latency."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        import tetriinfer
    finally:
        sys.path.pop(0)
    return tetriinfer


def test_dispatch_with_a_forecast_beats_turns_and_chance(script) -> None:
    """At the published accuracy; by the ratio of heavy to light it does not."""
    found = script.dispatch()
    by_mix = found["tetriinfer fewest_heavy 0.749"]
    for name in ("round_robin", "random"):
        for figure in ("tpot_p90", "tpot_p99", "e2e_mean"):
            assert by_mix[figure] < found[name][figure]
    assert found["tetriinfer lowest_ratio 0.749"]["tpot_p90"] > by_mix["tpot_p90"]


def test_shortest_prompts_first_lower_the_mean_ttft(script) -> None:
    found = script.order()
    means = [found[name]["ttft_mean"] for name in ("sjf", "fcfs", "ljf")]
    assert means == sorted(means)


def test_reservations_preempt_less_than_greed(script) -> None:
    found = script.admission()
    assert found["reserve_static"]["preemptions"] < found["greedy"]["preemptions"]


def test_apart_prompts_do_not_wait_for_places_to_decode(script) -> None:
    """TetriInfer: -97 % of TTFT, -47 % of E2E, 38 % fewer resources."""
    requests = script.requests_of("light", "heavy", 0)
    few, many = (script.changes(n, n, requests) for n in (16, 256))
    assert few[0] < -0.9 < many[0]
    assert few[1] < 0.0
    assert many[1] < 0.0


def test_larger_decode_batches_take_less_gpu_time(script) -> None:
    """The paper saves 38 %: more than with twice the places, less than with all."""
    requests = script.requests_of("light", "heavy", 0)
    spent = [script.changes(16, places, requests)[2] for places in (16, 32, 48, 256)]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > -0.05
    assert spent[-1] < -0.38
