"""Norms, activations, rotary, embedding and sampling: launches and memory traffic."""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S
from models.latency.operators.surface import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementwiseModel:
    """Time of memory-bound kernels."""

    launch_ms: float = spec("Fixed time of a kernel.", unit="ms", ge=0)
    memory_frac: float = spec(
        "Share of the memory peak they reach.", unit="1", gt=0, le=1
    )
    attention_launch_ms: float = spec(
        "Fixed time of each rotary, cache-write or norm kernel before prefill "
        "attention.",
        unit="ms",
        ge=0,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def ms(
        self, num_bytes: FloatArray, *, memory_bytes_per_s: float, num_kernels: int = 1
    ) -> FloatArray:
        """Time to move `num_bytes` in `num_kernels` kernels, in ms."""
        rate = self.memory_frac * memory_bytes_per_s
        return num_kernels * self.launch_ms + MS_PER_S * num_bytes / rate
