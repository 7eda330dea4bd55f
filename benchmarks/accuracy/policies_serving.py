"""What Orca and Sarathi-Serve publish about serving under limits, simulated.

* Orca (Yu et al., OSDI 2022): GPT-3 175B, prompts of 32 to 512 tokens and answers of 1
  to 128, here on eight A100.
* Sarathi-Serve (Agrawal et al., OSDI 2024, arXiv 2403.02310): Mistral-7B, Yi-34B and
  Falcon-180B on A100, lengths by the medians and 90th percentiles of its Table 2.

Nothing is fitted to the figures.
"""

from collections.abc import Sequence

import numpy as np
from policies_sarathi import CHUNKED, ORCA, PREFILL_FIRST, Check, pipeline, served

from clusters.gpu import GpuType
from clusters.units import MS_PER_S
from models.latency.fitted import FittedSource
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.memory import memory_of
from models.parallelism import Parallelism
from planner.goodput import bisect_rate
from planner.simulator.system import Batching, BatchLimits
from planner.workload.requests import Requests

Lengths = tuple[tuple[int, int], tuple[int, int]]

# --- Orca -----------------------------------------------------------------------------


def orca_gap() -> list[Check]:
    """Rate at a median latency a token, iteration-level over request-level."""
    (stage,) = pipeline(FittedSource(), "opt-175b", "a100_sxm", Parallelism(tp=8))
    found = []
    for limit_ms in (60.0, 100.0, 190.0):
        iteration, request = (
            rate_within(stage, policy, limit_ms)
            for policy in (ORCA, Batching.REQUEST_LEVEL)
        )
        is_theirs = limit_ms == 190.0
        found.append(
            Check(
                item="orca",
                name=f"rate at {limit_ms:g} ms a token, over request level, times",
                published=36.9 if is_theirs else None,
                ours=iteration / request,
                low=1.0,
            )
        )
    return found


def rate_within(stage: StepTable, policy: Batching, limit_ms: float) -> float:
    """Highest rate with a median time a token within a limit."""
    rng = np.random.default_rng(0)
    inputs, outputs = rng.integers(32, 513, 1200), rng.integers(1, 129, 1200)
    gaps_ms = rng.exponential(MS_PER_S, 1200).cumsum()
    limits = BatchLimits(policy=policy, max_num_seqs=32)

    def is_met(rate: float) -> bool:
        requests = Requests(
            arrival_ms=gaps_ms / rate, input_tokens=inputs, output_tokens=outputs
        )
        result = served([stage], limits, requests, 10**6)
        return float(np.median(result.e2e_ms / outputs)) <= limit_ms

    return bisect_rate(is_met, 50.0, 0.02)


# --- Sarathi-Serve --------------------------------------------------------------------

DATASETS = {
    "sharegpt4": ((1730, 5696), (415, 834)),
    "arxiv": ((7059, 12985), (208, 371)),
}
"""Median and 90th percentile of prompts and of answers (its Table 2)."""

CASES = (
    ("mistral-7b", Parallelism(tp=1), 100.0, 500.0, 2.6),
    ("yi-34b", Parallelism(tp=2), 200.0, 1000.0, 3.7),
    ("falcon-180b", Parallelism(tp=4, pp=2), 1000.0, 5000.0, 5.6),
)
"""Model, parallelism, strict and relaxed limit on the 99th percentile of the gaps in
ms, and the capacity over vLLM that its abstract prints."""


def capacities(cases: Sequence[int] = (0, 1, 2)) -> list[Check]:
    """Capacity under a limit on the 99th percentile of gaps, over vLLM's."""
    found = []
    for llm, parallelism, strict_ms, relaxed_ms, published in (CASES[i] for i in cases):
        stages = pipeline(FittedSource(), llm, "a100_sxm", parallelism)
        spec, gpu = LlmSpec.load(llm), GpuType.load("a100_sxm")
        room = memory_of(spec, parallelism, gpu).max_kv_tokens
        best = 0.0
        for name, (prompts, answers) in DATASETS.items():
            for word, limit_ms, budget in (
                ("strict", strict_ms, 512),
                ("relaxed", relaxed_ms, 2048),
            ):
                rates = [
                    capacity_rps(stages, limits, room, (prompts, answers), limit_ms)
                    for limits in (
                        BatchLimits(policy=PREFILL_FIRST, max_num_seqs=128),
                        BatchLimits(
                            policy=CHUNKED, max_num_seqs=128, max_batch_tokens=budget
                        ),
                    )
                ]
                gain = rates[1] / rates[0] if rates[0] > 0 else float("inf")
                best = max(best, gain)
                text = f"{llm}, {name}, {word}: {rates[1]:.2f} over {rates[0]:.2f}"
                found.append(
                    Check(item="capacity", name=text, published=None, ours=gain)
                )
        name = f"{llm}: largest capacity over prefill first, times"
        found.append(
            Check(item="capacity", name=name, published=published, ours=best, low=1.0)
        )
    return found


def capacity_rps(
    stages: Sequence[StepTable],
    limits: BatchLimits,
    kv_tokens: int,
    lengths: Lengths,
    limit_ms: float,
) -> float:
    """Highest rate with P99 gaps within a limit and a median queue of at most 2 s."""
    rng = np.random.default_rng(0)
    number = 400
    inputs, outputs = (
        np.maximum(2, draws(rng, median, p90, number)) for median, p90 in lengths
    )
    inputs = np.minimum(inputs, 16384 - outputs)
    gaps_ms = rng.exponential(MS_PER_S, number).cumsum()

    def is_met(rate: float) -> bool:
        requests = Requests(
            arrival_ms=gaps_ms / rate, input_tokens=inputs, output_tokens=outputs
        )
        result = served(stages, limits, requests, kv_tokens)
        assert result.token_gaps is not None
        queue = float(np.nanmedian(result.queue_ms))
        return result.token_gaps.percentile_ms(99) <= limit_ms and queue <= 2000.0

    return bisect_rate(is_met, 20.0, 0.02)


def draws(rng: np.random.Generator, median: int, p90: int, number: int) -> np.ndarray:
    """Lognormal lengths by median and 90th percentile."""
    sigma = np.log(p90 / median) / 1.2815515655
    return np.rint(median * np.exp(sigma * rng.standard_normal(number))).astype(int)


def stalls() -> list[Check]:
    """A decode step that takes a whole prompt along, over one without."""
    yi = pipeline(FittedSource(), "yi-34b", "a100_sxm", Parallelism(tp=2))[0]
    context = 32 * 4096
    without = yi.decode_step_ms(32, context)
    found = []
    for prompt in (2048, 4096, 8192, 16384):
        ratio = yi.mixed_step_ms([prompt], None, 32, context) / without
        is_last = prompt == 16384
        found.append(
            Check(
                item="stalls",
                name=f"Yi-34B, 32 decodes: step with a prompt of {prompt}, times",
                published=28.3 if is_last else None,
                ours=ratio,
                low=0.75 * 28.3 if is_last else None,
            )
        )
    return found
