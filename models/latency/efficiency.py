"""Efficiency factors of the roofline: each a share of a peak or a fixed cost, named."""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from models.communication import CommunicationEfficiency


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineEfficiency:
    """What kernels and engines leave of the datasheet peaks.

    Provenance: defaults sit in the middle of profiled operators (Vidur, MLSys 2024,
    released profiles of Llama-2 on A100 and H100): linears at 4096 tokens reach 238-241
    of 312 TFLOP/s (A100) and 690-746 of 989 (H100); weights stream at 1.4-1.6 of 2.04
    TB/s and 2.45-2.9 of 3.35; decode attention reads 1.3-1.9 TB/s on A100 after a floor
    of 9-17 us. The low-bit share is set to fp8 step latencies on H100 and H200 built
    from the measured operators of the package aiconfigurator-core (2026). The step
    overhead is an assumption of ours (host-side scheduling and sampling of a current
    engine with CUDA graphs).
    """

    compute_frac: float = spec(
        "Rate of a large GEMM over the tensor-core peak.",
        unit="1",
        gt=0,
        le=1,
        default=0.76,
    )
    low_bit_compute_frac: float = spec(
        "The same for 8- and 4-bit products, whose peak is harder to reach.",
        unit="1",
        gt=0,
        le=1,
        default=0.62,
    )
    attention_compute_frac: float = spec(
        "Rate of prefill attention over the tensor-core peak.",
        unit="1",
        gt=0,
        le=1,
        default=0.45,
    )
    memory_frac: float = spec(
        "Rate of streaming weights over the memory peak.",
        unit="1",
        gt=0,
        le=1,
        default=0.78,
    )
    kv_memory_frac: float = spec(
        "Rate of reading the KV cache in decode over the memory peak.",
        unit="1",
        gt=0,
        le=1,
        default=0.72,
    )
    partial_wave_frac: float = spec(
        "Part of a wave of tiles that idles at the end of a GEMM.",
        unit="1",
        ge=0,
        le=1,
        default=0.35,
    )
    layer_floor_ms: float = spec(
        "Launch gaps and attention floor of a layer.", unit="ms", ge=0, default=0.02
    )
    host_layer_ms: float = spec(
        "Host time to launch a layer without CUDA graphs; a step takes at least this.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    step_overhead_ms: float = spec(
        "Scheduling and sampling of a step, on the last stage.",
        unit="ms",
        ge=0,
        default=1.0,
    )
    communication: CommunicationEfficiency = spec(
        "What software leaves of the links.", default=CommunicationEfficiency()
    )

    def __post_init__(self) -> None:
        check_fields(self)
