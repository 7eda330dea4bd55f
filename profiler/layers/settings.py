"""LayerSettings: how the layers under test are computed on a device."""

from dataclasses import dataclass

import torch

from clusters.fields import InputError
from clusters.gpu import Dtype
from models.llm import WeightFormat
from profiler.layers.linear import why_not_fp8
from profiler.layers.pointwise import PLAIN, Pointwise, pointwise_for

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """Device, format of the activations, and kernels."""

    device: torch.device
    dtype: torch.dtype
    has_fp8: bool = False
    pointwise: Pointwise = PLAIN

    @classmethod
    def for_device(cls, device: torch.device, dtype: str) -> "LayerSettings":
        """The best kernels that work on a device, for activations in `dtype`."""
        torch_dtype = cls.torch_dtype(dtype)
        return cls(
            device=device,
            dtype=torch_dtype,
            has_fp8=why_not_fp8(device, torch_dtype) is None,
            pointwise=pointwise_for(device, torch_dtype),
        )

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
