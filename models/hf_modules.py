"""Which parts of a model a quantisation leaves alone, from its list of modules.

Tools write these lists as full names, ends of names, names with ``*``, or regular
expressions behind ``re:``, for every layer or for some. Layers in the middle of the
model speak for all: the first and last are often exceptions, and kinds alternate.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from clusters.fields import InputError


class Part(StrEnum):
    """Parts of a layer that have a weight format of their own."""

    ATTENTION = "attention"
    ATTENTION_OUT = "attention_out"
    MLP = "mlp"
    EXPERTS = "experts"


_PREFIXES = (
    "model.layers",
    "language_model.model.layers",
    "model.language_model.layers",
)
_MODULES: dict[Part, tuple[str, ...]] = {
    Part.ATTENTION: (
        "self_attn.q_proj",
        "self_attn.qkv_proj",
        "self_attn.q_a_proj",
        "self_attn.q_b_proj",
    ),
    Part.ATTENTION_OUT: ("self_attn.o_proj",),
    Part.MLP: (
        "mlp.gate_proj",
        "mlp.gate_up_proj",
        "mlp.up_proj",
        "mlp.shared_expert.gate_proj",
        "mlp.shared_experts.gate_proj",
    ),
    Part.EXPERTS: (
        "mlp.experts.0.gate_proj",
        "block_sparse_moe.experts.0.w1",
    ),
}


def parts_left_out(
    patterns: Iterable[str], *, layers: Sequence[int]
) -> frozenset[Part]:
    """Parts with a module, in one of `layers`, that one of `patterns` names."""
    matchers = [_matcher(pattern) for pattern in patterns]
    return frozenset(
        part
        for part, modules in _MODULES.items()
        if any(
            matcher(f"{prefix}.{layer}.{module}")
            for matcher in matchers
            for layer in layers
            for prefix in _PREFIXES
            for module in modules
        )
    )


def _matcher(pattern: str) -> Callable[[str], object]:
    """Whether a full module name is meant; a module covers what lies below it.

    Raises
    ------
    InputError
        On a regular expression that cannot be read.
    """
    if not pattern.startswith("re:"):
        wild = re.escape(pattern).replace(r"\*", ".*")
        return re.compile(rf"(^|\.){wild}(\.|$)").search
    try:
        return re.compile(pattern.removeprefix("re:")).match
    except re.error as error:
        raise InputError(
            "quantization_config", pattern, f"a regular expression ({error})"
        ) from None
