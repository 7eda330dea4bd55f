"""Ceilings: the copy bandwidth and the matmul rates that plain kernels reach here.

Kernels are judged by their share of these, not of the datasheet's peaks.
"""

from functools import partial
from pathlib import Path

import torch

from profiler.environment import Device
from profiler.layers.linear import Fp8Linear, random_tensor, why_not_fp8
from profiler.layers.settings import LayerSettings
from profiler.rates import RateWriter
from profiler.timing import Step, TimingSettings

_CUDA_COPY_BYTES = 1 << 32
_CPU_COPY_BYTES = 1 << 26
_CUDA_WIDTH = 8192
_CPU_WIDTH = 512
_CPU_DTYPES = ("fp32",)
_CUDA_DTYPES = ("bf16", "fp16")

Trial = tuple[float, Step]
"""Bytes or FLOP of a run, and the run."""


def append_ceilings(
    device: Device,
    path: str | Path,
    *,
    timing: TimingSettings | None = None,
    gpu: str | None = None,
) -> tuple[str, ...]:
    """Append copy bandwidth (bytes read and written) and matmul rates to `path`.

    What the file has already is not measured again. Returns a line for each that could
    not be measured.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    where = device.torch_device
    copied = _CUDA_COPY_BYTES if device.is_cuda else _CPU_COPY_BYTES
    width = _CUDA_WIDTH if device.is_cuda else _CPU_WIDTH
    size = f"{width}x{width}x{width}"
    products = {
        dtype: partial(_matmul, where, width, dtype)
        for dtype in (_CUDA_DTYPES if device.is_cuda else _CPU_DTYPES)
    }
    if device.is_cuda and why_not_fp8(where, torch.bfloat16) is None:
        products["fp8"] = partial(_matmul_fp8, where, width)
    with RateWriter(device, path, timing=timing, gpu=gpu) as rates:
        copy = partial(_copy, where, copied)
        rates.time("copy", copy, rate_unit="bytes/s", size=f"{copied} bytes")
        for dtype, product in products.items():
            rates.time(f"matmul_{dtype}", product, rate_unit="FLOP/s", size=size)
        return tuple(rates.problems)


def _copy(where: torch.device, num_bytes: int) -> Trial:
    source = torch.ones(num_bytes, dtype=torch.int8, device=where)
    target = torch.empty_like(source)
    return 2.0 * num_bytes, lambda: target.copy_(source)


def _matmul(where: torch.device, width: int, dtype: str) -> Trial:
    torch_dtype = LayerSettings.torch_dtype(dtype)
    a = random_tensor(width, width, device=where, dtype=torch_dtype, scale=1.0)
    b = random_tensor(width, width, device=where, dtype=torch_dtype)
    out = torch.empty_like(a)
    return 2.0 * width**3, lambda: torch.mm(a, b.t(), out=out)


def _matmul_fp8(where: torch.device, width: int) -> Trial:
    linear = Fp8Linear(width, width, device=where, dtype=torch.bfloat16)
    x = random_tensor(width, width, device=where, dtype=torch.bfloat16, scale=1.0)
    return 2.0 * width**3, linear.product_of(x)
