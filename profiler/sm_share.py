"""SM share: run steps on a part of the GPU, in one of three ways.

- ``green-context``: the CUDA driver sets streaming multiprocessors (SMs) apart, and
  what runs on a stream of that context runs on them (driver 12.4 or newer, through
  cuda-python, which also tells how many SMs it got).
- ``mps``, ``omp-threads``: the share that this process was started with, because CUDA
  MPS and OpenMP read theirs from the environment once (`sm_share_processes`).
- ``threads``: a part of the threads of a CPU, so that every line runs without a GPU.

Reference
    Duan et al., "MuxServe", ICML 2024 (SM shares by MPS). NVIDIA, CUDA Driver API,
    "Green Contexts": the driver rounds a number of SMs up to what it can set apart.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any, Protocol

import torch

from clusters.fields import InputError
from profiler.environment import Device
from profiler.features import Feature, why_left_out
from profiler.kernel_errors import KERNEL_ERRORS, first_line
from profiler.layers.linear import random_tensor
from profiler.steps import capture
from profiler.timing import DeviceClock, TimingSettings, measure

MPS_VARIABLE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
THREADS_VARIABLE = "OMP_NUM_THREADS"
_PERCENT = 100.0
_PROOF_WIDTHS = {"cuda": 4096, "cpu": 512}
_PROOF_FRAC = 0.3
"""Of the slowdown that a product would show if it took 1/share as long, this much must
be seen, or the share is not believed."""
_PROOF_TIMING = TimingSettings(target_ci_frac=0.05, max_s=0.5, num_tries=1)


class SmLimiter(Protocol):
    """Something that confines what runs to a share of the device."""

    @property
    def name(self) -> str:
        """How it does it, for the records."""
        ...

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares below 1 that it can give, largest first."""
        ...

    @property
    def confines_process(self) -> bool:
        """Whether nothing here can run on the whole device."""
        ...

    def limited(self, share: float) -> AbstractContextManager[None]:
        """A block in which steps run on that share, one of `shares`."""
        ...


class GreenContexts:
    """Streams of green contexts, one a share.

    Parameters
    ----------
    device
        A CUDA device.
    wanted
        Shares to ask for; the driver rounds them up, `shares` has what it gave.

    Raises
    ------
    RuntimeError
        When driver or bindings offer no green contexts; the message says which call.
    ImportError
        Without cuda-python.
    """

    name = "green-context"
    confines_process = False

    def __init__(self, device: Device, wanted: Sequence[float]) -> None:
        driver: Any = import_module("cuda.bindings.driver")
        self._driver = driver
        # The primary context must be there before one is cut out of it.
        torch.cuda.synchronize(device.index)
        cuda_device = self._call("cuDeviceGet", device.index)
        kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
        whole = self._call("cuDeviceGetDevResource", cuda_device, kind)
        total = int(whole.sm.smCount)
        self._streams: dict[float, torch.cuda.Stream] = {}
        for share in wanted:
            groups = self._call(
                "cuDevSmResourceSplitByCount", 1, whole, 0, max(1, round(share * total))
            )
            part = groups[0][0]
            given = int(part.sm.smCount) / total
            if given < 1.0 and given not in self._streams:
                self._streams[given] = self._stream(device, cuda_device, part)

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares that the driver gave, largest first."""
        return tuple(sorted(self._streams, reverse=True))

    @contextmanager
    def limited(self, share: float) -> Iterator[None]:
        """A block in which the current stream is that of the green context."""
        torch.cuda.synchronize()
        with torch.cuda.stream(self._streams[share]):
            yield
        torch.cuda.synchronize()

    def _stream(self, device: Device, cuda_device: Any, part: Any) -> Any:
        flags = self._driver
        described = self._call("cuDevResourceGenerateDesc", [part], 1)
        context = self._call(
            "cuGreenCtxCreate",
            described,
            cuda_device,
            flags.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM,
        )
        stream = self._call(
            "cuGreenCtxStreamCreate",
            context,
            flags.CUstream_flags.CU_STREAM_NON_BLOCKING,
            0,
        )
        return torch.cuda.ExternalStream(int(stream), device=device.torch_device)

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a driver call gives beside its status."""
        function = getattr(self._driver, name, None)
        if function is None:
            raise RuntimeError(f"cuda-python has no {name}")
        status, *found = function(*arguments)
        if int(status) != 0:
            raise RuntimeError(f"{name}: {status!s}")
        return found[0] if len(found) == 1 else found


