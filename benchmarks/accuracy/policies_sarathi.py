"""What SARATHI publishes about chunks and decodes that ride along, simulated.

Agrawal et al., "SARATHI", 2023, arXiv 2308.16369: LLaMA-13B on one RTX A6000, here on
kernels profiled on an A40, the same chip (`fitted-vidur`), and GPT-3 on 64 A100. Its
chunk overhead of Yi-34B is in Sarathi-Serve (OSDI 2024, arXiv 2403.02310). Nothing is
fitted to the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from published_figures import table_of

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from models.latency.fitted import FittedSource
from models.latency.request import LatencyRequest, LatencySource
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from planner.simulator.build import SimulationOptions
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import (
    Batching,
    BatchLimits,
    Phase,
    ServingReplica,
    ServingSystem,
)
from planner.workload.requests import Requests

SEQUENCE_TOKENS = 1024
PREFILL_FIRST, CHUNKED = Batching.PREFILL_FIRST, Batching.CHUNKED
ORCA = Batching.ORCA
FABRIC_LATENCY_MS = 0.002
NETWORK_BYTES_PER_S = 25e9
"""Between nodes, for each GPU: 200 Gbit/s."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One published figure beside the simulated one."""

    item: str
    name: str
    published: float | None
    ours: float
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether it is within the tolerance; None: nothing was asked for."""
        if self.low is None and self.high is None:
            return None
        return (self.low is None or self.ours >= self.low) and (
            self.high is None or self.ours <= self.high
        )


def served(
    stages: Sequence[StepTable], limits: BatchLimits, requests: Requests, kv_tokens: int
) -> SimulationResult:
    """Requests on one replica that serves alone, gaps between tokens counted."""
    replica = ServingReplica(
        phase=Phase.AGGREGATED,
        stages=tuple(stages),
        limits=limits,
        kv_capacity_tokens=kv_tokens,
    )
    system = ServingSystem(replicas=(replica,), kv_bytes_per_token=1.0)
    return simulate(system, requests, options=SimulationOptions(is_itl_counted=True))


def at_once(inputs: Sequence[int], outputs: Sequence[int]) -> Requests:
    """Requests that are all there at the start."""
    return Requests(
        arrival_ms=np.zeros(len(inputs)),
        input_tokens=np.asarray(inputs, dtype=np.int64),
        output_tokens=np.asarray(outputs, dtype=np.int64),
    )


# --- SARATHI, one GPU -----------------------------------------------------------------


def llama_on_a6000() -> StepTable:
    """LLaMA-13B on one RTX A6000."""
    source = FittedSource(engine="vidur")
    return table_of(source, LlmSpec.load("llama-13b"), "a6000", tp=1)


def ratio_gain(stage: StepTable, budget: int, ratio: float, batch: int = 18) -> float:
    """Throughput of chunked over separate prefills and decodes at a P:D ratio."""
    output = max(2, round(SEQUENCE_TOKENS / (1.0 + ratio)))
    prompt = SEQUENCE_TOKENS - output
    requests = at_once([prompt] * 20 * batch, [output] * 20 * batch)
    room = (batch + 1) * (SEQUENCE_TOKENS + 16)
    apart = BatchLimits(
        policy=PREFILL_FIRST, max_num_seqs=batch, max_batch_tokens=SEQUENCE_TOKENS
    )
    mixed = BatchLimits(policy=CHUNKED, max_num_seqs=batch, max_batch_tokens=budget)
    ends = [served([stage], each, requests, room) for each in (apart, mixed)]
    return ends[0].end_ms / ends[1].end_ms


def best_ratios() -> list[Check]:
    """The P:D ratio with the largest gain is C/(B-1)."""
    stage, found = llama_on_a6000(), []
    ratios = [*range(6, 41)]
    for budget, peak, gain in ((256, 14.0, 1.27), (512, 28.0, 1.23)):
        gains = [ratio_gain(stage, budget, ratio) for ratio in ratios]
        best = int(np.argmax(gains))
        rule = budget / 17.0
        found += [
            Check(
                item="best_ratio",
                name=f"best P:D, chunks of {budget} (C/(B-1) = {rule:.1f})",
                published=peak,
                ours=float(ratios[best]),
                low=peak - 2.0,
                high=rule + 2.0,
            ),
            Check(
                item="best_ratio",
                name=f"largest gain, chunks of {budget}, times",
                published=gain,
                ours=gains[best],
                low=0.75 * gain,
                high=1.25 * gain,
            ),
        ]
    return found


def piggybacked() -> list[Check]:
    """A decode that rides in a chunk's step, against one in a step of its own."""
    stage, riders = llama_on_a6000(), 3
    alone = stage.decode_step_ms(4, 4 * SEQUENCE_TOKENS) / 4
    context = riders * SEQUENCE_TOKENS
    chunk = 256 - riders
    with_riders = stage.mixed_step_ms([chunk], None, riders, context)
    added = (with_riders - stage.prefill_step_ms([chunk])) / riders
    return [
        Check(
            item="piggybacked",
            name="token of a decode step of 4, ms",
            published=12.49,
            ours=alone,
            low=0.75 * 12.49,
            high=1.25 * 12.49,
        ),
        Check(
            item="piggybacked",
            name="token that rides with a chunk of 256, ms",
            published=1.2,
            ours=added,
            low=0.6,
            high=1.8,
        ),
    ]


