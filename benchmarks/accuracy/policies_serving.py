"""What Orca and Sarathi-Serve publish about serving under limits, simulated.

* Orca (Yu et al., OSDI 2022): GPT-3 175B, prompts of 32 to 512 tokens and answers of 1
  to 128, here on eight A100.
* Sarathi-Serve (Agrawal et al., OSDI 2024, arXiv 2403.02310): Mistral-7B, Yi-34B and
  Falcon-180B on A100, lengths by the medians and 90th percentiles of its Table 2 up to
  the longest it keeps (section 5), limits of its Table 3, budgets of 512 and 2,048.
  Its released experiments say the rest: 2,048 requests a run, 128 places, hosts of four
  A100 that NVLink joins in pairs (so Falcon's all-reduces cross PCIe).

Nothing is fitted to the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from policies_check import OF_THEN, Check, close, served
from policies_pipeline import (
    ETHERNET_BYTES_PER_S,
    INFINIBAND_BYTES_PER_S,
    PAIRS_BYTES_PER_S,
    pipeline,
)

from clusters.gpu import GpuType
from clusters.units import MS_PER_S
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.memory import memory_of
from models.parallelism import Parallelism
from planner.goodput import bisect_rate
from planner.simulator.system import Batching, BatchLimits
from planner.workload.requests import Requests

ORCA = Batching.ORCA
NUM_REQUESTS = 2048
"""Of each run, as in the experiments that Sarathi-Serve has released."""

# --- Orca -----------------------------------------------------------------------------


def orca_gap() -> list[Check]:
    """Rate at a median latency a token, iteration-level over request-level."""
    (stage,) = pipeline(OF_THEN, "opt-175b", "a100_sxm", Parallelism(tp=8))
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


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Median and 90th percentile of prompts and of answers, and the longest of both."""

    prompts: tuple[int, int]
    answers: tuple[int, int]
    most_tokens: int


DATASETS = {
    "sharegpt4": Dataset(prompts=(1730, 5696), answers=(415, 834), most_tokens=8192),
    "arxiv": Dataset(prompts=(7059, 12985), answers=(208, 371), most_tokens=16384),
}

