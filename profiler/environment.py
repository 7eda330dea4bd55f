"""Environment: what device this is, in which versions and in which state."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from clusters.fields import InputError, spec
from clusters.units import MIB
from models.profile_records import Conditions, Environment

_GPU_NAMES = (
    ("H200", "h200_sxm"),
    ("H100 PCIe", "h100_pcie"),
    ("H100", "h100_sxm"),
    ("H20", "h20"),
    ("B200", "b200_sxm"),
    ("B300", "b300_sxm"),
    ("A100-SXM4-40GB", "a100_sxm_40gb"),
    ("A100-PCIE-40GB", "a100_pcie_40gb"),
    ("A100 80GB PCIe", "a100_pcie"),
    ("A100-SXM4-80GB", "a100_sxm"),
    ("A10G", "a10g"),
    ("L40S", "l40s"),
    ("RTX A6000", "a6000"),
    ("V100-SXM2", "v100_sxm"),
    ("Tesla T4", "t4"),
    ("NVIDIA L4", "l4"),
)
"""Part of the driver's name to the catalogue's, first match first."""
_SMI_LIMIT_S = 10.0
_FOREIGN_BYTES = 512 * MIB
"""More memory than this held by others is another process, not the driver's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device to measure on."""

    kind: str = spec("cuda or cpu.")
    index: int = spec("CUDA device index.", unit="1", ge=0, default=0)

    @classmethod
    def open(cls, wanted: str) -> "Device":
        """The device of that name: ``auto``, ``cuda``, ``cuda:1`` or ``cpu``.

        Raises
        ------
        InputError
            When there is no such device.
        """
        name, _, index = wanted.partition(":")
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            return cls(kind="cpu")
        if name != "cuda" or (index and not index.isdigit()):
            raise InputError("--device", wanted, "auto, cpu, cuda or cuda:N")
        if not torch.cuda.is_available():
            form = "cpu: torch finds no CUDA device here"
            raise InputError("--device", wanted, form)
        number = int(index or 0)
        if number >= torch.cuda.device_count():
            form = f"a device below {torch.cuda.device_count()}"
            raise InputError("--device", wanted, form)
        torch.cuda.set_device(number)
        return cls(kind="cuda", index=number)

    @property
    def torch_device(self) -> "torch.device":
        """As torch names it."""
        if self.kind == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", self.index)

    @property
    def is_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return self.kind == "cuda"

    def is_usable(self) -> bool:
        """Whether it still computes: an illegal access ends that for a process."""
        try:
            return float(torch.ones(2, device=self.torch_device).sum()) == 2.0
        except RuntimeError:
            return False

    def free_bytes(self) -> int:
        """Memory that is free now."""
        if self.is_cuda:
            torch.cuda.empty_cache()
            return int(torch.cuda.mem_get_info(self.index)[0])
        return _cpu_memory_bytes("MemAvailable")


def environment_of(device: Device, *, gpu: str | None = None) -> Environment:
    """The environment of a device; `gpu` overrides the catalogue name."""
    if not device.is_cuda:
        return Environment(
            device="cpu",
            device_name=_cpu_name(),
            gpu=gpu or "cpu",
            memory_bytes=_cpu_memory_bytes("MemTotal"),
            torch=str(torch.__version__),
        )
    properties = torch.cuda.get_device_properties(device.index)
    return Environment(
        device="cuda",
        device_name=properties.name,
        gpu=gpu or catalog_name(properties.name),
        memory_bytes=int(properties.total_memory),
        num_sms=int(properties.multi_processor_count),
        driver=_driver(),
        cuda=str(torch.version.cuda),
        torch=str(torch.__version__),
    )


def catalog_name(device_name: str) -> str:
    """The catalogue's name of a GPU, or the driver's own in lower case."""
    for part, name in _GPU_NAMES:
        if part.lower() in device_name.lower():
            return name
    return "_".join(device_name.lower().split())


def conditions_of(device: Device) -> Conditions:
    """Clocks, power and temperature now; what cannot be read stays None."""
    handle = _nvml_handle(device.index) if device.is_cuda else None
    if handle is None:
        return Conditions()
    nvml = _nvml()

    def read(name: str, *arguments: Any) -> float | None:
        try:
            return float(getattr(nvml, name)(handle, *arguments))
        except (AttributeError, nvml.NVMLError):
            return None

    milliwatts = _instant_milliwatts(nvml, handle)
    if milliwatts is None:
        milliwatts = read("nvmlDeviceGetPowerUsage")
    return Conditions(
        sm_clock_mhz=read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        memory_clock_mhz=read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        power_w=None if milliwatts is None else milliwatts * 1e-3,
        temperature_c=read("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
    )


def _instant_milliwatts(nvml: Any, handle: Any) -> float | None:
    """Power now: the usual call gives the mean of a second on recent GPUs."""
    try:
        kind = nvml.NVML_FI_DEV_POWER_INSTANT
        (found,) = nvml.nvmlDeviceGetFieldValues(handle, [kind])
    except (AttributeError, TypeError, ValueError, nvml.NVMLError):
        return None
    return float(found.value.uiVal) if found.nvmlReturn == 0 else None


def other_users(device: Device, *, own_bytes: int = 2 * _FOREIGN_BYTES) -> str | None:
    """Who else is on the device, or None: measurements would be blurred.

    Memory tells: what is neither free nor this process's own. The driver names the
    processes where it can (within a container they may have other numbers).

    Parameters
    ----------
    device
        Where to look.
    own_bytes
        What contexts and loaded kernels of this process may take beside its tensors.
    """
    if not device.is_cuda:
        return None
    free, total = torch.cuda.mem_get_info(device.index)
    foreign = total - free - torch.cuda.memory_reserved(device.index)
    if foreign > own_bytes:
        held = f"{foreign / MIB:.0f} MiB of the GPU are held by other processes"
        others = [str(pid) for pid in _processes(device) if pid != os.getpid()]
        return f"{held} (pid {', '.join(others)})" if others else held
    return None


def _processes(device: Device) -> list[int]:
    """Processes that compute on the device, as far as the driver tells."""
    handle = _nvml_handle(device.index)
    if handle is None:
        return []
    nvml = _nvml()
    try:
        found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return []
    return sorted(int(each.pid) for each in found)


@cache
def _nvml() -> Any:
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


@cache
def _nvml_handle(index: int) -> Any:
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except (AttributeError, nvml.NVMLError):
        pass
    try:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError:
        return None


@cache
def _driver() -> str:
    nvml = _nvml()
    if nvml is not None:
        try:
            found = nvml.nvmlSystemGetDriverVersion()
        except nvml.NVMLError:
            return ""
        return found.decode() if isinstance(found, bytes) else str(found)
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, check=True, timeout=_SMI_LIMIT_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout else ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def _cpu_memory_bytes(key: str) -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    return 0