def chunk_overheads() -> list[Check]:
    """Time of a prompt in chunks over its time at once."""
    found = []
    yi = pipeline(FittedSource(), "yi-34b", "a100_sxm", Parallelism(tp=2))[0]
    for chunk, most in ((512, 0.25), (2048, 0.05)):
        worst = max(chunk_loss(yi, n, chunk) for n in (2048, 4096, 8192, 16384))
        name = f"Yi-34B, two A100: prefill in chunks of {chunk}, worst of 2k to 16k"
        found.append(
            Check(
                item="chunk_overhead", name=name, published=most, ours=worst, high=most
            )
        )
    stage = llama_on_a6000()
    for chunk, most in ((256, 0.20), (512, 0.10)):
        loss = 1.0 - 1.0 / (1.0 + chunk_loss(stage, SEQUENCE_TOKENS, chunk))
        name = f"LLaMA-13B, A6000: prefill rate lost to chunks of {chunk}, 1k"
        found.append(
            Check(
                item="chunk_overhead", name=name, published=most, ours=loss, high=most
            )
        )
    return found


def chunk_loss(stage: StepTable, prompt: int, chunk: int) -> float:
    """How much longer a prompt takes in chunks."""
    whole = stage.prefill_step_ms([prompt])
    starts = range(0, prompt, chunk)
    parts = [stage.prefill_step_ms([min(chunk, prompt - s)], [s]) for s in starts]
    return sum(parts) / whole - 1.0


# --- SARATHI, a pipeline --------------------------------------------------------------


def pipeline(
    source: LatencySource, llm: str, gpu: str, parallelism: Parallelism
) -> tuple[StepTable, ...]:
    """Stages of a replica: tensor groups by NVLink, one network link between two."""
    kind = GpuType.load(gpu)
    inside = GroupLink(
        bytes_per_s=kind.nvlink_bytes_per_s or kind.pcie_bytes_per_s,
        latency_ms=FABRIC_LATENCY_MS,
    )
    between = GroupLink(bytes_per_s=NETWORK_BYTES_PER_S, latency_ms=0.01)
    request = LatencyRequest(
        llm=LlmSpec.load(llm),
        parallelism=parallelism,
        gpu=kind,
        links=GroupLinks(
            tp=(inside,) * parallelism.pp, pp=(between,) * (parallelism.pp - 1)
        ),
    )
    return source.compile(request)