Published = dict[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model as it is served, limits on the 99th percentile of its gaps in ms.

    `printed` is its capacity over vLLM's by dataset and limit, `largest` that of the
    abstract.
    """

    llm: str
    parallelism: Parallelism
    strict_ms: float
    relaxed_ms: float
    largest: float
    printed: Published
    network_bytes_per_s: float = INFINIBAND_BYTES_PER_S
    ring_bytes_per_s: float | None = None
    host_ms: float = 0.0

    @property
    def name(self) -> str:
        """The model, and what each step of a stage takes beside its kernels."""
        return (
            f"{self.llm}, {self.host_ms:g} ms more a step" if self.host_ms else self.llm
        )

    def stages(self) -> tuple[StepTable, ...]:
        """Its stages on A100."""
        tables = pipeline(
            OF_THEN,
            self.llm,
            "a100_sxm",
            self.parallelism,
            self.network_bytes_per_s,
            self.ring_bytes_per_s,
        )
        return tuple(
            replace(
                table,
                prefill_ms=tuple(ms + self.host_ms for ms in table.prefill_ms),
                decode_ms=tuple(ms + self.host_ms for ms in table.decode_ms),
            )
            for table in tables
        )


CASES = (
    Served(
        llm="mistral-7b",
        parallelism=Parallelism(tp=1),
        strict_ms=100.0,
        relaxed_ms=500.0,
        largest=2.6,
        printed={},
    ),
    Served(
        llm="yi-34b",
        parallelism=Parallelism(tp=2),
        strict_ms=200.0,
        relaxed_ms=1000.0,
        largest=3.7,
        printed={("sharegpt4", "strict"): 3.7, ("sharegpt4", "relaxed"): 1.65},
    ),
    Served(
        llm="falcon-180b",
        parallelism=Parallelism(tp=4, pp=2),
        strict_ms=1000.0,
        relaxed_ms=5000.0,
        largest=5.6,
        printed={("sharegpt4", "strict"): 3.6, ("sharegpt4", "relaxed"): 1.48},
        network_bytes_per_s=ETHERNET_BYTES_PER_S,
        ring_bytes_per_s=PAIRS_BYTES_PER_S,
    ),
    Served(
        llm="falcon-180b",
        parallelism=Parallelism(tp=4, pp=2),
        strict_ms=1000.0,
        relaxed_ms=5000.0,
        largest=5.6,
        printed={},
        network_bytes_per_s=ETHERNET_BYTES_PER_S,
        ring_bytes_per_s=PAIRS_BYTES_PER_S,
        host_ms=58.0,
    ),
)
"""The last one has the printed decode step of 200 ms, a fifth of the strict limit."""


def capacities(cases: Sequence[int] = (0, 1, 2, 3)) -> list[Check]:
    """Capacity under a limit on the 99th percentile of gaps, over vLLM's."""
    found = []
    for case in (CASES[i] for i in cases):
        gpu, shape = GpuType.load("a100_sxm"), case.parallelism
        stages = case.stages()
        room = memory_of(LlmSpec.load(case.llm), shape, gpu).max_kv_tokens
        gains = []
        for name, dataset in DATASETS.items():
            for word, limit_ms, budget in (
                ("strict", case.strict_ms, 512),
                ("relaxed", case.relaxed_ms, 2048),
            ):
                rates = [
                    capacity_rps(stages, limits, room, dataset, limit_ms)
                    for limits in (
                        BatchLimits(
                            policy=Batching.PREFILL_FIRST,
                            max_num_seqs=128,
                            max_batch_tokens=dataset.most_tokens,
                        ),
                        BatchLimits(
                            policy=Batching.CHUNKED,
                            max_num_seqs=128,
                            max_batch_tokens=budget,
                            has_chunks_in_turn=True,
                        ),
                    )
                ]
                gains.append(rates[1] / rates[0] if rates[0] > 0 else float("inf"))
                text = (
                    f"{case.name}, {name}, {word}: {rates[1]:.2f} over {rates[0]:.2f}"
                )
                printed = case.printed.get((name, word))
                found.append(
                    Check(item="capacity", name=text, published=None, ours=gains[-1])
                    if printed is None
                    else close("capacity", text, printed, gains[-1])
                )
        name = f"{case.name}: largest capacity over prefill first, times"
        if case.host_ms == 0:
            found.append(close("capacity", name, case.largest, max(gains)))
    return found


def capacity_rps(
    stages: Sequence[StepTable],
    limits: BatchLimits,
    kv_tokens: int,
    dataset: Dataset,
    limit_ms: float,
) -> float:
    """Highest rate with P99 gaps within a limit and a median queue of at most 2 s."""
    rng = np.random.default_rng(0)
    inputs, outputs = drawn_lengths(rng, dataset, NUM_REQUESTS)
    gaps_ms = rng.exponential(MS_PER_S, NUM_REQUESTS).cumsum()

    def is_met(rate: float) -> bool:
        requests = Requests(
            arrival_ms=gaps_ms / rate, input_tokens=inputs, output_tokens=outputs
        )
        result = served(stages, limits, requests, kv_tokens)
        assert result.token_gaps is not None
        queue = float(np.nanmedian(result.queue_ms))
        return result.token_gaps.percentile_ms(99) <= limit_ms and queue <= 2000.0

    return bisect_rate(is_met, 20.0, 0.02)


def drawn_lengths(
    rng: np.random.Generator, dataset: Dataset, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and answers, none longer together than the dataset keeps."""
    inputs, outputs = (
        np.maximum(2, draws(rng, median, p90, 4 * number))
        for median, p90 in (dataset.prompts, dataset.answers)
    )
    kept = np.flatnonzero(inputs + outputs <= dataset.most_tokens)[:number]
    assert len(kept) == number
    return inputs[kept], outputs[kept]


def draws(rng: np.random.Generator, median: int, p90: int, number: int) -> np.ndarray:
    """Lognormal lengths by median and 90th percentile."""
    sigma = np.log(p90 / median) / 1.2815515655
    return np.rint(median * np.exp(sigma * rng.standard_normal(number))).astype(int)


def stalls() -> list[Check]:
    """A decode step that takes a whole prompt along, over one without."""
    yi = pipeline(OF_THEN, "yi-34b", "a100_sxm", Parallelism(tp=2))[0]
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