class OwnProcess:
    """The share that this process was started with, as its environment says.

    Raises
    ------
    InputError
        When the environment names no share below 1.
    """

    confines_process = True

    def __init__(self, device: Device) -> None:
        self.name = "mps" if device.is_cuda else "omp-threads"
        share = own_share(device)
        if share >= 1.0:
            variable = MPS_VARIABLE if device.is_cuda else THREADS_VARIABLE
            raise InputError(variable, os.environ.get(variable), "less than all")
        self.shares = (share,)

    @contextmanager
    def limited(self, share: float) -> Iterator[None]:
        """Nothing to do: the whole process has the share."""
        if share not in self.shares:
            raise ValueError(f"this process has {self.shares}, not {share:g}")
        yield


class CpuThreads:
    """Some of the threads that torch has on a CPU."""

    name = "threads"
    confines_process = False

    def __init__(self, wanted: Sequence[float]) -> None:
        self._total = torch.get_num_threads()
        counts = {max(1, round(share * self._total)) for share in wanted}
        self.shares = tuple(
            count / self._total
            for count in sorted(counts, reverse=True)
            if count < self._total
        )

    @contextmanager
    def limited(self, share: float) -> Iterator[None]:
        """A block in which torch uses that share of the threads."""
        torch.set_num_threads(max(1, round(share * self._total)))
        try:
            yield
        finally:
            torch.set_num_threads(self._total)


def limiter_for(
    device: Device, wanted: Sequence[float], clock: DeviceClock
) -> tuple[SmLimiter | None, str]:
    """A limiter that works within this process, or None; and how, or why not.

    It counts as working when a matrix product takes visibly longer on the smallest
    share: a share that is not enforced would be a wrong number, not a missing one.
    """
    if left_out := why_left_out(Feature.SM_SHARES):
        return None, left_out
    try:
        limiter: SmLimiter = (
            GreenContexts(device, wanted) if device.is_cuda else CpuThreads(wanted)
        )
        if not limiter.shares:
            return None, f"{limiter.name}: no share below the whole device"
        why_not = why_not_enforced(limiter, device, clock)
    except KERNEL_ERRORS as error:
        return None, f"{type(error).__name__}: {first_line(error)}"
    return (None, why_not) if why_not else (limiter, limiter.name)


def why_not_enforced(
    limiter: SmLimiter, device: Device, clock: DeviceClock
) -> str | None:
    """None when a matrix product is slower on the smallest share, or what was seen."""
    share = min(limiter.shares)
    width = _PROOF_WIDTHS[device.kind]
    dtype = torch.bfloat16 if device.is_cuda else torch.float32
    a = random_tensor(width, width, device=device.torch_device, dtype=dtype)

    def product_ms() -> float:
        # Captured as steps are: a graph could forget where it was captured.
        step = capture(lambda: a @ a) if device.is_cuda else lambda: a @ a
        return measure(step, clock, _PROOF_TIMING).spread.ms

    whole = product_ms()
    with limiter.limited(share):
        part = product_ms()
    least = least_slowdown(share)
    if part >= least * whole:
        return None
    return (
        f"{limiter.name}: a product on {share:.0%} of the SMs took {part / whole:.2f} "
        f"times as long as on all, less than {least:.2f}: the share is not enforced"
    )


def least_slowdown(share: float) -> float:
    """How much longer work bound by arithmetic must take on a share, to be believed."""
    return 1.0 + _PROOF_FRAC * (1.0 / share - 1.0)


def own_share(device: Device) -> float:
    """The share that this process was confined to when it was started."""
    if device.is_cuda:
        return min(1.0, (_number_in(MPS_VARIABLE) or _PERCENT) / _PERCENT)
    processors = num_processors()
    return min(1.0, (_number_in(THREADS_VARIABLE) or processors) / processors)


def num_processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _number_in(variable: str) -> float | None:
    try:
        found = float(os.environ.get(variable, ""))
    except ValueError:
        return None
    return found if found > 0 else None
