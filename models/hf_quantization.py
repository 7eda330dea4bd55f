"""Weight and KV formats from the `quantization_config` of a HF ``config.json``."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clusters.fields import InputError
from clusters.gpu import Dtype
from models.hf_keys import QUANTIZATION_TYPES, SKIP_KEYS, check_types, integer_of
from models.hf_modules import Part, parts_left_out
from models.llm import Precision, WeightFormat, bytes_of

_TORCH_DTYPES = {
    "bfloat16": Dtype.BF16,
    "float16": Dtype.FP16,
    "half": Dtype.FP16,
    # Serving engines load fp32 checkpoints in half precision unless told otherwise.
    "float32": Dtype.FP16,
    "auto": Dtype.BF16,
}
_SCALE_BYTES = 4
"""A block scale of an fp8 checkpoint is one fp32 number."""
_MXFP4_BYTES = 0.5 + 1 / 32
"""4 bits, and one shared 8-bit exponent for 32 weights (OCP MX v1.0)."""
_NVFP4_BYTES = 0.5 + 1 / 16
"""4 bits, and one fp8 scale for 16 weights."""
_DEFAULT_GROUP = 128
_SAMPLED_LAYERS = 4
"""Layers asked whether a part is quantised; hybrids alternate kinds within four."""


def precision_of(config: Mapping[str, Any]) -> Precision:
    """Weight formats by part, and the KV format, of a parsed config.

    Raises
    ------
    InputError
        On a number format or quantisation method this package does not know.
    """
    base = _base_dtype(config)
    precision = Precision.uniform(base)
    quantization = config.get("quantization_config")
    if not quantization:
        return precision
    check_types(quantization, QUANTIZATION_TYPES, where="quantization_config.")
    method = str(quantization.get("quant_method", "")).lower()
    weights = _weight_format(quantization, method, base)
    if method == "mxfp4":  # gpt-oss: only the experts are quantised
        return replace(precision, experts=weights)
    plain = precision.attention
    skipped = _skipped_modules(quantization)
    left_out = parts_left_out(skipped, layers=_middle_layers(config))
    attention = plain if Part.ATTENTION in left_out else weights
    out = plain if Part.ATTENTION_OUT in left_out else weights
    return replace(
        precision,
        attention=attention,
        attention_out=out if out != attention else None,
        mlp=plain if Part.MLP in left_out else weights,
        experts=plain if Part.EXPERTS in left_out else weights,
        kv=_kv_dtype(quantization, base),
    )


def _middle_layers(config: Mapping[str, Any]) -> range:
    middle = integer_of(config, "num_hidden_layers") // 2
    return range(middle, middle + _SAMPLED_LAYERS)


def _skipped_modules(quantization: Mapping[str, Any]) -> tuple[str, ...]:
    inner = quantization.get("quantization") or {}
    check_types(inner, QUANTIZATION_TYPES, where="quantization_config.quantization.")
    return tuple(
        str(module)
        for where in (quantization, inner)
        for key in SKIP_KEYS
        for module in where.get(key) or ()
    )


def _base_dtype(config: Mapping[str, Any]) -> Dtype:
    name = config.get("dtype") or config.get("torch_dtype") or "auto"
    if name not in _TORCH_DTYPES:
        known = ", ".join(sorted(_TORCH_DTYPES))
        raise InputError("torch_dtype", name, f"one of {known}")
    return _TORCH_DTYPES[name]


def _weight_format(
    quantization: Mapping[str, Any], method: str, base: Dtype
) -> WeightFormat:
    if method in {"fp8", "fbgemm_fp8"}:
        return _fp8(quantization.get("weight_block_size"))
    if method == "mxfp4":
        return WeightFormat(bytes_per_weight=_MXFP4_BYTES, compute_dtype=base)
    if method in {"gptq", "awq"}:
        bits, group = quantization.get("bits", 4), quantization.get("group_size")
        return _weight_only(bits, group, base)
    if method == "bitsandbytes":
        return _weight_only(4 if quantization.get("load_in_4bit") else 8, None, base)
    if method == "compressed-tensors":
        return _compressed_tensors(quantization, base)
    if method == "modelopt":
        return _modelopt(quantization)
    raise InputError(
        "quantization_config.quant_method",
        method,
        "one of awq, bitsandbytes, compressed-tensors, fbgemm_fp8, fp8, gptq, "
        "modelopt, mxfp4",
    )


def _fp8(block: object) -> WeightFormat:
    scale = 0.0
    if isinstance(block, list | tuple) and len(block) == 2:
        scale = _SCALE_BYTES / (block[0] * block[1])
    return WeightFormat(bytes_per_weight=1.0 + scale, compute_dtype=Dtype.FP8)


def _weight_only(
    bits: object, group: object, base: Dtype, *, is_symmetric: bool = False
) -> WeightFormat:
    """Integers unpacked to `base` in the kernel, a scale (and a zero) a group."""
    if bits not in (3, 4, 8):
        raise InputError("quantization_config.bits", bits, "3, 4 or 8")
    size = group if isinstance(group, int) and group > 0 else _DEFAULT_GROUP
    stored = int(str(bits)) / 8
    zero = 0.0 if is_symmetric else stored
    scale = (bytes_of(base) + zero) / size
    return WeightFormat(bytes_per_weight=stored + scale, compute_dtype=base)


def _compressed_tensors(quantization: Mapping[str, Any], base: Dtype) -> WeightFormat:
    groups = quantization.get("config_groups") or {}
    if not groups:
        raise InputError("quantization_config.config_groups", groups, "one group")
    group = next(iter(groups.values()))
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise InputError(
            "quantization_config.config_groups", groups, "groups with a weights object"
        )
    inputs = group.get("input_activations")
    bits, kind = weights.get("num_bits"), weights.get("type")
    if bits == 8 and kind == "float" and inputs:
        return _fp8(weights.get("block_structure"))
    if bits == 8 and kind == "int" and inputs:
        return WeightFormat(bytes_per_weight=1.0, compute_dtype=Dtype.INT8)
    if bits == 4 and kind == "float" and inputs:
        return WeightFormat(bytes_per_weight=_NVFP4_BYTES, compute_dtype=Dtype.FP4)
    if bits == 4 and kind == "float":
        return WeightFormat(bytes_per_weight=_MXFP4_BYTES, compute_dtype=base)
    return _weight_only(
        bits,
        weights.get("group_size"),
        base,
        is_symmetric=bool(weights.get("symmetric")),
    )


def _modelopt(quantization: Mapping[str, Any]) -> WeightFormat:
    inner = quantization.get("quantization") or quantization
    algorithm = str(inner.get("quant_algo", "")).upper()
    if algorithm.startswith("FP8"):
        return _fp8(None)
    if algorithm == "NVFP4":
        return WeightFormat(bytes_per_weight=_NVFP4_BYTES, compute_dtype=Dtype.FP4)
    raise InputError(
        "quantization_config.quant_algo", algorithm, "FP8, FP8_PB_WO or NVFP4"
    )


def _kv_dtype(quantization: Mapping[str, Any], base: Dtype) -> Dtype:
    scheme = quantization.get("kv_cache_scheme")
    bits = scheme.get("num_bits") if isinstance(scheme, Mapping) else None
    inner = quantization.get("quantization") or quantization
    named = {scheme if isinstance(scheme, str) else None}
    named.add(inner.get("kv_cache_quant_algo"))
    return Dtype.FP8 if bits == 8 or "FP8" in named else base
