"""Ceilings: the copy bandwidth and the matmul rates that plain kernels reach here.

Kernels are judged by their share of these, not of the datasheet's peaks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from clusters.fields import spec
from clusters.units import MS_PER_S
from models.profile_records import RateRecord
from models.profile_table import RecordWriter, read_profile_table
from profiler.cuda_clock import CudaClock
from profiler.environment import Device, conditions_of, environment_of
from profiler.layers.linear import Fp8Linear, random_tensor, why_not_fp8
from profiler.layers.settings import LayerSettings
from profiler.timing import CpuClock, DeviceClock, TimingSettings, measure

_CUDA_COPY_BYTES = 1 << 32
_CPU_COPY_BYTES = 1 << 26
_CUDA_WIDTH = 8192
_CPU_WIDTH = 512
_CPU_DTYPES = ("fp32",)
_CUDA_DTYPES = ("bf16", "fp16")


@dataclass(frozen=True, slots=True)
class _Trial:
    """One thing to time: what it moves or computes, and how."""

    name: str = spec("Name of the rate.")
    amount: float = spec("Bytes or FLOP of a run.", unit="as named")
    unit: str = spec("bytes/s or FLOP/s.")
    size: str = spec("In words.")
    step: Callable[[], object] = spec("The run.")


def measure_ceilings(
    device: Device, *, timing: TimingSettings | None = None, gpu: str | None = None
) -> tuple[RateRecord, ...]:
    """Copy bandwidth (bytes read and written) and matmul rates of the device."""
    clock: DeviceClock = CpuClock()
    if device.is_cuda:
        clock = CudaClock(device.torch_device)
    environment = environment_of(device, gpu=gpu)
    records = []
    for make in _trials(device):
        # Made one at a time: together they would not fit small devices.
        trial = make()
        found = measure(trial.step, clock, timing)
        records.append(
            RateRecord(
                environment=environment,
                name=trial.name,
                per_s=trial.amount / found.spread.ms * MS_PER_S,
                rate_unit=trial.unit,
                size=trial.size,
                spread=found.spread,
                conditions=conditions_of(device),
            )
        )
        del trial
    return tuple(records)


def append_ceilings(
    device: Device,
    path: str | Path,
    *,
    timing: TimingSettings | None = None,
    gpu: str | None = None,
) -> None:
    """Measure the ceilings and append them, unless the file has them already.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    if Path(path).exists() and read_profile_table(path).rates:
        return
    with RecordWriter(path) as writer:
        for record in measure_ceilings(device, timing=timing, gpu=gpu):
            writer.append(record)


def _trials(device: Device) -> list[Callable[[], _Trial]]:
    where = device.torch_device
    copied = _CUDA_COPY_BYTES if device.is_cuda else _CPU_COPY_BYTES
    width = _CUDA_WIDTH if device.is_cuda else _CPU_WIDTH
    dtypes = _CUDA_DTYPES if device.is_cuda else _CPU_DTYPES
    trials: list[Callable[[], _Trial]] = [lambda: _copy(where, copied)]
    trials += [partial(_matmul, where, width, name) for name in dtypes]
    if device.is_cuda and why_not_fp8(where, torch.bfloat16) is None:
        trials.append(lambda: _matmul_fp8(where, width))
    return trials


def _copy(where: torch.device, num_bytes: int) -> _Trial:
    source = torch.ones(num_bytes, dtype=torch.int8, device=where)
    target = torch.empty_like(source)
    return _Trial(
        name="copy",
        amount=2.0 * num_bytes,
        unit="bytes/s",
        size=f"{num_bytes} bytes",
        step=lambda: target.copy_(source),
    )


def _matmul(where: torch.device, width: int, dtype: str) -> _Trial:
    torch_dtype = LayerSettings.torch_dtype(dtype)
    a = random_tensor(width, width, device=where, dtype=torch_dtype, scale=1.0)
    b = random_tensor(width, width, device=where, dtype=torch_dtype)
    out = torch.empty_like(a)
    return _Trial(
        name=f"matmul_{dtype}",
        amount=2.0 * width**3,
        unit="FLOP/s",
        size=f"{width}x{width}x{width}",
        step=lambda: torch.mm(a, b.t(), out=out),
    )


def _matmul_fp8(where: torch.device, width: int) -> _Trial:
    linear = Fp8Linear(width, width, device=where, dtype=torch.bfloat16)
    x = random_tensor(width, width, device=where, dtype=torch.bfloat16, scale=1.0)
    return _Trial(
        name="matmul_fp8",
        amount=2.0 * width**3,
        unit="FLOP/s",
        size=f"{width}x{width}x{width}",
        step=linear.product_of(x),
    )
