"""Contention: a step on a share of the SMs, and steps that share a GPU.

Reference
    Duan et al., "MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM
    Serving", ICML 2024, arXiv 2404.02015: its cost table of LLaMA 7B to 65B on A100 at
    30 to 100 % of the SMs, which the coefficients are fitted to
    (`benchmarks/accuracy/muxserve_contention.py`).

Form
    A step that takes `whole` on all SMs moves bytes (`memory` at the GPU's rate), does
    arithmetic and exchanges with other GPUs. On a share s of the SMs it takes

        max(whole, memory / m(s) + arithmetic / a(s) + exchange)
        m(s) = (1 - exp(-s / memory_scale)) / (1 - exp(-1 / memory_scale))

    and a(s) alike: the part of the GPU's rates that the share reaches. Memory saturates
    early, arithmetic hardly: so a decode step can give SMs away, a prefill step cannot.
    Host time hides what the GPU loses as long as it takes longer.

    Steps at the same time take nothing from each other while their SMs, bytes and FLOPs
    add up to no more than the GPU has. SMs that are promised twice are shared in
    proportion. Where memory or arithmetic is asked for more than there is, that part of
    every step stretches by the same factor until it fits.

    The kernels of one engine leave gaps that those of another can use, so what the GPU
    gives to all together are the shares of its peaks that large kernels reach
    (`RooflineEfficiency`), not those fitted to one engine.

The table has no two steps at once: the stretch is conservation, not a fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clusters.fields import InputError, check_fields, spec
from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink
from clusters.mapping import from_mapping
from clusters.serde import read_mapping
from clusters.units import MS_PER_S
from models.communication import CommunicationEfficiency, all_reduce_ms
from models.flops import StageWork
from models.latency.efficiency import RooflineEfficiency
from models.latency.stretch import stretch_factors, stretched

_FILE = Path(__file__).parents[1] / "catalog" / "published" / "muxserve_contention.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDemand:
    """What a step asks of the GPU."""

    whole_ms: float = spec("Its time on all SMs.", unit="ms", gt=0)
    memory_ms: float = spec("Its bytes at its engine's rate.", unit="ms", ge=0)
    arithmetic_ms: float = spec("Its FLOPs at its engine's rate.", unit="ms", ge=0)
    exchange_ms: float = spec("Its collectives.", unit="ms", ge=0, default=0.0)
    least_memory_ms: float = spec(
        "Its bytes at the rate that all engines of the GPU reach together.",
        unit="ms",
        ge=0,
    )
    least_arithmetic_ms: float = spec(
        "Its FLOPs at the rate that they reach together.", unit="ms", ge=0
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmSharing:
    """The named coefficients, and how they were found."""

    source: str = spec("What they were fitted to.", default="")
    date: str = spec("When that was published.", default="")
    memory_frac: float = spec(
        "Rate of a step's bytes over the memory peak.", unit="1", gt=0, le=1
    )
    arithmetic_frac: float = spec(
        "Rate of a step's FLOPs over the tensor-core peak.", unit="1", gt=0, le=1
    )
    memory_scale: float = spec(
        "Share of the SMs on which the memory rate saturates.", unit="1", gt=0
    )
    arithmetic_scale: float = spec(
        "The same of arithmetic; above 1 it is nearly proportional.", unit="1", gt=0
    )
    decode_error_frac: float | None = spec(
        "Median error of decode on shares left out.", unit="1", ge=0, default=None
    )
    prefill_error_frac: float | None = spec(
        "Median error of prefill on shares left out.", unit="1", ge=0, default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def published(cls) -> "SmSharing":
        """Coefficients of A100 GPUs, which stand in for types nobody measured."""
        return _published()

    def memory_part(self, sm_share_frac: float) -> float:
        """Part of the memory rate that a share of the SMs reaches."""
        return _saturating(sm_share_frac, self.memory_scale)

    def arithmetic_part(self, sm_share_frac: float) -> float:
        """Part of the arithmetic rate that a share of the SMs reaches."""
        return _saturating(sm_share_frac, self.arithmetic_scale)

    def alone_ms(self, step: StepDemand, sm_share_frac: float) -> float:
        """Time of a step on a share of the SMs, with nothing beside it."""
        busy = (
            step.memory_ms / self.memory_part(sm_share_frac)
            + step.arithmetic_ms / self.arithmetic_part(sm_share_frac)
            + step.exchange_ms
        )
        return max(step.whole_ms, busy)

    def demand(
        self,
        work: StageWork,
        whole_ms: float,
        *,
        gpu: GpuType,
        dtype: Dtype,
        ring: tuple[GroupLink, int] | None = None,
    ) -> StepDemand:
        """What a step of a measured or modelled time asks of each GPU.

        Parameters
        ----------
        work
            FLOPs and bytes of one GPU.
        whole_ms
            Time on all SMs, in ms. Parts that overlap in it are scaled to fit.
        gpu, dtype
            The GPU, and the number format it multiplies in.
        ring
            Link and number of GPUs that share each layer; None: one GPU.
        """
        memory_ms = work.memory_bytes / gpu.memory_bytes_per_s * MS_PER_S
        peak_flops_per_s = gpu.flops_per_s(native_dtype(gpu, dtype))
        arithmetic_ms = work.flops / peak_flops_per_s * MS_PER_S
        exchange_ms = 0.0
        if ring is not None:
            link, num_gpus = ring
            exchange_ms = all_reduce_ms(
                work.all_reduce_bytes,
                link,
                num_gpus=num_gpus,
                efficiency=CommunicationEfficiency(),
            )
        own = (memory_ms / self.memory_frac, arithmetic_ms / self.arithmetic_frac)
        fitting = min(1.0, whole_ms / (sum(own) + exchange_ms))
        together = RooflineEfficiency()
        return StepDemand(
            whole_ms=whole_ms,
            memory_ms=own[0] * fitting,
            arithmetic_ms=own[1] * fitting,
            exchange_ms=exchange_ms * fitting,
            least_memory_ms=min(whole_ms, memory_ms / together.memory_frac),
            least_arithmetic_ms=min(whole_ms, arithmetic_ms / together.compute_frac),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A step that runs while others do."""

    sm_share_frac: float = spec("Most SMs it may use.", unit="1", gt=0, le=1)
    step: StepDemand = spec("What it asks for.")

    def __post_init__(self) -> None:
        check_fields(self)


