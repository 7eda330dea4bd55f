"""Step times behind the figures of `policies.py` that do not hold.

    python benchmarks/accuracy/policies_steps.py [--format json]

* Yi-34B on two A100: prompts at once beside the times that Sarathi-Serve has released,
  and how much longer they take in chunks of 512;
* LLaMA-13B on an A6000 (SARATHI): chunks beside a tile, and a decode that rides along;
* Falcon-180B on four A100 by two stages: a prompt of 4,096, a token of 32 decodes.

Milliseconds, but for `_frac`. Nothing is fitted to the figures.
"""

import argparse
import json
import sys

from policies_check import OF_THEN
from policies_pipeline import pipeline
from policies_sarathi import SEQUENCE_TOKENS, chunk_loss, llama_on_a6000
from policies_serving import CASES

from models.parallelism import Parallelism

RELEASED_MS = {2048: 378.0, 4096: 775.0, 8192: 1754.0, 16384: 4535.0}
"""Yi-34B, tensor parallelism of 2: a prompt at once, by its tokens."""
CHUNK_TOKENS, TILED_TOKENS, RIDERS = 512, 256, 17
LONG_TOKENS, NUM_DECODES = 4096, 32


def yi_34b() -> dict[str, dict[str, float]]:
    """Prompts by their tokens: at once, and how much longer in chunks."""
    (stage,) = pipeline(OF_THEN, "yi-34b", "a100_sxm", Parallelism(tp=2))
    found = {}
    for tokens, released_ms in RELEASED_MS.items():
        ms = stage.prefill_step_ms([tokens])
        found[f"yi-34b, {tokens} tokens"] = {
            "at_once": ms,
            "released": released_ms,
            "more_frac": ms / released_ms - 1.0,
            "chunks_more_frac": chunk_loss(stage, tokens, CHUNK_TOKENS),
        }
    return found


def llama_13b() -> dict[str, dict[str, float]]:
    """A step at a tile and beyond, and what a decode adds to it."""
    stage = llama_on_a6000()
    chunk = TILED_TOKENS - RIDERS
    without = stage.prefill_step_ms([chunk])
    read = RIDERS * SEQUENCE_TOKENS
    bare = stage.mixed_step_ms([chunk], None, RIDERS, 0)
    return {
        "llama-13b": {
            "256_tokens": stage.prefill_step_ms([TILED_TOKENS]),
            "257_tokens": stage.prefill_step_ms([TILED_TOKENS + 1]),
            "rider_linear": (bare - without) / RIDERS,
            "rider_attention": (stage.mixed_step_ms([chunk], None, RIDERS, read) - bare)
            / RIDERS,
        }
    }


def falcon_180b() -> dict[str, dict[str, float]]:
    """Its first stage with a long prompt, and both with decodes as long."""
    stages = next(each for each in CASES if each.llm == "falcon-180b").stages()
    read = NUM_DECODES * LONG_TOKENS
    return {
        "falcon-180b": {
            "prompt_of_a_stage": stages[0].prefill_step_ms([LONG_TOKENS]),
            "decode_token": sum(s.decode_step_ms(NUM_DECODES, read) for s in stages),
        }
    }


def main() -> int:
    """Print every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    rows = {**yi_34b(), **llama_13b(), **falcon_180b()}
    if options.format == "json":
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    for name, row in rows.items():
        cells = "  ".join(f"{key} {float(value):.3f}" for key, value in row.items())
        sys.stdout.write(f"{name:24} {cells}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
