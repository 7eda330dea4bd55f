"""Step latencies of whole models from the package's own engine, to check fits against.

    python benchmarks/fit/steps.py OUTPUT.csv [--system NAME] [--engine NAME]

Needs aiconfigurator-core installed beside this script. The models here are not those
of any file the project is judged on, and no fit ever reads the result: `step_error.py`
compares with it and stores how far off whole steps are. The columns are those of
`benchmarks/accuracy/step_latency.py`.
"""

import argparse
import csv
import itertools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from aiconfigurator_core.sdk.engine import EngineHandle
from fit import ARCHITECTURES
from tables import ENGINES

COLUMNS = (
    *("system", "backend", "backend_version", "model", "precision", "gemm_quant"),
    *("kvcache_quant", "tp", "moe_tp", "moe_ep", "phase", "batch", "isl_or_context"),
    "latency_ms",
)
DENSE = ("meta-llama/Meta-Llama-3.1-70B", "Qwen/Qwen3-8B")
MOE = ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-235B-A22B")
PRECISIONS = {"bf16": "bfloat16", "fp8": "fp8"}
PREFILL = tuple(itertools.product((1, 4), (128, 512, 2048, 8192)))
DECODE = tuple(itertools.product((1, 4, 16, 64, 256), (512, 2048, 8192)))


def main(arguments: list[str]) -> int:
    """Write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--system", choices=sorted(ARCHITECTURES))
    parser.add_argument("--engine", choices=ENGINES)
    options = parser.parse_args(arguments)
    logging.disable(logging.ERROR)
    systems = [options.system] if options.system else list(ARCHITECTURES)
    engines = [options.engine] if options.engine else list(ENGINES)
    with options.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for system, engine in itertools.product(systems, engines):
            for model, (precision, quant), shape in configurations():
                try:
                    writer.writerows(
                        steps(system, engine, model, quant, precision, shape)
                    )
                except (RuntimeError, ValueError) as error:
                    where = f"{system} {engine} {model} {precision} {shape}"
                    sys.stderr.write(f"{where}: {str(error)[:100]}\n")
    return 0


def configurations() -> Iterator[tuple[str, tuple[str, str], tuple[int, int, int]]]:
    """Model, precision, and (tp, moe_tp, moe_ep); the last two 0 for dense models."""
    for model, precision in itertools.product(DENSE, PRECISIONS.items()):
        for tp in (1, 4, 8):
            yield model, precision, (tp, 0, 0)
    for model, precision in itertools.product(MOE, PRECISIONS.items()):
        for tp in (2, 8):
            yield model, precision, (tp, tp, 1)
            yield model, precision, (tp, 1, tp)


def steps(
    system: str,
    engine: str,
    model: str,
    quant: str,
    precision: str,
    shape: tuple[int, int, int],
) -> list[tuple[object, ...]]:
    """All rows of one configuration."""
    tp, moe_tp, moe_ep = shape
    handle = EngineHandle.compile(
        model,
        system,
        engine,
        backend_version="current",
        tp_size=tp,
        pp_size=1,
        attention_dp_size=1,
        moe_tp_size=moe_tp or None,
        moe_ep_size=moe_ep or None,
        gemm_quant_mode=quant,
        kvcache_quant_mode="bfloat16",
        **({"moe_quant_mode": quant} if moe_tp else {}),
    )
    start = (system, engine, "current", model, precision, quant, "bfloat16")
    where = (*start, tp, moe_tp or "", moe_ep or "")
    return [
        *(
            (*where, "prefill", b, n, round(handle.predict_prefill_latency(b, n, 0), 5))
            for b, n in PREFILL
        ),
        *(
            (*where, "decode", b, n, round(handle.predict_decode_latency(b, n, 2), 5))
            for b, n in DECODE
        ),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
