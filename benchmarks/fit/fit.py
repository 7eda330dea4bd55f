"""Fit the shipped operator models from the tables of aiconfigurator-core.

    python benchmarks/fit/fit.py SYSTEMS_FOLDER [--system h200_sxm] [--engine vllm]

See README.md beside this file.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from measure import fit_attention, fit_gemms, host_bound
from measure_exchange import fit_exchanges
from measure_experts import fit_moe, lent_rows
from measure_latent import fit_absorbed, fit_latent_attention, fit_latent_blocks
from measure_links import NCCL_NAMES, engine_rows, fit_collective, nccl_rows
from surfaces import PeaksOf
from tables import ENGINES, LICENCE, PACKAGE, PACKAGE_VERSION, Tables

from clusters.links import LinkKind
from clusters.serde import write_text_atomic
from models.latency.fit_file import FITS, EngineFit, FitSource, FittedOperator
from models.latency.operators.collective import Collective
from models.latency.operators.elementwise import ElementwiseModel
from models.latency.operators.gemm import Peaks

SEED = 0
ARCHITECTURES = {
    "a100_sxm": "ampere",
    "h100_sxm": "hopper",
    "h200_sxm": "hopper",
    "b200_sxm": "blackwell",
    "b300_sxm": "blackwell",
    "gb200": "blackwell",
    "gb300": "blackwell",
    "l40s": "ada",
    "rtx_pro_6000_server": "blackwell",
    "b60": "xe2",
}
PEAK_KEYS = {"bf16": "bfloat16", "fp8": "fp8", "int8": "int8", "fp4": "fp4"}
COMPUTE = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "fp4",
    "int8_wo": "bf16",
    "int4_wo": "bf16",
    "sq": "int8",
    "w4a16_mxfp4": "bf16",
    "w4a8_mxfp4_mxfp8": "fp8",
}
"""Number format the tensor cores multiply in, by the package's name."""
PCIE_ONLY = frozenset({"l40s", "rtx_pro_6000_server", "b60"})
HOST_BOUNCED_BYTES_PER_S = {"l40s": 4e9}
"""Ring rates of machines without peer-to-peer: every message crosses the host."""
EXPERT_LENDERS = {
    ("b300_sxm", "trtllm"): "b200_sxm",
    ("gb300", "trtllm"): "gb200",
}
"""Where TensorRT-LLM's own fp4 kernel was not measured, and the sister it was on."""
SMALL_MESSAGE_ELEMENTS = 8192
LAUNCH_MS, ATTENTION_LAUNCH_MS = 0.003, 0.0033
"""The package's own constant for a memory-bound kernel, and that with its 10 % margin
around attention (`mem_empirical_constant_latency` of its system files)."""


