"""Which measured GPU stands in for one that was not, and in which of its operators.

Idea
    An engine's operators come from one system, which brings its collectives too: of the
    same microarchitecture, then the nearest peaks. Matrix products are compiled for a
    compute capability. Where the system has another one and products were profiled on
    a GPU of the right one (`PROFILED_KERNELS`: an A40, which has the chip of an A6000),
    they come from there.

    The system itself is not chosen by compute capability: a B200 is nearer to a B300
    than to a GB200, which has its chip but other links and hosts (13 % instead of 15 %
    at the 90th percentile of dense steps).
"""

import math
from functools import lru_cache

from clusters.gpu import GpuType
from models.latency.fit_file import ENGINES, EngineFit, load_fit, shipped_systems

PROFILED_KERNELS = "vidur"
"""Kernels of 2023 profiled one by one, on an A40 too; no serving engine's."""
_OTHER_VENDORS = frozenset({"xe2"})
"""Architectures whose efficiency says nothing about NVIDIA GPUs."""


@lru_cache(maxsize=256)
def nearest_relative(
    gpu: GpuType, engine: str, without: tuple[str, ...] = ()
) -> str | None:
    """The measured system whose efficiency stands in for `gpu`: itself if measured.

    Otherwise the same vendor, the same architecture if there is one, then the nearest
    memory and compute peaks.
    """
    systems = [name for name in shipped_systems(engine) if name not in without]
    if gpu.name in systems:
        return gpu.name
    if gpu.vendor != "nvidia":
        return None
    fits = [load_fit(system, engine) for system in systems]
    known = [fit for fit in fits if fit.architecture not in _OTHER_VENDORS]
    if not known:
        return None
    return min(known, key=lambda fit: _distance(fit, gpu)).system


@lru_cache(maxsize=256)
def products_fit(
    gpu: GpuType, engine: str, without: tuple[str, ...] = ()
) -> EngineFit | None:
    """Fits of matrix products nearer to `gpu` than its relative's, None without any."""
    system = nearest_relative(gpu, engine, without)
    if system is None or system == gpu.name or has_capability_of(system, gpu):
        return None
    for twin in shipped_systems(PROFILED_KERNELS):
        if twin not in without and has_capability_of(twin, gpu):
            return load_fit(twin, PROFILED_KERNELS)
    return None


@lru_cache(maxsize=256)
def peers_of(system: str, engine: str) -> tuple[EngineFit, ...]:
    """Fits of the other engines on a system: their products run the same libraries.

    An engine takes cuBLAS, CUTLASS, DeepGEMM or FlashInfer by what is quickest for a
    shape. A benchmark of one layer of it may have measured another, or with the
    quantisation of its input as a kernel apart, which engines fuse with the norm or
    the activation before.
    """
    return tuple(
        load_fit(system, other)
        for other in ENGINES
        if other != engine and system in shipped_systems(other)
    )


@lru_cache(maxsize=256)
def weaker_fits(
    system: str, engine: str, without: tuple[str, ...] = ()
) -> tuple[EngineFit, ...]:
    """Fits of an engine on systems of one microarchitecture with no higher peaks.

    What runs there runs on `system`, and no slower: a longer time was measured on
    another kernel than the engine would choose.
    """
    own = load_fit(system, engine)
    found = []
    for name in shipped_systems(engine):
        fit = load_fit(name, engine)
        if (
            name not in (system, *without)
            and fit.architecture == own.architecture
            and fit.memory_bytes_per_s <= own.memory_bytes_per_s
            and fit.flops_per_s["bf16"] <= own.flops_per_s["bf16"]
        ):
            found.append(fit)
    return tuple(found)


@lru_cache(maxsize=256)
def experts_fit(system: str, engine: str) -> EngineFit | None:
    """Fits of another engine there whose experts' kernels a server takes, if measured.

    Servers name a backend of the experts: FlashInfer's and TensorRT-LLM's own are the
    same kernels, in whichever engine they were measured.
    """
    return load_fit(system, engine) if system in shipped_systems(engine) else None


def has_capability_of(system: str, gpu: GpuType) -> bool:
    """Whether a measured system has the compute capability of `gpu`, if stated."""
    wanted = gpu.compute_capability
    return wanted is not None and GpuType.load(system).compute_capability == wanted


def _distance(fit: EngineFit, gpu: GpuType) -> tuple[bool, float]:
    memory = math.log(fit.memory_bytes_per_s / gpu.memory_bytes_per_s)
    rates = {str(rate.dtype): rate.flops_per_s for rate in gpu.flops}
    half = rates.get("bf16", rates.get("fp16", rates.get("fp32", 1.0)))
    compute = math.log(fit.flops_per_s["bf16"] / half)
    return fit.architecture != gpu.architecture, abs(memory) + abs(compute)
