"""The simulator against queueing theory: means by formula, every wait by Lindley."""

import numpy as np
import pytest

from planner.queueing import (
    inter_op_ttft_ms,
    intra_op_ttft_ms,
    md1_time_ms,
    mm1_time_ms,
)
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from planner.workload.requests import Requests
from tests.planner.simulator.systems import tiny_replica, tiny_system, tiny_table

NUM = 200_000
MEAN_TOKENS = 1_000_000
SERVICE_MS = 8.0


def poisson_requests(load: float, tokens: np.ndarray, seed: int) -> Requests:
    """Poisson arrivals that keep one server of `SERVICE_MS` busy for `load`."""
    gaps = np.random.default_rng(seed).exponential(SERVICE_MS / load, len(tokens))
    return Requests(
        arrival_ms=np.cumsum(gaps),
        input_tokens=tokens,
        output_tokens=np.ones(len(tokens), dtype=np.int64),
    )


def one_by_one(*stage_ms: float):
    """A prefill replica without batching; a mean prompt takes `stage_ms` a stage."""
    stages = [tiny_table(per_prompt_token_ms=ms / MEAN_TOKENS) for ms in stage_ms]
    return tiny_system(tiny_replica(Phase.PREFILL, *stages, max_num_seqs=1))


def fixed_tokens() -> np.ndarray:
    return np.full(NUM, MEAN_TOKENS, dtype=np.int64)


def exponential_tokens(seed: int) -> np.ndarray:
    """Exponential lengths, so fine that rounding to a token does not matter."""
    tokens = np.random.default_rng(seed).exponential(MEAN_TOKENS, NUM)
    return np.maximum(1, tokens).astype(np.int64)


def assert_mean_is(values_ms: np.ndarray, expected_ms: float) -> None:
    """Within three standard errors, from the means of 50 batches; these below 2 %."""
    means = values_ms[: len(values_ms) // 50 * 50].reshape(50, -1).mean(axis=1)
    error_ms = means.std(ddof=1) / np.sqrt(50)
    assert error_ms < 0.02 * expected_ms
    assert means.mean() == pytest.approx(expected_ms, abs=3.0 * error_ms)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_exponential_service_is_an_mm1_queue(load):
    requests = poisson_requests(load, exponential_tokens(seed=1), seed=2)
    result = simulate(one_by_one(SERVICE_MS), requests)
    assert_mean_is(result.ttft_ms, mm1_time_ms(load / SERVICE_MS, SERVICE_MS))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_constant_service_is_an_md1_queue(load):
    result = simulate(one_by_one(SERVICE_MS), poisson_requests(load, fixed_tokens(), 3))
    rate = load / SERVICE_MS
    # R D^2 / (2 (1 - R D)), and D itself.
    wait_ms = rate * SERVICE_MS**2 / (2.0 * (1.0 - rate * SERVICE_MS))
    assert md1_time_ms(rate, SERVICE_MS) == pytest.approx(SERVICE_MS + wait_ms)
    assert_mean_is(result.queue_ms, wait_ms)
    assert_mean_is(result.ttft_ms, SERVICE_MS + wait_ms)


@pytest.mark.parametrize("load", [0.6, 1.4])
def test_two_stages_of_half_the_time_follow_the_inter_op_formula(load):
    """D + R D^2 / (4 (2 - R D)): stable up to twice the load of one GPU."""
    system = one_by_one(SERVICE_MS / 2.0, SERVICE_MS / 2.0)
    result = simulate(system, poisson_requests(load, fixed_tokens(), 4))
    assert_mean_is(result.ttft_ms, inter_op_ttft_ms(load / SERVICE_MS, SERVICE_MS))


@pytest.mark.parametrize("speedup", [1.5, 1.8])
def test_one_faster_stage_follows_the_intra_op_formula(speedup):
    """D/K + R D^2 / (2 K (K - R D))."""
    load = 0.9
    result = simulate(
        one_by_one(SERVICE_MS / speedup), poisson_requests(load, fixed_tokens(), 5)
    )
    expected_ms = intra_op_ttft_ms(load / SERVICE_MS, SERVICE_MS, speedup)
    assert_mean_is(result.ttft_ms, expected_ms)


def test_every_wait_follows_lindleys_recursion():
    """W' = max(0, W + S - gap) for each request of a single first-come queue."""
    requests = poisson_requests(0.9, exponential_tokens(seed=6)[:5000], seed=7)
    result = simulate(one_by_one(SERVICE_MS), requests)
    service_ms = requests.input_tokens * (SERVICE_MS / MEAN_TOKENS)
    gaps_ms = np.diff(requests.arrival_ms)
    waits = [0.0]
    for served_ms, gap_ms in zip(service_ms, gaps_ms, strict=False):
        waits.append(max(0.0, waits[-1] + served_ms - gap_ms))
    np.testing.assert_allclose(result.queue_ms, waits, rtol=1e-9, atol=1e-6)
