"""Linear: a weight matrix in the format it is served in, and its product."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn import functional

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
        self, k: int, n: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        weight = random_tensor(n, k, device=device, dtype=dtype)
        scale = weight.abs().amax(dim=1, keepdim=True).float() / _FP8_MAX
        self.weight = (weight / scale.to(dtype)).to(_FP8)
        self._scale = scale.t().contiguous()
        self._dtype = dtype

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.weight.numel() * self.weight.element_size()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Product of the rows of `x`, each quantised with its own scale."""
        return self._product(*quantise_rows(x))

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
        )


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` in fp8 and the scale of each row, shape (tokens, 1)."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-6) / _FP8_MAX
    return (x / scale.to(x.dtype)).clamp(-_FP8_MAX, _FP8_MAX).to(_FP8), scale


def make_linear(
    k: int, n: int, *, device: torch.device, dtype: torch.dtype, is_fp8: bool
) -> Linear:
    """A matrix in fp8 where its widths allow it, otherwise in `dtype`."""
    if is_fp8 and k % _FP8_MULTIPLE == 0 and n % _FP8_MULTIPLE == 0:
        return Fp8Linear(k, n, device=device, dtype=dtype)
    return PlainLinear(k, n, device=device, dtype=dtype)


def why_not_fp8(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why fp8 products do not work on this device, or None when they do."""
    if dtype is not torch.bfloat16:
        return "fp8 products give bf16 here"
    try:
        linear = Fp8Linear(64, 32, device=device, dtype=dtype)
        x = random_tensor(17, 64, device=device, dtype=dtype)
        found = linear(x)
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    exact = x.float() @ linear.exact_weight().t()
    if float((found.float() - exact).norm() / exact.norm()) > 0.1:
        return "fp8 products are wrong on this device"
    return None


def random_tensor(
    *shape: int, device: torch.device, dtype: torch.dtype, scale: float = _INIT
) -> torch.Tensor:
    """Normal values of a serving model's size: zeros would run faster than data."""
    generator = torch.Generator(device=device).manual_seed(sum(shape))
    drawn = torch.empty(shape, device=device, dtype=dtype)
    return drawn.normal_(0.0, scale, generator=generator)
