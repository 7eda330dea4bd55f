"""Elementwise steps between the products: norms, rotary positions, gates, fp8 rows.

Engines run each of them as one kernel. On CUDA they are fused by `torch.compile` where
that works (`fused`), otherwise they are a few kernels each; the records say which.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from profiler.features import Feature, why_left_out
from profiler.kernel_errors import KERNEL_ERRORS, first_line
from profiler.layers.linear import Quantise, quantise_rows

_TOLERANCE = 2e-2
_EPSILON = 1e-5
_ROTARY_BASE = 500000.0

logger = logging.getLogger(__name__)

Norm = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
Rotate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Gate = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Pointwise:
    """The elementwise steps, plain or fused."""

    add_norm: Norm
    rotate: Rotate
    gate: Gate
    quantise: Quantise
    is_fused: bool


def add_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the residual stream, and normalise the sum: (normalised, new residual)."""
    total = x + residual
    return functional.rms_norm(total, weight.shape, weight, _EPSILON), total


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions of `x` (tokens, heads, dim) with cos and sin (tokens, dim/2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def gate(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU: SiLU of the first half times the second half."""
    gated, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gated) * up


PLAIN = Pointwise(
    add_norm=add_norm,
    rotate=rotate,
    gate=gate,
    quantise=quantise_rows,
    is_fused=False,
)


def pointwise_for(
    device: torch.device, dtype: torch.dtype, *, has_fp8: bool = False
) -> tuple[Pointwise, str | None]:
    """Fused steps on a CUDA device whose results match the plain ones.

    Otherwise the plain ones, and why.
    """
    if device.type != "cuda":
        return PLAIN, "not fused on a CPU"
    fused = fused_pointwise(partial(torch.compile, dynamic=True))
    why_not = why_left_out(Feature.FUSED) or why_not_fused(
        fused, device, dtype, has_fp8=has_fp8
    )
    if why_not:
        logger.warning("elementwise steps are not fused: %s", why_not)
    return (PLAIN, why_not) if why_not else (fused, None)


def fused_pointwise(compiled: Callable[[Any], Any]) -> Pointwise:
    """The steps, each through a compiler."""
    _allow_many_shapes()
    return Pointwise(
        add_norm=compiled(add_norm),
        rotate=compiled(rotate),
        gate=compiled(gate),
        quantise=compiled(quantise_rows),
        is_fused=True,
    )


def why_not_fused(
    fused: Pointwise, device: torch.device, dtype: torch.dtype, *, has_fp8: bool
) -> str | None:
    """None when fused steps work and match the plain ones, or what went wrong."""
    try:
        # As the steps run: another mode would compile everything once more.
        with torch.inference_mode():
            return _difference(fused, device, dtype, has_fp8=has_fp8)
    # Compilers fail in many ways: no C compiler, no Triton, an unknown device.
    except KERNEL_ERRORS as error:
        return first_line(error)


def rotary_table(
    max_positions: int, dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position, shape (max_positions, dim / 2) each."""
    powers = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
    positions = torch.arange(max_positions, device=device, dtype=torch.float32)
    angles = torch.outer(positions, _ROTARY_BASE**-powers)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _allow_many_shapes() -> None:
    """Let one kernel serve all models: by default the compiler gives up after eight."""
    import torch._dynamo as dynamo
    import torch.fx.experimental._config as shapes

    for config, name, value in (
        (dynamo.config, "recompile_limit", 64),
        (dynamo.config, "cache_size_limit", 64),
        (shapes, "use_duck_shape", False),
    ):
        if hasattr(config, name):
            setattr(config, name, value)


def _difference(
    fused: Pointwise, device: torch.device, dtype: torch.dtype, *, has_fp8: bool
) -> str | None:
    """None, or which step differs from the plain one."""
    generator = torch.Generator(device=device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=dtype, generator=generator)

    # One token is compiled apart; the third size meets the dynamic shapes.
    for tokens in (1, 33, 130):
        x, residual, weight = draw(tokens, 256), draw(tokens, 256), draw(256)
        heads, angle = draw(tokens, 4, 64), draw(tokens, 32)
        calls: dict[str, tuple[Any, ...]] = {
            "add_norm": (x, residual, weight),
            "rotate": (heads, angle, angle),
            "gate": (x,),
        }
        if has_fp8:
            calls["quantise"] = (x,)
        for name, arguments in calls.items():
            ours = _first_tensor(getattr(PLAIN, name)(*arguments)).float()
            theirs = _first_tensor(getattr(fused, name)(*arguments)).float()
            # Written so that NaN never passes.
            if not float((ours - theirs).norm() / (ours.norm() + 1e-6)) < _TOLERANCE:
                return f"{name} of {tokens} tokens differs from the plain one"
    return None


def _first_tensor(found: Any) -> torch.Tensor:
    tensor: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return tensor
