"""Who else is on the device: told by memory, named by the driver."""

import os
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from profiler import environment  # noqa: E402
from profiler.environment import Device, conditions_of, other_users  # noqa: E402

GPU = Device(kind="cuda", index=0)
GIB = 1 << 30


class NvmlError(Exception):
    """What the library raises."""


class Nvml:
    """`pynvml` of a device that is not there."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, pids: tuple[int, ...] = ()) -> None:
        self.pids = pids

    def nvmlDeviceGetComputeRunningProcesses(
        self, handle: object
    ) -> list[SimpleNamespace]:
        assert handle == "gpu"
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def nvmlDeviceGetClockInfo(self, _: object, kind: int) -> int:
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetPowerUsage(self, _: object) -> int:
        return 650_000

    def nvmlDeviceGetTemperature(self, _: object, __: int) -> int:
        raise NvmlError


def device_with(
    monkeypatch: pytest.MonkeyPatch, *, used: int, reserved: int, nvml: Nvml | None
) -> None:
    total = 140 * GIB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (total - used, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved)
    monkeypatch.setattr(environment, "_nvml", lambda: nvml)
    handle = None if nvml is None else "gpu"
    monkeypatch.setattr(environment, "_nvml_handle", lambda _: handle)


def test_own_memory_and_context_are_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 60 GiB reserved by this process, and half a GiB for its context.
    used = 60 * GIB + GIB // 2
    device_with(monkeypatch, used=used, reserved=60 * GIB, nvml=Nvml((77,)))
    assert other_users(GPU) is None
    assert other_users(Device(kind="cpu")) is None


def test_contexts_and_kernels_are_allowed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device_with(monkeypatch, used=4 * GIB, reserved=GIB, nvml=None)
    assert other_users(GPU) == "3072 MiB of the GPU are held by other processes"
    assert other_users(GPU, own_bytes=3 * GIB) is None


def test_memory_of_others_is_told_with_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml = Nvml((4711, os.getpid(), 42))
    device_with(monkeypatch, used=20 * GIB, reserved=2 * GIB, nvml=nvml)
    found = other_users(GPU)
    assert found == "18432 MiB of the GPU are held by other processes (pid 42, 4711)"


def test_without_the_library_memory_tells_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device_with(monkeypatch, used=20 * GIB, reserved=2 * GIB, nvml=None)
    assert other_users(GPU) == "18432 MiB of the GPU are held by other processes"
    assert conditions_of(GPU) == conditions_of(Device(kind="cpu"))


def test_conditions_are_what_the_driver_reads_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device_with(monkeypatch, used=0, reserved=0, nvml=Nvml())
    found = conditions_of(GPU)
    assert (found.sm_clock_mhz, found.memory_clock_mhz) == (1980.0, 3201.0)
    assert found.power_w == pytest.approx(650.0)
    # The call failed: not read is not zero.
    assert found.temperature_c is None
