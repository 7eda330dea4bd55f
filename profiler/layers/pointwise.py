"""Elementwise steps between the products: norms, rotary positions, gates.

Engines run each of them as one kernel. On CUDA they are fused by `torch.compile` where
that works (`fused`), otherwise they are a few kernels each; the records say which.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

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


PLAIN = Pointwise(add_norm=add_norm, rotate=rotate, gate=gate, is_fused=False)


def pointwise_for(device: torch.device, dtype: torch.dtype) -> Pointwise:
    """Fused steps on a CUDA device whose results match the plain ones, else plain."""
    if device.type != "cuda":
        return PLAIN
    _allow_many_shapes()
    fused = Pointwise(
        add_norm=torch.compile(add_norm, dynamic=True),
        rotate=torch.compile(rotate, dynamic=True),
        gate=torch.compile(gate, dynamic=True),
        is_fused=True,
    )
    try:
        # As the steps run: another mode would compile everything once more.
        with torch.inference_mode():
            agrees = _agree(fused, device, dtype)
    # Compilers fail in many ways: no C compiler, no Triton, an unknown device.
    except (RuntimeError, OSError, ImportError, AssertionError) as error:
        logger.warning("elementwise steps are not fused: %s", _first_line(error))
        return PLAIN
    return fused if agrees else PLAIN


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


def _agree(fused: Pointwise, device: torch.device, dtype: torch.dtype) -> bool:
    generator = torch.Generator(device=device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=dtype, generator=generator)

    # One token is compiled apart; the third size meets the dynamic shapes.
    for tokens in (1, 33, 130):
        x, residual, weight = draw(tokens, 256), draw(tokens, 256), draw(256)
        heads, angle = draw(tokens, 4, 64), draw(tokens, 32)
        pairs = [
            (add_norm(x, residual, weight)[0], fused.add_norm(x, residual, weight)[0]),
            (rotate(heads, angle, angle), fused.rotate(heads, angle, angle)),
            (gate(x), fused.gate(x)),
        ]
        for ours, theirs in pairs:
            scale = ours.float().norm() + 1e-6
            if float((ours.float() - theirs.float()).norm() / scale) > 2e-2:
                logger.warning("fused elementwise steps disagree with plain ones")
                return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
