"""Presets of serving engines: how each forms steps, and what it adds to their time.

Two files of the catalogue: ``engines.yaml`` has the defaults of the engines' servers,
``engine_overheads.yaml`` the constants fitted to measured runs by
``benchmarks/accuracy/silicon.py --fit``, with their error on models and GPUs left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import geometric_mean
from typing import Any, Self

from clusters.fields import check_fields, spec
from clusters.gpu import GpuType
from clusters.units import GB
from models.flops import stage_shapes
from models.latency.fitted import FittedSource
from models.latency.request import LatencyRequest, Provenance
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.memory import MemoryBreakdown, MemorySettings, memory_of
from models.parallelism import Parallelism
from planner.engine_overheads import EngineOverheads, VersionSkew, engine_table
from planner.presets import check_preset, load_preset, preset_entries
from planner.simulator.system import Batching, BatchLimits

LARGE_GPU_BYTES = 160 * GB
"""Memory from which SGLang takes larger steps by default."""


def generation_of(gpu: GpuType) -> str:
    """What the measured versions of an engine differ by."""
    return gpu.architecture


class MemoryKind(StrEnum):
    """What an engine's memory fraction is a fraction of."""

    OF_TOTAL = "of_total"
    """Of the GPU: weights, activations and KV cache together (vLLM)."""
    STATIC = "static"
    """Of the GPU: weights and KV cache, activations beside it (SGLang)."""
    OF_FREE = "of_free"
    """Of what weights and activations leave: the KV cache alone (TensorRT-LLM)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRange:
    """Captured batch sizes at equal distances."""

    first: int = spec("Smallest.", unit="requests", ge=1)
    last: int = spec("Largest.", unit="requests", ge=1)
    step: int = spec("Distance.", unit="requests", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadFit:
    """Fitted constants of one engine, with the evidence for them."""

    overheads: EngineOverheads = spec("Constants of the engine.")
    skews: tuple[VersionSkew, ...] = spec("Constants by GPU generation.", default=())
    rows: int = spec("Measured runs fitted.", unit="rows", ge=0, default=0)
    groups: int = spec(
        "Pairs of model and GPU, each left out once.", unit="1", ge=0, default=0
    )
    ttft_median_error_frac: float | None = spec(
        "Median error of mean TTFT on pairs left out.", unit="1", default=None
    )
    tpot_median_error_frac: float | None = spec(
        "Median error of mean TPOT on pairs left out.", unit="1", default=None
    )
    source: str = spec("Where the measurements come from.", default="")

    def __post_init__(self) -> None:
        check_fields(self)

    def skew(self, gpu: GpuType) -> VersionSkew:
        """Constants of the generation of `gpu`; the measured ones' mean of another.

        Factors of generations differ little, so their geometric mean says more about
        one that was not measured than no factor does.
        """
        generation = generation_of(gpu)
        for skew in self.skews:
            if skew.generation == generation:
                return skew
        if not self.skews:
            return VersionSkew(generation=generation)
        return VersionSkew(
            generation=generation,
            prefill_factor=geometric_mean(s.prefill_factor for s in self.skews),
            decode_factor=geometric_mean(s.decode_factor for s in self.skews),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePreset:
    """How one engine serves by default."""

    name: str = spec("Name of the engine.")
    policy: Batching = spec("Batching policy.")
    max_batch_tokens: int = spec("Token budget of a step.", unit="tokens", gt=0)
    large_gpu_batch_tokens: int | None = spec(
        "The same on GPUs of at least 160 GB; None: no different.",
        unit="tokens",
        gt=0,
        default=None,
    )
    is_budget_per_rank: bool = spec(
        "Whether every attention-data-parallel rank has the whole budget."
    )
    max_num_seqs: int = spec("Requests resident at a time.", unit="requests", gt=0)
    memory_frac: float = spec("Memory fraction.", unit="1", gt=0, le=1)
    memory_kind: MemoryKind = spec("What it is a fraction of.")
    block_tokens: int = spec("Tokens of a KV block.", unit="tokens", gt=0)
    graph_sizes: tuple[GraphRange, ...] = spec("Captured decode batch sizes.")
    source: str = spec("Where the defaults come from.")
    date: str = spec("When they were read.")
    fit: OverheadFit = spec("What it adds to operators.")

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def load(cls, name: str) -> Self:
        """The shipped preset of that name.

        Raises
        ------
        InputError
            Naming the nearest preset, if there is none of that name.
        """
        check_preset("engine", name, cls.names(), "an engine")
        fit = preset_entries("engine_overheads.yaml").get(name, {"overheads": {}})
        return load_preset(cls, "engines.yaml", name, {"name": name, "fit": fit})

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the shipped presets."""
        return tuple(sorted(preset_entries("engines.yaml")))

    @property
    def captured(self) -> tuple[int, ...]:
        """Captured batch sizes, rising."""
        sizes = {
            size
            for part in self.graph_sizes
            for size in range(part.first, part.last + 1, part.step)
        }
        return tuple(sorted(sizes))

    def batch_tokens(self, gpu: GpuType) -> int:
        """Token budget of a step on `gpu`."""
        is_large = gpu.memory_bytes >= LARGE_GPU_BYTES
        large = self.large_gpu_batch_tokens
        return large if is_large and large is not None else self.max_batch_tokens

    def limits(self, gpu: GpuType, *, num_ranks: int = 1) -> BatchLimits:
        """Batch limits of a replica on `gpu`, all its attention ranks together."""
        budgets = num_ranks if self.is_budget_per_rank else 1
        return BatchLimits(
            policy=self.policy,
            max_batch_tokens=budgets * self.batch_tokens(gpu),
            max_num_seqs=num_ranks * self.max_num_seqs,
        )

    def settings(self) -> dict[str, Any]:
        """The same as keys of `planner.problem.EngineSettings`, whatever the GPU.

        A memory fraction is taken as one of the GPU's memory there.
        """
        return {
            "memory": {
                "utilisation_frac": self.memory_frac,
                "block_tokens": self.block_tokens,
                "max_batch_tokens": self.max_batch_tokens,
            },
            "limits": {
                "policy": str(self.policy),
                "max_batch_tokens": self.max_batch_tokens,
                "max_num_seqs": self.max_num_seqs,
            },
            "latency_sources": [self.source_name],
        }

    @property
    def source_name(self) -> str:
        """Name of its latency source."""
        return f"engine-{self.name}"

    def memory(
        self,
        llm: LlmSpec,
        parallelism: Parallelism,
        gpu: GpuType | Sequence[GpuType],
        settings: MemorySettings | None = None,
    ) -> MemoryBreakdown:
        """Memory of a replica as this engine divides it: of the stage with least room.

        Stages on unlike GPUs: `gpu` has one for each. `settings` give everything but
        the utilisation and the block size.
        """
        settings = replace(
            settings or MemorySettings(),
            utilisation_frac=self.memory_frac,
            block_tokens=self.block_tokens,
        )
        found = memory_of(llm, parallelism, gpu, settings)
        if self.memory_kind is MemoryKind.OF_TOTAL:
            return found
        beside = found.activation_bytes + found.reserve_bytes
        used_frac = beside / found.memory_bytes
        total_frac = self.memory_frac + used_frac
        if self.memory_kind is MemoryKind.OF_FREE:
            used_frac += found.weights_bytes / found.memory_bytes
            total_frac = used_frac + self.memory_frac * max(0.0, 1.0 - used_frac)
        settings = replace(settings, utilisation_frac=min(1.0, total_frac))
        return memory_of(llm, parallelism, gpu, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSource:
    """Fitted operators of an engine with what the engine adds, as a latency source."""

    preset: EnginePreset = spec("The engine.")

    @property
    def name(self) -> str:
        """Name users select it by."""
        return self.preset.source_name

    @property
    def provenance(self) -> Provenance:
        """Kind of evidence."""
        return Provenance.FITTED

    @property
    def expected_error_frac(self) -> float | None:
        """That of the operators."""
        return self._operators.expected_error_frac

    @property
    def _operators(self) -> FittedSource:
        return FittedSource(
            engine=self.preset.name, step_overhead_ms=0.0, best_kernels=True
        )

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None, or why the operators are not known."""
        return self._operators.why_not_pair(llm, gpu)

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """One table a pipeline stage."""
        shapes = stage_shapes(request.llm, request.parallelism)
        tables = self._operators.compile(request)
        fit = self.preset.fit
        return tuple(
            engine_table(
                table,
                stage,
                fit.overheads,
                fit.skew(request.gpu),
                self.preset.captured,
            )
            for table, stage in zip(tables, shapes, strict=True)
        )


def engine_sources() -> tuple[EngineSource, ...]:
    """The sources of all shipped presets."""
    return tuple(
        EngineSource(preset=EnginePreset.load(name)) for name in EnginePreset.names()
    )