def together_ms(jobs: Sequence[Job], sharing: SmSharing) -> tuple[float, ...]:
    """How long each step takes while all of them run on the same GPUs."""
    promised = max(1.0, sum(job.sm_share_frac for job in jobs))
    alone = [sharing.alone_ms(job.step, job.sm_share_frac / promised) for job in jobs]
    memory = [job.step.least_memory_ms for job in jobs]
    arithmetic = [job.step.least_arithmetic_ms for job in jobs]
    by_memory, by_arithmetic = stretch_factors(alone, memory, arithmetic, len(jobs))
    slowed = stretched(alone, memory, by_memory)
    return tuple(stretched(slowed, arithmetic, by_arithmetic))


def native_dtype(gpu: GpuType, dtype: Dtype) -> Dtype:
    """The format itself, or the 16-bit one that the GPU unpacks it to."""
    for candidate in (dtype, Dtype.BF16, Dtype.FP16):
        if candidate in gpu.dtypes:
            return candidate
    raise InputError("dtype", str(dtype), f"a native format of {gpu.name}")


def _saturating(share: float, scale: float) -> float:
    if not 0 < share <= 1:
        raise InputError("sm_share_frac", share, "a number > 0 and <= 1")
    return math.expm1(-share / scale) / math.expm1(-1.0 / scale)


@cache
def _published() -> SmSharing:
    return from_mapping(SmSharing, read_mapping(_FILE), file=str(_FILE))
