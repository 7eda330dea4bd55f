"""What the bubbles of SARATHI's pipeline hang on, one assumption at a time.

    python benchmarks/accuracy/policies_bubbles.py [--format json]

SARATHI (arXiv 2308.16369, section 5.3) simulates GPT-3 on 64 A100 with step times that
it profiled and does not print: four ratios are all there is. Here they are computed for
step times that differ in one thing: attention kernels (it used xformers in an engine of
its own), a fixed time of each step (launches), a stage that is slower than the others,
links, and which idle time counts. Nothing is chosen by the published figures.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from policies_check import OF_THEN, at_once, served
from policies_pipeline import (
    CHUNKS,
    GPT3,
    PIPELINE,
    ROOM_TOKENS,
    TENSOR_PLACES,
    WHOLE,
    bubble_ms,
    pipeline,
    sending_ms,
    traced,
    zipf_requests,
)

from models.latency.step_table import StepTable
from models.parallelism import Parallelism
from planner.simulator.outcome import SimulationResult

NUM_REQUESTS = 3000
PUBLISHED = {"bubbles": 6.29, "over_orca": 1.91, "over_tensor": 1.48, "tensor": 1.28}


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How step times differ from the default ones."""

    decode_attention: float = 1.0
    prompt_attention: float = 1.0
    fixed_ms: float = 0.0
    slow_stage: float = 1.0

    def of(self, table: StepTable, num_stages: int, *, is_slow: bool) -> StepTable:
        """A stage's table, changed; `fixed_ms` is for an eighth of the layers."""
        fixed_ms = self.fixed_ms * PIPELINE.pp / num_stages
        slower = self.slow_stage if is_slow else 1.0
        per_kv = self.decode_attention * slower
        return replace(
            table,
            prefill_ms=tuple(slower * (ms + fixed_ms) for ms in table.prefill_ms),
            prefill_per_sq_token_ms=(
                table.prefill_per_sq_token_ms * self.prompt_attention * slower
            ),
            decode_ms=tuple(slower * (ms + fixed_ms) for ms in table.decode_ms),
            decode_per_kv_token_ms=tuple(
                per_kv * ms for ms in table.decode_per_kv_token_ms
            ),
        )


CASES = {
    "as simulated": Steps(),
    "attention of decodes x 2": Steps(decode_attention=2.0),
    "attention of decodes x 4": Steps(decode_attention=4.0),
    "attention of prompts x 3": Steps(prompt_attention=3.0),
    "5 ms more in each step": Steps(fixed_ms=5.0),
    "one stage 10 % slower": Steps(slow_stage=1.1),
    "all of these, decodes x 2": Steps(
        decode_attention=2.0, prompt_attention=3.0, fixed_ms=5.0, slow_stage=1.1
    ),
    "all of these, decodes x 4": Steps(
        decode_attention=4.0, prompt_attention=3.0, fixed_ms=5.0, slow_stage=1.1
    ),
}


def ratios(steps: Steps) -> dict[str, float]:
    """The four published ratios, and the idle share of the stages."""
    plain = pipeline(OF_THEN, GPT3, "a100_sxm", PIPELINE)
    (alone,) = pipeline(OF_THEN, GPT3, "a100_sxm", Parallelism(tp=PIPELINE.tp))
    middle = len(plain) // 2
    stages = [
        steps.of(table, len(plain), is_slow=stage == middle)
        for stage, table in enumerate(plain)
    ]
    requests = zipf_requests(NUM_REQUESTS)
    runs = [traced(stages, limits, requests) for limits in (WHOLE, CHUNKS)]
    idle = [bubble_ms(run, plain) for run in runs]
    stays = [run.finish_ms - run.prefill_start_ms for run in runs]
    eighth = at_once(requests.input_tokens[::8], requests.output_tokens[::8])
    few = replace(WHOLE, max_num_seqs=TENSOR_PLACES)
    tensor = served([steps.of(alone, 1, is_slow=False)], few, eighth, ROOM_TOKENS)
    whole, chunks = runs
    return {
        "bubbles": float(np.median(idle[0]) / np.median(idle[1])),
        "over_orca": whole.end_ms / chunks.end_ms,
        "over_tensor": tensor.end_ms / chunks.end_ms,
        "tensor": whole.end_ms / tensor.end_ms,
        "idle_orca": float(np.median(idle[0] / stays[0]) / len(stages)),
        "idle_chunks": float(np.median(idle[1] / stays[1]) / len(stages)),
    }


def own_bubbles() -> float:
    """The ratio of bubbles where only gaps before a request's own steps count."""
    stages = pipeline(OF_THEN, GPT3, "a100_sxm", PIPELINE)
    requests = zipf_requests(NUM_REQUESTS)
    whole, chunks = (
        float(np.median(own_gaps_ms(traced(stages, limits, requests), stages)))
        for limits in (WHOLE, CHUNKS)
    )
    return whole / chunks


def own_gaps_ms(result: SimulationResult, stages: Sequence[StepTable]) -> np.ndarray:
    """Idle time before the decode steps of each request, summed over the stages.

    Micro-batches pass in turn, so a request is in every eighth step from its first
    token on. Requests of which the last of these is not its end are left out.
    """
    timeline = result.timeline
    assert timeline is not None
    travel_ms = sending_ms(result, stages)
    gaps, ends = 0.0, np.zeros(0)
    for stage in range(int(timeline.stage.min()), int(timeline.stage.max()) + 1):
        mine = np.flatnonzero(timeline.stage == stage)
        mine = mine[np.argsort(timeline.start_ms[mine], kind="stable")]
        ends = timeline.end_ms[mine]
        idle = timeline.start_ms[mine][1:] - (ends - travel_ms[mine])[:-1]
        gaps = gaps + np.concatenate([[0.0], idle])
    first = np.searchsorted(ends, result.first_token_ms - 1e-6)
    last = np.searchsorted(ends, result.finish_ms - 1e-6)
    every = len(stages)
    kept = last - first == every * (result.output_tokens - 1)
    return np.array(
        [
            gaps[i + every : j + 1 : every].sum()
            for i, j in zip(first[kept], last[kept], strict=True)
        ]
    )


def main() -> int:
    """Print a row for each assumption."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    rows = {"published": PUBLISHED, **{n: ratios(case) for n, case in CASES.items()}}
    rows["gaps before its own steps only"] = {"bubbles": own_bubbles()}
    if options.format == "json":
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    for name, row in rows.items():
        cells = "  ".join(f"{key} {value:5.2f}" for key, value in row.items())
        sys.stdout.write(f"{name:32} {cells}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
