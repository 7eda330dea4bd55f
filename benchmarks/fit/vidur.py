"""Fit the operators Vidur's authors profiled: A100, H100 and A40.

    python benchmarks/fit/vidur.py FOLDER

FOLDER holds `mlp.csv`, `attention_a100_llama2_70b_tp2.csv` and `allreduce.csv` (Agrawal
et al., "Vidur: A Large-Scale Simulation Framework for LLM Inference", MLSys 2024, MIT;
released profiles). Writes models/fits/SYSTEM/vidur.json: kernels of 2023, kept apart
from the engines of `fit.py`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from measure import fit_attention, fit_gemms
from measure_links import fit_collective

from clusters.gpu import GpuType
from clusters.links import LinkKind
from clusters.serde import write_text_atomic
from models.flops import stage_shapes
from models.latency.fit_file import FITS, EngineFit, FitSource, FittedOperator
from models.latency.operators.collective import Collective
from models.latency.operators.elementwise import ElementwiseModel
from models.latency.operators.gemm import Peaks
from models.llm import LlmSpec
from models.parallelism import Parallelism

SYSTEMS = {"a100": "a100_sxm", "h100": "h100_sxm", "a40": "a40"}
NETWORKS = {"a100": "a100_dgx", "h100": "h100_dgx"}
MODELS = {"Llama-2-7b-hf": "llama-2-7b", "Llama-2-70b-hf": "llama-2-70b"}
COLUMNS = {
    "qkv": "attn_pre_proj_ms",
    "attention_out": "attn_post_proj_ms",
    "gate_up": "mlp_up_proj_ms",
    "down": "mlp_down_proj_ms",
}
NODE_LINK_BYTES_PER_S = {"a100_sxm": 300e9, "h100_sxm": 450e9}
NETWORK_BYTES_PER_S = 25e9
"""200 Gbit/s a GPU between DGX-A100 nodes (NVIDIA DGX A100 datasheet, 2020)."""
MESSAGES = tuple(2.0**power for power in (11, 15, 18, 20, 22, 24, 26))
"""Fifteen sizes were measured, the small ones with much noise."""
SEED = 0


def main(arguments: list[str]) -> int:
    """Write one file a system; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=FITS)
    options = parser.parse_args(arguments)
    for device, system in SYSTEMS.items():
        fit = fit_system(options.folder, device, system)
        (options.output / system).mkdir(parents=True, exist_ok=True)
        text = json.dumps(fit.to_json(), separators=(",", ":")) + "\n"
        write_text_atomic(options.output / system / "vidur.json", text)
        for kind, variants in fit.operators.items():
            for key, operator in variants.items():
                sys.stderr.write(f"{system} {kind} {key}: {operator.evidence}\n")
    return 0


def fit_system(folder: Path, device: str, system: str) -> EngineFit:
    """All operators profiled on one device."""
    gpu, rng = GpuType.load(system), np.random.default_rng(SEED)
    peaks = Peaks(
        memory_bytes_per_s=gpu.memory_bytes_per_s, flops_per_s=gpu.flops_per_s("bf16")
    )
    operators = {
        "gemm": dict(fit_gemms(gemm_rows(folder, device), lambda _: peaks, rng))
    }
    if device == "a100":
        for phase in ("prefill", "decode"):
            rows = attention_rows(folder, phase)
            operators[f"{phase}_attention"] = dict(
                fit_attention(rows, phase, peaks, rng)
            )
    if device in NETWORKS:
        operators["all_reduce"] = _all_reduces(folder, device, system, rng)
    return EngineFit(
        system=system,
        engine="vidur",
        source=FitSource(
            package="vidur", version="2024-05", licence="MIT", engine_version="2023"
        ),
        architecture=gpu.architecture,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        flops_per_s={"bf16": gpu.flops_per_s("bf16")},
        elementwise=ElementwiseModel(
            launch_ms=0.003, memory_frac=0.8, attention_launch_ms=0.003
        ),
        operators=operators,
    )


def gemm_rows(folder: Path, device: str) -> pd.DataFrame:
    """The four products of a layer as rows m, n, k, latency."""
    table = pd.read_csv(folder / "mlp.csv")
    rows = []
    for line in table[table.device == device].to_dict("records"):
        llm = LlmSpec.load(MODELS[line["model"]])
        (stage,) = stage_shapes(llm, Parallelism(tp=int(line["tp"])))
        for gemm in stage.groups[0].gemms:
            rows.append(
                {
                    "gemm_dtype": "bfloat16",
                    "m": line["num_tokens"],
                    "n": gemm.n,
                    "k": gemm.k,
                    "latency": line[COLUMNS[gemm.name]],
                }
            )
    return pd.DataFrame(rows)


def attention_rows(folder: Path, phase: str) -> pd.DataFrame:
    """Attention of Llama-2-70B at TP2 on A100: 32 heads, 4 K/V heads."""
    table = pd.read_csv(folder / "attention_a100_llama2_70b_tp2.csv")
    rows = table[table.kind == phase]
    return pd.DataFrame(
        {
            "kv_cache_dtype": "bfloat16",
            "head_dim": 128,
            "num_heads": 32,
            "num_key_value_heads": 4,
            "kernel_source": "vidur",
            "batch_size": rows.batch_size,
            "isl": rows.prefill_chunk,
            "step": rows.kv_cache_size
            if phase == "prefill"
            else rows.kv_cache_size - 1,
            "latency": rows.ms,
        }
    )


def all_reduce_rows(folder: Path, device: str, *, nodes: int) -> pd.DataFrame:
    """All-reduces of one machine (`nodes` 1) or across two."""
    table = pd.read_csv(folder / "allreduce.csv")
    chosen = (table.network == NETWORKS[device]) & (table.num_nodes == nodes)
    rows = table[chosen & (table.op == "all_reduce")]
    return pd.DataFrame(
        {
            "num_bytes": rows.bytes,
            "num_gpus": rows.num_gpus,
            "latency": rows.median_us / 1000.0,
        }
    )


def _all_reduces(
    folder: Path, device: str, system: str, rng: np.random.Generator
) -> dict[str, FittedOperator]:
    found: dict[str, FittedOperator] = {}
    for nodes, kind, rate in (
        (1, LinkKind.NVLINK, NODE_LINK_BYTES_PER_S[system]),
        (2, LinkKind.NETWORK, NETWORK_BYTES_PER_S),
    ):
        rows = all_reduce_rows(folder, device, nodes=nodes)
        if len(rows):
            fabric = f"{system}_{kind}"
            found |= dict(
                fit_collective(
                    rows,
                    Collective.ALL_REDUCE,
                    fabric=fabric,
                    link=(kind, rate),
                    rng=rng,
                    messages=MESSAGES,
                )
            )
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
