"""Linear: a weight matrix in the format it is served in, and its product."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn import functional

from profiler.features import Feature, why_left_out
from profiler.kernel_errors import KERNEL_ERRORS, first_line

_FP8 = torch.float8_e4m3fn
_FP8_MAX = 448.0
_FP8_MULTIPLE = 16
"""Widths that the scaled product takes."""
_INIT = 0.02


class Linear(Protocol):
    """A product with a weight matrix."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Product of the rows of `x` (tokens, k): (tokens, n)."""
        ...


class PlainLinear:
    """Weights in the format of the activations."""

    def __init__(
        self, k: int, n: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.weight = random_tensor(n, k, device=device, dtype=dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.weight.numel() * self.weight.element_size()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Product of the rows of `x`."""
        return functional.linear(x, self.weight)


class Fp8Linear:
    """Weights in fp8 with one scale a row; activations are quantised on the way in."""

    def __init__(
        self,
        k: int,
        n: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        quantise: "Quantise | None" = None,
    ) -> None:
        weight = random_tensor(n, k, device=device, dtype=dtype)
        scale = weight.abs().amax(dim=1, keepdim=True).float() / _FP8_MAX
        self.weight = (weight / scale.to(dtype)).to(_FP8)
        self._scale = scale.t().contiguous()
        self._dtype = dtype
        self._quantise = quantise or quantise_rows

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.weight.numel() * self.weight.element_size()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Product of the rows of `x`, each quantised with its own scale."""
        return self._product(*self._quantise(x))

    def product_of(self, x: torch.Tensor) -> Callable[[], torch.Tensor]:
        """The product alone, of rows quantised beforehand."""
        quantised, scale = quantise_rows(x)
        return lambda: self._product(quantised, scale)

    def exact_weight(self) -> torch.Tensor:
        """The matrix that the fp8 weights stand for, shape (n, k)."""
        return self.weight.float() * self._scale.t()

    def _product(self, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(  # noqa: SLF001  (torch's only fp8 product)
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self._scale,
            out_dtype=self._dtype,
            # As serving engines do: sums stay in the tensor cores for longer.
            use_fast_accum=True,
        )


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` in fp8 and the scale of each row, shape (tokens, 1)."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-6) / _FP8_MAX
    return (x / scale.to(x.dtype)).clamp(-_FP8_MAX, _FP8_MAX).to(_FP8), scale


Quantise = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Rows (tokens, k) -> rows in fp8 and their scales (tokens, 1)."""


def fits_fp8(k: int, n: int) -> bool:
    """Whether the scaled product takes a matrix of these widths."""
    return k % _FP8_MULTIPLE == 0 and n % _FP8_MULTIPLE == 0


def why_not_fp8(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why fp8 products do not work on this device, or None when they do."""
    if dtype is not torch.bfloat16:
        return "fp8 products give bf16 here"
    if left_out := why_left_out(Feature.FP8):
        return left_out
    try:
        linear = Fp8Linear(64, 32, device=device, dtype=dtype)
        x = random_tensor(17, 64, device=device, dtype=dtype)
        found = linear(x).float()
        exact = x.float() @ linear.exact_weight().t()
        error_frac = float((found - exact).norm() / exact.norm())
    except KERNEL_ERRORS as error:
        return first_line(error)
    # Written so that NaN never passes.
    return None if error_frac < 0.1 else f"fp8 products are off by {error_frac:.0%}"


def random_tensor(
    *shape: int, device: torch.device, dtype: torch.dtype, scale: float = _INIT
) -> torch.Tensor:
    """Normal values of a serving model's size: zeros would run faster than data."""
    generator = torch.Generator(device=device).manual_seed(sum(shape))
    drawn = torch.empty(shape, device=device, dtype=dtype)
    return drawn.normal_(0.0, scale, generator=generator)
