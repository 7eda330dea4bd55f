"""What SARATHI publishes about chunks and decodes that ride along, simulated.

Agrawal et al., "SARATHI", 2023, arXiv 2308.16369: LLaMA-13B on one RTX A6000, here on
kernels profiled on an A40, the same chip (`fitted-vidur`). Its chunk overhead of Yi-34B
is in Sarathi-Serve (OSDI 2024, arXiv 2403.02310). Nothing is fitted to the figures.
"""

import numpy as np
from policies_check import OF_THEN, Check, at_most, at_once, close, served
from policies_pipeline import pipeline
from published_figures import table_of

from models.latency.fitted import FittedSource
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from planner.simulator.system import Batching, BatchLimits

SEQUENCE_TOKENS = 1024
PREFILL_FIRST, CHUNKED = Batching.PREFILL_FIRST, Batching.CHUNKED
RIDER_ATTENTION_MS = (15.2 - 10.0) / 3
"""Table 2: attention takes 15.2 ms with three riders and 10 ms without. Its linear
layers take 223.2 and 224.8 ms for the same 1,024 tokens, so (5.2 - 1.6) / 3 = 1.2."""
PLACES = {1024: 18, 2048: 9, 3072: 6}
"""Requests that fit, by length."""


def llama_on_a6000() -> StepTable:
    """LLaMA-13B on one RTX A6000."""
    return table_of(OF_THEN, LlmSpec.load("llama-13b"), "a6000", tp=1)


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
            close(
                "best_ratio",
                f"largest gain, chunks of {budget}, times",
                gain,
                gains[best],
            ),
        ]
    return found


def piggybacked() -> list[Check]:
    """A decode that rides in a chunk's step, against one in a step of its own.

    As in its table 2: 1,021 tokens of a prompt and 3 decodes, over a prompt of 1,024
    alone. The rest as in its figure 8: what a step of a chunk and B - 1 decodes within
    256 tokens takes longer than the chunk alone, over a step of B decodes.
    """
    stage, riders = llama_on_a6000(), 3
    alone = stage.decode_step_ms(4, 4 * SEQUENCE_TOKENS) / 4
    context = riders * SEQUENCE_TOKENS
    chunk = SEQUENCE_TOKENS - riders
    with_riders = stage.mixed_step_ms([chunk], None, riders, context)
    added = (with_riders - stage.prefill_step_ms([SEQUENCE_TOKENS])) / riders
    without = stage.decode_step_ms(riders, 0)
    attention = (stage.decode_step_ms(riders, context) - without) / riders
    item = "piggybacked"
    found = [
        close(item, "token of a decode step of 4, ms", 12.49, alone),
        close(item, "token that rides with a prompt of 1,021, ms", 1.2, added, 0.5),
        close(item, "of it attention, ms", RIDER_ATTENTION_MS, attention),
    ]
    gains = [
        rider_gain(stage, batch, length)
        for length, most in PLACES.items()
        for batch in (2, 4, most)
    ]
    for word, published, ours in (
        ("least", 2.8, min(gains)),
        ("largest", 10.0, max(gains)),
    ):
        name = f"{word} speed-up of decodes by chunks of 256, times"
        found.append(close(item, name, published, ours))
    return found


def rider_gain(stage: StepTable, batch: int, length: int) -> float:
    """Time of a decode in a step of its own over what it adds to a chunk's step."""
    riders = batch - 1
    chunk = 256 - riders
    together = stage.mixed_step_ms([chunk], None, riders, riders * length)
    added = (together - stage.prefill_step_ms([chunk])) / riders
    return stage.decode_step_ms(batch, batch * length) / batch / added


def chunk_overheads() -> list[Check]:
    """Time of a prompt in chunks over its time at once."""
    found, item = [], "chunk_overhead"
    for word, source in (("", OF_THEN), (", a current vLLM", FittedSource())):
        yi = pipeline(source, "yi-34b", "a100_sxm", Parallelism(tp=2))[0]
        for chunk, most in ((512, 0.25), (2048, 0.05)):
            worst = max(chunk_loss(yi, n, chunk) for n in (2048, 4096, 8192, 16384))
            name = f"Yi-34B, two A100: prefill in chunks of {chunk}, worst of 2k to 16k"
            found.append(at_most(item, name + word, most, worst))
    stage = llama_on_a6000()
    for chunk, most in ((256, 0.20), (512, 0.10)):
        loss = 1.0 - 1.0 / (1.0 + chunk_loss(stage, SEQUENCE_TOKENS, chunk))
        name = f"LLaMA-13B, A6000: prefill rate lost to chunks of {chunk}, 1k"
        found.append(at_most(item, name, most, loss))
    return found


def chunk_loss(stage: StepTable, prompt: int, chunk: int) -> float:
    """How much longer a prompt takes in chunks."""
    whole = stage.prefill_step_ms([prompt])
    starts = range(0, prompt, chunk)
    parts = [stage.prefill_step_ms([min(chunk, prompt - s)], [s]) for s in starts]
    return sum(parts) / whole - 1.0