def zipf_requests(number: int, exponent: float = 0.4, ratio: float = 10.0) -> Requests:
    """Sequences of 1k to 4k tokens, lengths by Zipf's law, prompt to output 10 to 1."""
    lengths = np.arange(1024, 4097)
    weights = (lengths - 1023.0) ** -exponent
    rng = np.random.default_rng(0)
    drawn = rng.choice(lengths, size=number, p=weights / weights.sum())
    outputs = np.maximum(2, np.rint(drawn / (1.0 + ratio)).astype(np.int64))
    return at_once(drawn - outputs, outputs)


def bubbles(number: int = 1500) -> list[Check]:
    """GPT-3 on 64 A100: bubbles a request meets, and throughput, TP8 PP8."""
    gpt3, batch = "opt-175b", 27
    stages = pipeline(FittedSource(), gpt3, "a100_sxm", Parallelism(tp=8, pp=8))
    (alone,) = pipeline(FittedSource(), gpt3, "a100_sxm", Parallelism(tp=8))
    requests = zipf_requests(number)
    room = 10**7
    # As a step of Orca: the decodes of a micro-batch, and a prompt of any length.
    whole = BatchLimits(policy=ORCA, max_num_seqs=8 * batch, max_batch_tokens=batch)
    cut = BatchLimits(policy=CHUNKED, max_num_seqs=8 * batch, max_batch_tokens=256)
    orca, sarathi = (
        traced(stages, limits, requests, room, number) for limits in (whole, cut)
    )
    eighth = at_once(requests.input_tokens[::8], requests.output_tokens[::8])
    few = replace(cut, max_num_seqs=11)
    tensor = served([alone], few, eighth, room).end_ms
    medians = [float(np.median(bubble_ms(result))) for result in (orca, sarathi)]
    rate = orca.end_ms / sarathi.end_ms
    return [
        Check(
            item="bubbles",
            name="median bubble of a request, Orca over chunks of 256, times",
            published=6.29,
            ours=medians[0] / medians[1],
            low=0.75 * 6.29,
            high=1.25 * 6.29,
        ),
        Check(
            item="bubbles",
            name="throughput over Orca, both TP8 PP8, times",
            published=1.91,
            ours=rate,
            low=0.75 * 1.91,
            high=1.25 * 1.91,
        ),
        Check(
            item="bubbles",
            name="throughput over eight replicas of TP8, times",
            published=1.48,
            ours=tensor / sarathi.end_ms,
            low=0.75 * 1.48,
            high=1.25 * 1.48,
        ),
    ]


def traced(
    stages: Sequence[StepTable],
    limits: BatchLimits,
    requests: Requests,
    kv_tokens: int,
    number: int,
) -> SimulationResult:
    """The same with every step of every stage on record."""
    replica = ServingReplica(
        phase=Phase.AGGREGATED,
        stages=tuple(stages),
        limits=limits,
        kv_capacity_tokens=kv_tokens,
    )
    system = ServingSystem(replicas=(replica,), kv_bytes_per_token=1.0)
    most = 8 * 4000 * max(1, number // 100)
    return simulate(system, requests, options=SimulationOptions(max_spans=most))


def bubble_ms(result: SimulationResult) -> np.ndarray:
    """Idle time of the stages between the first prefill and the end of each request."""
    timeline = result.timeline
    assert timeline is not None
    assert timeline.num_left_out == 0
    starts = np.sort(timeline.start_ms)
    ends = np.sort(timeline.end_ms)

    def busy_until(times: np.ndarray) -> np.ndarray:
        """Sum over spans of the part before each time."""
        total = np.zeros_like(times)
        for edges, sign in ((starts, 1.0), (ends, -1.0)):
            before = np.searchsorted(edges, times, side="right")
            sums = np.concatenate([[0.0], np.cumsum(edges)])
            total += sign * (before * times - sums[before])
        return total

    stages = len(set(timeline.stage.tolist()))
    first, last = result.prefill_start_ms, result.finish_ms
    return stages * (last - first) - (busy_until(last) - busy_until(first))