def main(arguments: list[str]) -> int:
    """Fit every system and engine asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", type=Path)
    parser.add_argument("--system", choices=sorted(ARCHITECTURES))
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--output", type=Path, default=FITS)
    options = parser.parse_args(arguments)
    for system in [options.system] if options.system else ARCHITECTURES:
        for engine in [options.engine] if options.engine else ENGINES:
            started = time.perf_counter()
            tables = Tables(options.systems, system, engine)
            fit = fit_engine(tables)
            if fit is None:
                continue
            text = json.dumps(fit.to_json(), separators=(",", ":")) + "\n"
            (options.output / system).mkdir(parents=True, exist_ok=True)
            write_text_atomic(options.output / system / f"{engine}.json", text)
            took = time.perf_counter() - started
            sys.stderr.write(f"{system} {engine}: {len(text)} bytes, {took:.1f} s\n")
            for key, reason in fit.discarded.items():
                sys.stderr.write(f"  discarded {key}: {reason}\n")
            for kind, variants in fit.operators.items():
                for key, operator in variants.items():
                    e = operator.evidence
                    sys.stderr.write(
                        f"  {kind:18} {key:18} {e.rows_used:6} rows  "
                        f"{e.median_error_frac:.3f} {e.p90_error_frac:.3f}  held out "
                        f"{e.held_out_median_error_frac} "
                        f"{e.held_out_p90_error_frac}\n"
                    )
    return 0


def fit_engine(tables: Tables) -> EngineFit | None:
    """All operators of one engine on one system; None without its tables."""
    if tables.read("gemm", "gemm_perf") is None:
        return None
    stated = tables.peaks()
    flops = {
        ours: stated[f"{theirs}_tc_flops"]
        for ours, theirs in PEAK_KEYS.items()
        if f"{theirs}_tc_flops" in stated
    }
    operators = _operators(tables, flops, stated["mem_bw"])
    discarded = {
        f"gemm/{key}": reason for key, reason in host_bound(operators["gemm"]).items()
    }
    operators["gemm"] = {
        key: operator
        for key, operator in operators["gemm"].items()
        if f"gemm/{key}" not in discarded
    }
    return EngineFit(
        system=tables.system,
        engine=tables.engine,
        source=FitSource(
            package=PACKAGE,
            version=PACKAGE_VERSION,
            licence=LICENCE,
            engine_version=tables.engine_version,
        ),
        architecture=ARCHITECTURES[tables.system],
        memory_bytes_per_s=stated["mem_bw"],
        flops_per_s=flops,
        elementwise=ElementwiseModel(
            launch_ms=LAUNCH_MS,
            memory_frac=stated["mem_bw_empirical_scaling_factor"],
            attention_launch_ms=ATTENTION_LAUNCH_MS,
        ),
        eager_call_ms=_eager_call_ms(tables),
        operators=operators,
        discarded=discarded,
    )


def _eager_call_ms(tables: Tables) -> float:
    """Median time of small all-reduces called one by one: the host's, not the GPU's.

    Tables without such calls take those of another engine on the same machine.
    """
    for engine in dict.fromkeys((tables.engine, *ENGINES)):
        rows = replace(tables, engine=engine).read("comm", "custom_allreduce_perf")
        if rows is None:
            continue
        eager = rows[rows.kernel_source.str.contains("eager")]
        small = eager[eager.message_size <= SMALL_MESSAGE_ELEMENTS]
        if len(small) and len(eager) < len(rows):
            return round(float(small.latency.median()), 4)
    return 0.0


def _operators(
    tables: Tables, flops: dict[str, float], memory_bytes_per_s: float
) -> dict[str, dict[str, FittedOperator]]:
    rng = np.random.default_rng(SEED)

    def peaks(dtype: str) -> Peaks | None:
        rate = flops.get(COMPUTE.get(dtype, ""))
        if rate is None:
            return None
        return Peaks(memory_bytes_per_s=memory_bytes_per_s, flops_per_s=rate)

    bf16 = peaks("bfloat16")
    assert bf16 is not None
    fits: dict[str, Iterator[tuple[str, FittedOperator]]] = {}
    if (gemm := tables.read("gemm", "gemm_perf")) is not None:
        fits["gemm"] = fit_gemms(gemm, peaks, rng)
    for phase, prefix in (("prefill", "context"), ("decode", "generation")):
        table = tables.read("attention", f"{prefix}_attention_perf")
        if table is not None:
            fits[f"{phase}_attention"] = fit_attention(table, phase, bf16, rng)
        fits |= _latent(tables, phase, prefix, peaks, rng)
    if (absorbed := tables.read("mla_bmm", "mla_bmm_perf")) is not None:
        fits["latent_absorbed"] = fit_absorbed(absorbed, peaks, rng)
    if (moe := tables.read("moe", "moe_perf")) is not None:
        fits["moe"] = _experts(tables, moe, peaks, rng)
    fits |= _collectives(tables, rng)
    fitted = {kind: dict(models) for kind, models in fits.items()}
    return {kind: models for kind, models in fitted.items() if models}


def _experts(
    tables: Tables, own: pd.DataFrame, peaks: PeaksOf, rng: np.random.Generator
) -> Iterator[tuple[str, FittedOperator]]:
    """Routed experts, with the kernel that a sister system alone was measured with."""
    lender = EXPERT_LENDERS.get((tables.system, tables.engine))
    if lender is None:
        return fit_moe(own, peaks, rng)
    sister = replace(tables, system=lender).read("moe", "moe_perf")
    assert sister is not None
    return fit_moe(own, peaks, rng, lent=lent_rows(sister), lender=lender)


def _collectives(
    tables: Tables, rng: np.random.Generator
) -> dict[str, Iterator[tuple[str, FittedOperator]]]:
    """The engine's own all-reduce; the other collectives of NCCL."""
    pcie = tables.system in PCIE_ONLY
    kind = LinkKind.PCIE if pcie else LinkKind.NVLINK
    rate = HOST_BOUNCED_BYTES_PER_S.get(
        tables.system, tables.node()["pcie_bw" if pcie else "intra_node_bw"]
    )
    found = {}
    own = tables.read("comm", "custom_allreduce_perf")
    if own is not None:
        found[Collective.ALL_REDUCE] = engine_rows(own)
    nccl = tables.nccl()
    if nccl is not None:
        found |= {op: nccl_rows(nccl, op) for op in NCCL_NAMES}
    link = (kind, rate)
    fits = {
        str(op): fit_collective(rows, op, fabric=tables.system, link=link, rng=rng)
        for op, rows in found.items()
        if len(rows)
    }
    return fits | fit_exchanges(tables, link, rng)


def _latent(
    tables: Tables, phase: str, prefix: str, peaks: PeaksOf, rng: np.random.Generator
) -> dict[str, Iterator[tuple[str, FittedOperator]]]:
    """Latent attention: the block where it was measured, and the kernel alone."""
    bf16 = peaks("bfloat16")
    assert bf16 is not None
    found = {
        f"latent_{phase}_attention": _latent_attention(
            tables, phase, f"{prefix}_mla_perf", bf16, rng
        )
    }
    block = tables.read("mla", f"mla_{prefix}_module_perf")
    if block is not None:
        found[f"latent_{phase}_block"] = fit_latent_blocks(block, phase, peaks, rng)
    return found


def _latent_attention(
    tables: Tables, phase: str, table: str, peaks: Peaks, rng: np.random.Generator
) -> Iterator[tuple[str, FittedOperator]]:
    """The engine's own kernel, else that of another engine on the same system."""
    for engine in (tables.engine, "sglang", "trtllm"):
        rows = replace(tables, engine=engine).read("mla", table)
        if rows is not None:
            lender = "" if engine == tables.engine else engine
            yield from fit_latent_attention(
                rows, phase, peaks, rng, borrowed_from=lender
            )
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
