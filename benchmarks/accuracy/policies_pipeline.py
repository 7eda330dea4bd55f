"""What SARATHI publishes about a pipeline: GPT-3 on 64 A100, simulated.

Agrawal et al., "SARATHI", 2023, arXiv 2308.16369, section 5.3: eight stages of TP8, one
a node; steps of one whole prompt and decodes (the best case of Orca), or of one chunk
and decodes within 256 tokens; 27 requests a micro-batch, as many micro-batches as
stages. Lengths by Zipf's law, prompt to output 10 to 1, all there at the start.

The bubble of a request is the time the stages compute nothing while it is served. With
as many micro-batches as stages, activations that travel leave a stage idle. Both links
between nodes have the rate measured by the same authors (Vidur's profiles).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from policies_check import OF_THEN, Check, at_once, close, served

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from models.communication import CommunicationEfficiency
from models.latency.request import LatencyRequest, LatencySource
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from planner.simulator.build import SimulationOptions
from planner.simulator.outcome import SimulationResult
from planner.simulator.system import Batching, BatchLimits
from planner.workload.requests import Requests

FABRIC_LATENCY_MS = 0.002
NETWORK_LATENCY_MS = 0.024
INFINIBAND_BYTES_PER_S, ETHERNET_BYTES_PER_S = 7.8e9, 2.4e9
"""Sends between two nodes, measured: DGX A100, and four A100 on 100 Gbit/s Ethernet."""
PAIRS_BYTES_PER_S = 24e9
"""All-reduces of four A100 of which two each are joined by NVLink, measured (Vidur)."""

GPT3, PIPELINE, MICRO_BATCH = "opt-175b", Parallelism(tp=8, pp=8), 27
TENSOR_PLACES = 11
"""Requests that fit eight GPUs without a pipeline."""
NUM_REQUESTS = 10_000
ROOM_TOKENS = 10**7
WHOLE = BatchLimits(
    policy=Batching.ORCA, max_num_seqs=PIPELINE.pp * MICRO_BATCH, max_step_prompts=1
)
"""Orca at its best: one prompt at most beside the decodes of a step."""
CHUNKS = BatchLimits(
    policy=Batching.CHUNKED,
    max_num_seqs=PIPELINE.pp * MICRO_BATCH,
    max_batch_tokens=256,
    max_step_prompts=1,
    has_chunks_in_turn=True,
)
"""Decode-maximal batches: one chunk at most beside the decodes of a step."""


def pipeline(
    source: LatencySource,
    llm: str,
    gpu: str,
    parallelism: Parallelism,
    network_bytes_per_s: float = INFINIBAND_BYTES_PER_S,
    ring_bytes_per_s: float | None = None,
) -> tuple[StepTable, ...]:
    """Stages of a replica: tensor groups by NVLink, one network link between two.

    `ring_bytes_per_s` is the bus bandwidth of an all-reduce where it is not NVLink's.
    """
    kind = GpuType.load(gpu)
    # Rates that were reached: nothing is lost of them again.
    kept = CommunicationEfficiency()
    peak_bytes_per_s = kind.nvlink_bytes_per_s or kind.pcie_bytes_per_s
    if ring_bytes_per_s is not None:
        peak_bytes_per_s = ring_bytes_per_s / kept.collective_frac
    inside = GroupLink(bytes_per_s=peak_bytes_per_s, latency_ms=FABRIC_LATENCY_MS)
    between = GroupLink(
        bytes_per_s=network_bytes_per_s / kept.point_to_point_frac,
        latency_ms=NETWORK_LATENCY_MS,
    )
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


def bubbles(number: int = NUM_REQUESTS) -> list[Check]:
    """GPT-3 on 64 A100: bubbles a request meets, and throughput, TP8 PP8."""
    stages = pipeline(OF_THEN, GPT3, "a100_sxm", PIPELINE)
    (alone,) = pipeline(OF_THEN, GPT3, "a100_sxm", Parallelism(tp=8))
    requests = zipf_requests(number)
    orca, sarathi = (traced(stages, each, requests) for each in (WHOLE, CHUNKS))
    eighth = at_once(requests.input_tokens[::8], requests.output_tokens[::8])
    few = replace(WHOLE, max_num_seqs=TENSOR_PLACES)
    tensor_ms = served([alone], few, eighth, ROOM_TOKENS).end_ms
    idle = [bubble_ms(result, stages) for result in (orca, sarathi)]
    medians = [float(np.median(each)) for each in idle]
    shares = [
        float(np.median(each / (PIPELINE.pp * (run.finish_ms - run.prefill_start_ms))))
        for each, run in zip(idle, (orca, sarathi), strict=True)
    ]
    item = "bubbles"
    return [
        close(
            item,
            "median bubble of a request, Orca over chunks of 256, times",
            6.29,
            medians[0] / medians[1],
        ),
        Check(item=item, name="share of it idle, Orca", published=None, ours=shares[0]),
        Check(
            item=item, name="share of it idle, chunks", published=None, ours=shares[1]
        ),
        close(
            item,
            "throughput over Orca, both TP8 PP8, times",
            1.91,
            orca.end_ms / sarathi.end_ms,
        ),
        close(
            item,
            "throughput over eight replicas of TP8, times",
            1.48,
            tensor_ms / sarathi.end_ms,
        ),
        close(
            item,
            "eight replicas of TP8 over Orca's pipeline, times",
            1.28,
            orca.end_ms / tensor_ms,
        ),
    ]


def traced(
    stages: Sequence[StepTable], limits: BatchLimits, requests: Requests
) -> SimulationResult:
    """A run with every step of every stage on record."""
    most = 8 * 4000 * max(1, len(requests) // 100)
    options = SimulationOptions(max_spans=most)
    return served(stages, limits, requests, ROOM_TOKENS, options)


def bubble_ms(result: SimulationResult, stages: Sequence[StepTable]) -> np.ndarray:
    """Idle time of the stages between the first prefill and the end of each request."""
    timeline = result.timeline
    assert timeline is not None
    assert timeline.num_left_out == 0
    starts = np.sort(timeline.start_ms)
    ends = np.sort(timeline.end_ms - sending_ms(result, stages))

    def busy_until(times: np.ndarray) -> np.ndarray:
        """Sum over spans of the part before each time."""
        total = np.zeros_like(times)
        for edges, sign in ((starts, 1.0), (ends, -1.0)):
            before = np.searchsorted(edges, times, side="right")
            sums = np.concatenate([[0.0], np.cumsum(edges)])
            total += sign * (before * times - sums[before])
        return total

    first, last = result.prefill_start_ms, result.finish_ms
    return len(stages) * (last - first) - (busy_until(last) - busy_until(first))


def sending_ms(result: SimulationResult, stages: Sequence[StepTable]) -> np.ndarray:
    """How long the activations of each span travel: what a stage has and none alone."""
    timeline = result.timeline
    assert timeline is not None
    near = pipeline(OF_THEN, GPT3, "a100_sxm", PIPELINE, network_bytes_per_s=1e18)
    tokens = timeline.num_prompt_tokens + timeline.num_decodes
    sizes, which = np.unique(tokens, return_inverse=True)
    middle = len(stages) // 2
    travel = [
        stages[middle].prefill_step_ms([n]) - near[middle].prefill_step_ms([n])
        for n in sizes.tolist()
    ]
    is_last = timeline.stage == timeline.stage.max()
    return np.where(is_last, 0.0, np.asarray(travel)[which])
