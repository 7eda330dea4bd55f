"""The contention model against MuxServe's cost table: fit, and error on held-out rows.

    python benchmarks/accuracy/muxserve_contention.py FOLDER [--format json]

FOLDER holds `cost.csv`, step latencies of LLaMA 7B to 65B on A100 at 30 to 100 % of the
SMs (Duan et al., "MuxServe", ICML 2024), and `cost_outliers.csv`, its isolated spikes,
which are left out. A row on a share of the SMs is predicted from the row on all SMs and
from the model's shapes (`models/latency/contention.py`); the four coefficients are the
same for every model, tensor parallelism and phase. They are fitted to all rows, to all
but the shares 40, 60 and 80 %, and to all but one model, and judged on what was left.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink, LinkKind
from models.flops import StageWork, decode_work, prefill_work, stage_shapes
from models.latency.contention import SmSharing
from models.llm import LlmSpec
from models.parallelism import Parallelism

GPU = "a100_sxm"
PHASES = ("prefill", "decode")
HELD_OUT_SHARES = (0.4, 0.6, 0.8)
COEFFICIENTS = ("memory_frac", "arithmetic_frac", "memory_scale", "arithmetic_scale")
START = (0.7, 0.7, 0.4, 1.5)
ROBUST_SCALE = 0.1
"""Relative error from which rows count less: tiles of products come in steps."""


@dataclass(frozen=True)
class Rows:
    """Rows on a share of the SMs, as arrays with one entry each."""

    model: np.ndarray
    is_decode: np.ndarray
    share: np.ndarray
    ms: np.ndarray
    whole_ms: np.ndarray
    peak_ms: np.ndarray
    """Bytes and FLOPs at the peaks of the GPU, exchange; shape (3, num_rows)."""

    def only(self, keep: np.ndarray) -> "Rows":
        """Some of them."""
        return Rows(
            self.model[keep],
            self.is_decode[keep],
            self.share[keep],
            self.ms[keep],
            self.whole_ms[keep],
            self.peak_ms[:, keep],
        )


def saturating(share: np.ndarray, scale: float) -> np.ndarray:
    """`SmSharing.memory_part` and `arithmetic_part` for arrays."""
    return np.expm1(-share / scale) / np.expm1(-1.0 / scale)


def predicted_ms(rows: Rows, coefficients: Sequence[float]) -> np.ndarray:
    """`SmSharing.demand` and `alone_ms` for arrays."""
    memory_frac, arithmetic_frac, memory_scale, arithmetic_scale = coefficients
    memory, arithmetic, exchange = rows.peak_ms
    memory, arithmetic = memory / memory_frac, arithmetic / arithmetic_frac
    fitting = np.minimum(1.0, rows.whole_ms / (memory + arithmetic + exchange))
    busy = (
        memory / saturating(rows.share, memory_scale)
        + arithmetic / saturating(rows.share, arithmetic_scale)
        + exchange
    )
    return np.maximum(rows.whole_ms, fitting * busy)


def fit(rows: Rows) -> tuple[float, ...]:
    """The coefficients with the least robust relative error."""

    def misses(logs: np.ndarray) -> np.ndarray:
        return np.log(predicted_ms(rows, np.exp(logs)) / rows.ms)

    found = least_squares(misses, np.log(START), loss="soft_l1", f_scale=ROBUST_SCALE)
    return tuple(float(value) for value in np.exp(found.x))


def errors(rows: Rows, coefficients: Sequence[float]) -> dict[str, dict[str, float]]:
    """Relative errors by phase."""
    found = {}
    miss = predicted_ms(rows, coefficients) / rows.ms - 1.0
    for phase in PHASES:
        own = miss[rows.is_decode == (phase == "decode")]
        found[phase] = {
            "median_frac": float(np.median(np.abs(own))),
            "mean_frac": float(np.abs(own).mean()),
            "p90_frac": float(np.quantile(np.abs(own), 0.9)),
            "max_frac": float(np.abs(own).max()),
            "bias_frac": float(np.median(own)),
            "num_rows": len(own),
        }
    return found


def read_rows(folder: Path) -> Rows:
    """The cost table without its spikes, where the row on all SMs is known."""
    measured = dict(read_points(folder))
    names = ("model", "is_decode", "share", "ms", "whole_ms")
    columns: dict[str, list[Any]] = {name: [] for name in (*names, "peak_ms")}
    for (model, tp, share, batch, length, phase), ms in measured.items():
        whole_ms = measured.get((model, tp, 1.0, batch, length, phase))
        if share == 1.0 or whole_ms is None:
            continue
        peak_ms = at_peak_ms(model, tp, batch, length, phase)
        values = (model, phase == "decode", share, ms, whole_ms, peak_ms)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    arrays = [np.array(columns[name]) for name in names]
    return Rows(*arrays, peak_ms=np.array(columns["peak_ms"]).T)


def read_points(
    folder: Path,
) -> Iterator[tuple[tuple[str, int, float, int, int, str], float]]:
    """All steps that are no spikes: (model, TP, share, batch, length, phase), ms."""
    keys = ("model", "ngpu", "mps", "batch", "seq_len")
    with (folder / "cost_outliers.csv").open(encoding="utf-8", newline="") as file:
        spikes = {
            (*(row[key] for key in keys), row["column"]) for row in csv.DictReader(file)
        }
    with (folder / "cost.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for phase in PHASES:
                column = f"{phase}_ms"
                if row[column] and (*(row[key] for key in keys), column) not in spikes:
                    tp, sm, batch, length = (int(row[key]) for key in keys[1:])
                    point = (row["model"], tp, sm / 100, batch, length, phase)
                    yield point, float(row[column])


@cache
def at_peak_ms(
    model: str, tp: int, batch: int, length: int, phase: str
) -> tuple[float, float, float]:
    """Bytes and FLOPs of a step at the peaks of the GPU, and its exchange."""
    (stage,) = stage_shapes(LlmSpec.load(model), Parallelism(tp=tp))
    work: StageWork
    if phase == "decode":
        work = decode_work(stage, batch, batch * length)
    else:
        work = prefill_work(stage, [length] * batch)
    gpu = GpuType.load(GPU)
    ring = GroupLink(
        bytes_per_s=gpu.nvlink_bytes_per_s, latency_ms=0.0, kind=LinkKind.NVLINK
    )
    at_peak = SmSharing(
        memory_frac=1.0, arithmetic_frac=1.0, memory_scale=1.0, arithmetic_scale=1.0
    )
    demand = at_peak.demand(
        work, float("1e12"), gpu=gpu, dtype=Dtype.BF16, ring=(ring, tp)
    )
    return demand.memory_ms, demand.arithmetic_ms, demand.exchange_ms


def report_of(rows: Rows) -> dict[str, Any]:
    """Fits to all rows, and to all but some."""
    coefficients = fit(rows)
    is_left = np.isin(rows.share, HELD_OUT_SHARES)
    from_shares = fit(rows.only(~is_left))
    models = {}
    for model in sorted(set(rows.model)):
        is_model = rows.model == model
        from_others = fit(rows.only(~is_model))
        models[model] = {
            "coefficients": dict(zip(COEFFICIENTS, from_others, strict=True)),
            "held_out": errors(rows.only(is_model), from_others),
        }
    return {
        "summary": {
            "coefficients": dict(zip(COEFFICIENTS, coefficients, strict=True)),
            "fitted": errors(rows, coefficients),
            "held_out_shares": errors(rows.only(is_left), from_shares),
        },
        "held_out_models": models,
    }


def main() -> int:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    report = report_of(read_rows(args.folder))
    if args.format == "json":
        print(json.dumps(report, indent=2))
        return 0
    summary = report["summary"]
    print("  ".join(f"{k} {v:.3f}" for k, v in summary["coefficients"].items()))
    print_errors("all rows", summary["fitted"])
    print_errors("shares left out", summary["held_out_shares"])
    for model, entry in report["held_out_models"].items():
        print_errors(f"{model} left out", entry["held_out"])
    return 0


def print_errors(name: str, by_phase: dict[str, dict[str, float]]) -> None:
    """A line for each phase."""
    for phase, each in by_phase.items():
        print(
            f"{name:20} {phase:8} median {each['median_frac']:.1%}  "
            f"mean {each['mean_frac']:.1%}  p90 {each['p90_frac']:.1%}  "
            f"max {each['max_frac']:.0%}  bias {each['bias_frac']:+.1%}  "
            f"{each['num_rows']} rows"
        )


if __name__ == "__main__":
    sys.exit(main())
