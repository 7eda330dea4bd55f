"""Fitted operators against Vidur's profiles of A100, H100 and A40.

    python benchmarks/accuracy/vidur.py FOLDER [--format json]

FOLDER is described in `benchmarks/fit/vidur.py`. Every row is predicted twice: by the
fit of these profiles (`vidur`: in sample), and by the vLLM fit of the same GPU from
other, younger measurements (`vllm`). A second table has the errors of the fits on
shapes they did not see.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from models.flops import stage_shapes
from models.latency.fit_file import EngineFit, load_fit, shipped_systems
from models.latency.operators.attention import AttentionModel, HeadFormat
from models.latency.operators.collective import CollectiveModel
from models.latency.operators.gemm import GemmModel, GemmShape, Peaks
from models.latency.operators.tokens import TOKEN_KNOTS
from models.latency.step_table import interpolate
from models.llm import LlmSpec
from models.parallelism import Parallelism

SYSTEMS = {"a100": "a100_sxm", "h100": "h100_sxm", "a40": "a40"}
MODELS = {"Llama-2-7b-hf": "llama-2-7b", "Llama-2-70b-hf": "llama-2-70b"}
COLUMNS = {
    "qkv": "attn_pre_proj_ms",
    "attention_out": "attn_post_proj_ms",
    "gate_up": "mlp_up_proj_ms",
    "down": "mlp_down_proj_ms",
}
HEADS, KV_HEADS, HEAD_DIM = 32.0, 4.0, 128.0
"""Llama-2-70B at TP2, which the attention profile is of."""
LARGE_MESSAGE_BYTES = 2**20
LIMITS = {"linears": 0.06, "attention": 0.12, "all_reduce above 1 MB": 0.15}
Pair = tuple[str, str, float, float]
"""What, by which fit, measured and predicted ms."""


def main(arguments: Sequence[str]) -> int:
    """Print the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    report = report_of(options.folder)
    if options.format == "json":
        sys.stdout.write(
            json.dumps({"rows": report, "limits": LIMITS}, indent=2) + "\n"
        )
        return 0
    sys.stdout.write("| what | fit | rows | median | p90 |\n|---|---|---|---|---|\n")
    for row in report:
        sys.stdout.write(
            f"| {row['what']} | {row['fit']} | {row['rows']} | "
            f"{100 * row['median_ape']:.1f} % | {100 * row['p90_ape']:.1f} % |\n"
        )
    sys.stdout.write(
        "\n| fit | rows | median | p90 | held out median | held out p90 |\n"
        "|---|---|---|---|---|---|\n"
    )
    for name in sorted(shipped_systems("vidur")):
        for kind, variants in load_fit(name, "vidur").operators.items():
            for key, operator in variants.items():
                found = operator.evidence
                sys.stdout.write(
                    f"| {name} {kind} {key} | {found.rows_used} | "
                    f"{' | '.join(found.errors_text())} |\n"
                )
    return 0


def report_of(folder: Path) -> list[dict[str, object]]:
    """Median and 90th percentile of the errors, by what and by which fit."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for pairs in (linears, attention, all_reduces):
        for what, fit, measured, predicted in pairs(folder):
            found[what, fit].append(abs(predicted / measured - 1.0))
    return [
        {
            "what": what,
            "fit": fit,
            "rows": len(errors),
            "median_ape": round(float(np.median(errors)), 4),
            "p90_ape": round(float(np.quantile(errors, 0.9)), 4),
        }
        for (what, fit), errors in sorted(found.items())
    ]


def linears(folder: Path) -> Iterator[Pair]:
    """The four products of a layer."""
    for line in _lines(folder / "mlp.csv"):
        system, tokens = SYSTEMS[line["device"]], float(line["num_tokens"])
        llm = LlmSpec.load(MODELS[line["model"]])
        (stage,) = stage_shapes(llm, Parallelism(tp=int(line["tp"])))
        for fit in _fits(system):
            model = fit.variants("gemm")["bfloat16"]
            assert isinstance(model, GemmModel)
            for gemm in stage.groups[0].gemms:
                shape = GemmShape(k=gemm.k, n=gemm.n, bytes_per_weight=2.0)
                time = model.ms(shape, _peaks(fit))
                predicted = interpolate(tokens, TOKEN_KNOTS.tolist(), time.tolist())
                measured = float(line[COLUMNS[gemm.name]])
                yield f"linears, {system}", fit.engine, measured, predicted
                yield "linears", fit.engine, measured, predicted


def attention(folder: Path) -> Iterator[Pair]:
    """Decode, and prefill of chunks after tokens in the cache."""
    for line in _lines(folder / "attention_a100_llama2_70b_tp2.csv"):
        batch, cached = float(line["batch_size"]), float(line["kv_cache_size"])
        tokens, phase = float(line["prefill_chunk"]), line["kind"]
        for fit in _fits("a100_sxm"):
            model = fit.variants(f"{phase}_attention")["bfloat16/128"]
            assert isinstance(model, AttentionModel)
            heads = HeadFormat(
                head_dim=HEAD_DIM,
                kv_bytes=2.0,
                peaks=_peaks(fit),
                floor_ms=model.floor_ms,
            )
            group = HEADS / KV_HEADS
            if phase == "prefill":
                at = (np.asarray(tokens), np.asarray(batch * HEADS), group)
                ideal = heads.prefill_ms(*at, past=cached)
                slowdown = model.prefill_slowdown(*at, past=cached)
            else:
                at = (np.asarray(batch), np.asarray(cached), KV_HEADS, group)
                ideal = heads.decode_ms(*at)
                slowdown = model.surface.slowdown(*at)
            predicted = float(ideal * slowdown)
            yield f"attention, {phase}", fit.engine, float(line["ms"]), predicted
            yield "attention", fit.engine, float(line["ms"]), predicted


def all_reduces(folder: Path) -> Iterator[Pair]:
    """NCCL all-reduces in a machine and across two."""
    for line in _lines(folder / "allreduce.csv"):
        if line["op"] != "all_reduce":
            continue
        system = SYSTEMS[line["network"].removesuffix("_dgx")]
        across = int(line["num_nodes"]) > 1
        size = float(line["bytes"])
        large = "above" if size > LARGE_MESSAGE_BYTES else "up to"
        for fit in _fits(system):
            for model in fit.variants("all_reduce").values():
                assert isinstance(model, CollectiveModel)
                if across != (model.kind == "network"):
                    continue
                predicted = model.ms(
                    np.asarray([size]),
                    num_gpus=int(line["num_gpus"]),
                    bytes_per_s=model.link_bytes_per_s,
                )
                measured = float(line["median_us"]) / 1000.0
                what = f"all_reduce {large} 1 MB"
                place = "two machines" if across else "one machine"
                yield what, fit.engine, measured, float(predicted[0])
                yield f"{what}, {place}", fit.engine, measured, float(predicted[0])


def _fits(system: str) -> list[EngineFit]:
    engines = [e for e in ("vidur", "vllm") if system in shipped_systems(e)]
    return [load_fit(system, engine) for engine in engines]


def _peaks(fit: EngineFit) -> Peaks:
    return Peaks(
        memory_bytes_per_s=fit.memory_bytes_per_s, flops_per_s=fit.flops_per_s["bf16"]
    )


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
