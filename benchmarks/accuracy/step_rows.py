"""Rows of a step-latency file, and the models and number formats they name."""

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from clusters.fields import InputError
from clusters.gpu import Dtype
from models.llm import LlmSpec, Precision, WeightFormat

SLICE = ("system", "backend", "model", "precision", "phase")
STORED = {
    "bfloat16": (2.0, Dtype.BF16),
    "float16": (2.0, Dtype.BF16),
    "fp8": (1.0, Dtype.FP8),
    "fp8_static": (1.0, Dtype.FP8),
    "fp8_ootb": (1.0, Dtype.FP8),
    "sq": (1.0, Dtype.INT8),
    "fp8_block": (1.0 + 4 / 128**2, Dtype.FP8),
    "nvfp4": (0.5625, Dtype.FP4),
    "int8_wo": (1.02, Dtype.BF16),
    "int4_wo": (0.52, Dtype.BF16),
    "nvfp4_wo": (0.5625, Dtype.BF16),
    "w4a16_nvfp4": (0.5625, Dtype.BF16),
    "w4afp8": (0.52, Dtype.FP8),
    "w4a16_mxfp4": (0.53125, Dtype.BF16),
    "w4a8_mxfp4_mxfp8": (0.53125, Dtype.FP8),
}
"""Stored bytes and compute format of a weight by the file's name of it."""
HALF = ("bfloat16", "float16", "half")
RELEASE = "-2507"
"""Of Qwen3 models: the same shapes again."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step of the file and what was predicted for it."""

    system: str
    backend: str
    model: str
    precision: str
    gemm_quant: str
    kvcache_quant: str
    tp: int
    moe_tp: int
    moe_ep: int
    phase: str
    batch: int
    length: int
    latency_ms: float
    moe_quant: str = ""
    predicted_ms: float | None = None
    is_moe: bool = False
    problem: str = ""

    @property
    def ranks(self) -> int:
        """Attention-data-parallel ranks, whose batches are counted one by one."""
        return max(self.moe_tp * self.moe_ep // self.tp, 1)

    @property
    def error_frac(self) -> float:
        """Signed relative error."""
        assert self.predicted_ms is not None
        return self.predicted_ms / self.latency_ms - 1.0


def read_rows(path: Path) -> list[Row]:
    """The rows of a step-latency file."""
    with path.open(newline="") as file:
        return [
            Row(
                **{key: line[key] for key in SLICE},
                gemm_quant=line["gemm_quant"],
                kvcache_quant=line["kvcache_quant"],
                tp=_count(line["tp"]),
                moe_tp=_count(line.get("moe_tp")),
                moe_ep=_count(line.get("moe_ep")),
                batch=_count(line["batch"]),
                length=_count(line["isl_or_context"]),
                latency_ms=float(line["latency_ms"] or "nan"),
                moe_quant=line.get("moe_quant") or "",
            )
            for line in csv.DictReader(file)
        ]


@cache
def llm_of(
    model: str, gemm_quant: str, kvcache_quant: str, moe_quant: str = ""
) -> LlmSpec:
    """The catalogue's model in the file's number formats.

    Without a format of their own, experts are stored like everything else, and those
    of gpt-oss as released.
    """
    llm = LlmSpec.load(model.lower().removesuffix(RELEASE))
    weights = weight_format("gemm_quant", gemm_quant)
    experts = weights
    if moe_quant:
        experts = weight_format("moe_quant", moe_quant)
    elif "gpt-oss" in model:
        experts = llm.precision.experts
    precision = Precision(
        attention=weights,
        mlp=weights,
        experts=experts,
        embedding=WeightFormat.plain(Dtype.BF16),
        kv=Dtype.BF16 if kvcache_quant in HALF else Dtype.FP8,
    )
    return replace(llm, precision=precision)


def weight_format(column: str, name: str) -> WeightFormat:
    """A number format by the file's name of it."""
    if name not in STORED:
        raise InputError(column, name, f"one of {', '.join(STORED)}")
    stored, compute = STORED[name]
    return WeightFormat(bytes_per_weight=stored, compute_dtype=compute)


def _count(text: str | None) -> int:
    return int(float(text)) if text else 1
