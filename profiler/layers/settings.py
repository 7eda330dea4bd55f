"""LayerSettings: how the layers under test are computed on a device."""

from dataclasses import dataclass

import torch

from clusters.fields import InputError
from clusters.gpu import Dtype
from models.llm import WeightFormat
from profiler.layers.linear import (
    Fp8Linear,
    Linear,
    PlainLinear,
    fits_fp8,
    why_not_fp8,
)
from profiler.layers.pointwise import PLAIN, Pointwise, pointwise_for

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """Device, format of the activations, and kernels."""

    device: torch.device
    dtype: torch.dtype
    has_fp8: bool = False
    pointwise: Pointwise = PLAIN
    why_plain: str | None = None
    """Why the elementwise steps are not fused."""

    @classmethod
    def for_device(cls, device: torch.device, dtype: str) -> "LayerSettings":
        """The best kernels that work on a device, for activations in `dtype`.

        They are compiled and proven once a process.
        """
        torch_dtype = cls.torch_dtype(dtype)
        key = (device, torch_dtype)
        if key not in _FOUND:
            has_fp8 = why_not_fp8(*key) is None
            pointwise, why_plain = pointwise_for(*key, has_fp8=has_fp8)
            _FOUND[key] = cls(*key, has_fp8, pointwise, why_plain)
        return _FOUND[key]

    @staticmethod
    def torch_dtype(name: str) -> torch.dtype:
        """Torch's format of that name.

        Raises
        ------
        InputError
            On another name than bf16, fp16 or fp32.
        """
        if name not in _DTYPES:
            raise InputError("dtype", name, f"one of {', '.join(_DTYPES)}")
        return _DTYPES[name]

    @property
    def dtype_name(self) -> str:
        """Its short name: bf16, fp16 or fp32."""
        return next(name for name, dtype in _DTYPES.items() if dtype is self.dtype)

    def is_fp8(self, weights: WeightFormat) -> bool:
        """Whether these weights are multiplied in fp8 here."""
        return self.has_fp8 and weights.compute_dtype is Dtype.FP8

    def linear(self, k: int, n: int, weights: WeightFormat | None = None) -> Linear:
        """A matrix, in fp8 where `weights` are, the device can and the widths fit."""
        if weights is not None and self.is_fp8(weights) and fits_fp8(k, n):
            quantise = self.pointwise.quantise
            return Fp8Linear(
                k, n, device=self.device, dtype=self.dtype, quantise=quantise
            )
        return PlainLinear(k, n, device=self.device, dtype=self.dtype)


_FOUND: dict[tuple[torch.device, torch.dtype], LayerSettings] = {}
