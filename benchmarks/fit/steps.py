"""Step latencies of whole models from the package's own engine, to check fits against.

    python benchmarks/fit/steps.py OUTPUT.csv [--models dense|moe|sparse]
        [--system NAME] [--engine NAME]

Needs aiconfigurator-core installed beside this script. The models here are not those
of any file the project is judged on, and no fit ever reads the result: `step_error.py`
compares with it and stores how far off whole steps are. The columns are those of
`benchmarks/accuracy/step_latency.py`; `moe_quant` is one more, for models whose experts
are stored in another format than the rest.
"""

import argparse
import csv
import itertools
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiconfigurator_core.sdk.engine import EngineHandle
from fit import ARCHITECTURES
from tables import ENGINES

COLUMNS = (
    *("system", "backend", "backend_version", "model", "precision", "gemm_quant"),
    *("moe_quant", "kvcache_quant", "tp", "moe_tp", "moe_ep", "phase", "batch"),
    *("isl_or_context", "latency_ms"),
)
PLAIN = (("bf16", "bfloat16", "bfloat16"), ("fp8", "fp8", "fp8"))
BLOCK = ("fp8_block", "fp8_block", "fp8_block")
FP4 = ("nvfp4", "nvfp4", "nvfp4")
DENSE = {
    "meta-llama/Meta-Llama-3.1-70B": PLAIN,
    "Qwen/Qwen3-8B": PLAIN,
}
MOE = {
    "Qwen/Qwen3-30B-A3B": PLAIN,
    "Qwen/Qwen3-235B-A22B": (*PLAIN, BLOCK, FP4),
    "deepseek-ai/DeepSeek-V3": (BLOCK, FP4),
    "moonshotai/Kimi-K2.5": (BLOCK, FP4),
    "MiniMaxAI/MiniMax-M2.5": (BLOCK, FP4),
    "Qwen/Qwen3.5-397B-A17B": (BLOCK, FP4),
    "openai/gpt-oss-120b": (
        ("mxfp4", "bfloat16", "w4a16_mxfp4"),
        ("mxfp4_mxfp8", "bfloat16", "w4a8_mxfp4_mxfp8"),
    ),
}
"""Precision, format of the dense products, format of the experts, by model."""
SPARSE = {"zai-org/GLM-5": (BLOCK, FP4)}
"""Sparse attention: no module of it is fitted, so these are asked for by name only."""
HOST_BOUND = frozenset({("vllm", "fp8_block")})
"""Products whose tables hold the host's time (see README.md)."""
PREFILL = tuple(itertools.product((1, 4), (128, 512, 2048, 8192)))
DECODE = tuple(itertools.product((1, 4, 16, 64, 256), (512, 2048, 8192)))


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One model in one format on some GPUs; `moe_tp` and `moe_ep` 0 when dense."""

    model: str
    precision: str
    gemm: str
    experts: str
    tp: int
    moe_tp: int = 0
    moe_ep: int = 0


def main(arguments: list[str]) -> int:
    """Write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--models", choices=("dense", "moe", "sparse"))
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
            for each in configurations(options.models):
                if (engine, each.gemm) in HOST_BOUND:
                    continue
                try:
                    writer.writerows(steps(system, engine, each))
                except (RuntimeError, ValueError, KeyError) as error:
                    where = f"{system} {engine} {each}"
                    sys.stderr.write(f"{where}: {str(error)[:100]}\n")
    return 0


def configurations(kind: str | None) -> Iterator[Configuration]:
    """What is priced on every system and engine that has the tables."""
    if kind in (None, "dense"):
        for model, precisions in DENSE.items():
            for (label, gemm, experts), tp in itertools.product(precisions, (1, 4, 8)):
                yield Configuration(
                    model=model, precision=label, gemm=gemm, experts=experts, tp=tp
                )
    routed = {None: MOE, "moe": MOE, "sparse": SPARSE}.get(kind, {})
    for model, precisions in routed.items():
        for (label, gemm, experts), tp in itertools.product(precisions, (2, 8)):
            for split in ((tp, 1), (1, tp)):
                yield Configuration(
                    model=model,
                    precision=label,
                    gemm=gemm,
                    experts=experts,
                    tp=tp,
                    moe_tp=split[0],
                    moe_ep=split[1],
                )


def steps(system: str, engine: str, each: Configuration) -> list[tuple[object, ...]]:
    """All rows of one configuration."""
    handle = EngineHandle.compile(
        each.model,
        system,
        engine,
        backend_version="current",
        tp_size=each.tp,
        pp_size=1,
        attention_dp_size=1,
        moe_tp_size=each.moe_tp or None,
        moe_ep_size=each.moe_ep or None,
        gemm_quant_mode=each.gemm,
        kvcache_quant_mode="bfloat16",
        fmha_quant_mode="bfloat16",
        **({"moe_quant_mode": each.experts} if each.moe_tp else {}),
    )
    start = (system, engine, "current", each.model, each.precision, each.gemm)
    start = (*start, each.experts if each.moe_tp else "", "bfloat16", each.tp)
    where = (*start, each.moe_tp or "", each.moe_ep or "")
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
