"""Which fitted variant serves a weight format, and the peak it is measured against."""

from collections.abc import Container

from clusters.gpu import Dtype, GpuType
from models.llm import WeightFormat

_HALF = frozenset({Dtype.BF16, Dtype.FP16, Dtype.FP32, Dtype.TF32})
_FOUR_BIT_BYTES = 0.75
"""Stored bytes below which a weight has four bits, its scales included."""
_PLAIN_BYTES = 1.5
"""Stored bytes above which a weight is not quantised."""
_PLAIN_KV_BYTES = 2.0
"""Bytes of a cached element from which the cache counts as unquantised."""
_MXFP4_BYTES, _SAME_FORMAT_BYTES = 0.5 + 1 / 32, 0.005
"""MXFP4 with its scales; 4-bit integers store 0.52 (groups of 128) or 0.56 (of 32)."""

PEAK_DTYPE = {
    "bfloat16": Dtype.BF16,
    "fp8": Dtype.FP8,
    "fp8_block": Dtype.FP8,
    "nvfp4": Dtype.FP4,
    "int8_wo": Dtype.BF16,
    "int4_wo": Dtype.BF16,
    "sq": Dtype.INT8,
    "w4a16_mxfp4": Dtype.BF16,
    "w4a8_mxfp4_mxfp8": Dtype.FP8,
}
"""Number format the tensor cores multiply in, by variant."""


def variants_for(weights: WeightFormat) -> tuple[str, ...]:
    """Variants that multiply in this format, the exact one first.

    The last is always plain bf16: engines unpack what a GPU cannot multiply.
    """
    stored = weights.bytes_per_weight
    if weights.compute_dtype is Dtype.FP4:
        return ("nvfp4", "w4a8_mxfp4_mxfp8", "w4a16_mxfp4", "int4_wo", "bfloat16")
    if weights.compute_dtype is Dtype.FP8 and stored < _FOUR_BIT_BYTES:
        four_bit = ("w4a8_mxfp4_mxfp8", "w4a16_mxfp4", "int4_wo")
        return (*four_bit, "fp8_block", "fp8", "bfloat16")
    if weights.compute_dtype is Dtype.FP8:
        exact = ("fp8", "fp8_block") if stored == 1.0 else ("fp8_block", "fp8")
        return (*exact, "int8_wo", "bfloat16")
    if weights.compute_dtype is Dtype.INT8:
        return ("sq", "fp8", "int8_wo", "bfloat16")
    if weights.compute_dtype in _HALF and stored > _PLAIN_BYTES:
        return ("bfloat16",)
    if stored > _FOUR_BIT_BYTES:
        return ("int8_wo", "bfloat16")
    if abs(stored - _MXFP4_BYTES) < _SAME_FORMAT_BYTES:
        return ("w4a16_mxfp4", "int4_wo", "bfloat16")
    return ("int4_wo", "w4a16_mxfp4", "bfloat16")


def choose_variant(
    weights: WeightFormat, fitted: Container[str], gpu: GpuType
) -> str | None:
    """First variant that was fitted and that `gpu` multiplies natively.

    Plain bf16 stands in on GPUs without it: they multiply in fp16 at that peak.
    """
    variants, dtypes = variants_for(weights), gpu.dtypes
    if variants[0] == "w4a16_mxfp4" and Dtype.FP4 in dtypes:
        # With four-bit tensor cores the engines quantise the inputs of MXFP4 experts.
        variants = ("w4a8_mxfp4_mxfp8", *variants)
    for variant in variants:
        native = variant == "bfloat16" or PEAK_DTYPE[variant] in dtypes
        if variant in fitted and native:
            return variant
    return None


def peak_flops_per_s(variant: str, gpu: GpuType) -> float:
    """Peak of `gpu` in a variant's number format, else in the widest it has."""
    dtypes = gpu.dtypes
    for dtype in (PEAK_DTYPE[variant], Dtype.FP16):
        if dtype in dtypes:
            return gpu.flops_per_s(dtype)
    return gpu.flops_per_s(Dtype.FP32)


def kv_variant(element_bytes: float) -> str:
    """Variant of an attention kernel for a cache of such elements."""
    return "bfloat16" if element_bytes >= _PLAIN_KV_BYTES else "fp8"
