"""Formats of a model that the layers under test have no kernels for.

Such weights, or such a KV cache, are measured in the format of the activations instead.
Their times are then those of a model that reads more bytes, and every record says so.
"""

from models.llm import LlmSpec, WeightFormat, bytes_of
from profiler.layers.settings import LayerSettings

_LOW_BYTES = 1.5
"""Weights below this are quantised."""
_FP8_BYTES = 0.9
"""Weights below this are narrower than fp8."""


def stand_ins(
    llm: LlmSpec, settings: LayerSettings, *, has_experts: bool
) -> tuple[str, ...]:
    """What is measured in another format than the model's, and in which.

    Parameters
    ----------
    llm
        The model.
    settings
        Device and kernels.
    has_experts
        Whether it is a layer with routed experts.

    Returns
    -------
    tuple of str
        E.g. ``bf16 for 8-bit experts``; empty when all is as the model has it.
    """
    precision = llm.precision
    weights: dict[str, WeightFormat] = {
        "attention": precision.attention,
        "output projection": precision.out,
    }
    if not has_experts or (llm.moe is not None and llm.moe.shared_intermediate):
        weights["feed-forward"] = precision.mlp
    found = {
        name: form.bytes_per_weight
        for name, form in weights.items()
        if form.bytes_per_weight < _LOW_BYTES
        and not (settings.is_fp8(form) and form.bytes_per_weight > _FP8_BYTES)
    }
    if has_experts and precision.experts.bytes_per_weight < _LOW_BYTES:
        found["experts"] = precision.experts.bytes_per_weight
    if bytes_of(precision.kv) < _LOW_BYTES:
        found["KV cache"] = bytes_of(precision.kv)
    return tuple(
        f"{settings.dtype_name} for {round(8 * each)}-bit {name}"
        for name, each in found.items()
    )
