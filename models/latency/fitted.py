"""FittedSource: step latencies composed from operators fitted to measurements.

Idea
    The operators of one serving engine were fitted on measured GPU systems
    (`models.latency.fit_file`). A step of any model is the sum of its operators at the
    shapes `models.flops` gives. A GPU that was not measured takes the efficiency of its
    nearest measured relative, at its own peaks.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from clusters.fields import check_fields, spec
from clusters.gpu import GpuType
from clusters.links import GroupLink, LinkKind
from models.flops import stage_shapes
from models.latency.fabrics import fabric_of, fabrics_of
from models.latency.fit_file import ENGINES, EngineFit, load_fit, shipped_systems
from models.latency.operators.collective import Collective, CollectiveModel
from models.latency.rank_operators import FittedRank
from models.latency.ranked import RankedStage
from models.latency.request import (
    LatencyRequest,
    Provenance,
    SourceRemarks,
    StageLinks,
)
from models.latency.stage_model import StageModel
from models.latency.step_table import StepTable, interpolate_array
from models.llm import LlmSpec
from models.shapes import StageShapes

TRANSFER_ERROR_FACTOR = 2.5
"""How much larger the 90th percentile of the error is on a GPU that was not measured.

When every measured system takes its nearest relative instead of itself it is 2.1 to 3.4
times as large for dense models and twice for mixtures of experts
(`benchmarks/accuracy/step_latency.py --source relative`)."""
SAMPLER_CALLS = 10
"""Operators that vLLM calls after the CUDA graph of a step to draw tokens: choice of
rows, cast, two for the temperature, softmax, three for the draw, cast, copy to the host
(its sampler of 2026 without top-k, top-p and penalties). Each takes the measured host
time of a call (`EngineFit.eager_call_ms`)."""
LONG_PREFILL_TOKENS = 512.0
"""Prefills from here on never slow down with tensor parallelism in an island."""
_OTHER_VENDORS = frozenset({"xe2"})
"""Architectures whose efficiency says nothing about NVIDIA GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A serving engine whose operators were fitted."""

    name: str = spec("Its name.")
    step_overhead_ms: float | None = spec(
        "Host time of a step, None: that of drawing tokens.", unit="ms", ge=0
    )
    cuda_graphs: bool = spec("Steps are captured.", default=True)
    without: tuple[str, ...] = spec("Systems whose fits it may not use.", default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSource:
    """Fitted operators of one engine as a source."""

    engine: str = spec("Serving engine.", default="vllm")
    step_overhead_ms: float | None = spec(
        "Host time of a step that the GPU waits for, None: that of drawing tokens.",
        unit="ms",
        ge=0,
        default=None,
    )
    cuda_graphs: bool = spec(
        "Steps are captured; False: the host calls every operator.", default=True
    )
    without: tuple[str, ...] = spec(
        "Measured systems to treat as unmeasured (to see what that costs).", default=()
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name users select it by."""
        return f"fitted-{self.engine}"

    @property
    def provenance(self) -> Provenance:
        """Kind of evidence."""
        return Provenance.FITTED

    @property
    def expected_error_frac(self) -> float | None:
        """Worst of the measured systems; see `describe` for one GPU type."""
        stated = [
            load_fit(system, self.engine).step_p90_error_frac
            for system in shipped_systems(self.engine)
        ]
        return max((error for error in stated if error is not None), default=None)

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None, or why no measured relative stands in for `gpu`."""
        if not shipped_systems(self.engine):
            return f"no fits of {self.engine} (there are {', '.join(ENGINES)})"
        if nearest_relative(gpu, self.engine, self.without) is None:
            return f"no measured relative of {gpu.name}"
        return None

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """One table a pipeline stage; equal stages are compiled once."""
        tables = self._compile(request)
        narrower = _half_as_wide(request)
        if narrower is None:
            return tables
        return tuple(
            no_slower_prefill(wide, narrow)
            for wide, narrow in zip(tables, self.compile(narrower), strict=True)
        )

    def _compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        shapes = stage_shapes(request.llm, request.parallelism)
        engine = Engine(
            name=self.engine,
            step_overhead_ms=self.step_overhead_ms,
            cuda_graphs=self.cuda_graphs,
            without=self.without,
        )
        prompt_tokens = request.prompt_tokens
        return tuple(
            compile_stage(stage, request.gpu, engine, links, prompt_tokens)
            for stage, links in zip(shapes, request.stage_links, strict=True)
        )

    def remarks(self, request: LatencyRequest) -> SourceRemarks:
        """Relative used, links from physics, what lies outside the fit, the error."""
        gpu, notes, outside = request.gpu, [], set[str]()
        system = nearest_relative(gpu, self.engine, self.without)
        assert system is not None
        fit = load_fit(system, self.engine)
        error_frac = fit.step_p90_error_frac
        if system != gpu.name:
            notes.append(f"efficiency of {system} at the peaks of {gpu.name}")
            if error_frac is not None:
                error_frac *= TRANSFER_ERROR_FACTOR
        stages = stage_shapes(request.llm, request.parallelism)
        for stage, links in zip(stages, request.stage_links, strict=True):
            ring = links.tensor
            reducer = reducer_of(stage, ring, self.engine, system)
            if stage.tp > 1 and reducer is None:
                notes.append(f"all-reduce over {ring.kind} from its link rate")
            model = StageModel(
                stage=stage,
                gpu=gpu,
                fit=fit,
                ring=ring,
                reducer=reducer,
                hop=None,
                step_overhead_ms=0.0,
            )
            fabrics = fabrics_of(links.stage, self.engine, system)
            if stage.exchanges and Collective.ALL_GATHER not in fabrics:
                notes.append("exchange of tokens with the experts from the link rate")
            if stage.ranks.cp > 1:
                notes.append("ring of keys and values from the link rate")
            outside.update(model.outside_fit())
        return SourceRemarks(
            notes=tuple(dict.fromkeys(notes)),
            outside_fit=tuple(sorted(outside)),
            expected_error_frac=error_frac,
        )


def _half_as_wide(request: LatencyRequest) -> LatencyRequest | None:
    """The same replica at half the tensor parallelism, within an NVLink island."""
    degrees = request.parallelism
    tp, has_experts_apart = degrees.tp, max(degrees.ep, degrees.num_ranks) > 1
    inside = all(ring.kind is LinkKind.NVLINK for ring in request.links.tp)
    if tp % 2 or has_experts_apart or not inside:
        return None
    half = replace(request.parallelism, tp=tp // 2)
    return None if half.why_not(request.llm) else replace(request, parallelism=half)


@lru_cache(maxsize=4096)
def no_slower_prefill(wide: StepTable, narrow: StepTable) -> StepTable:
    """`wide` with long prefills that take no longer than on half of its GPUs.

    All-reduce kernels change algorithm with the message size and the number of GPUs,
    and the measured curves cross there by a few per cent. A group of GPUs can do
    what half of it does, so from `LONG_PREFILL_TOKENS` on the narrower table bounds
    the wider one. Decode, where more GPUs can be slower, stays as measured.
    """
    knots = np.union1d(wide.prefill_tokens, narrow.prefill_tokens)
    knots = np.union1d(knots, [LONG_PREFILL_TOKENS - 1, LONG_PREFILL_TOKENS])
    ours = interpolate_array(knots, wide.prefill_tokens, wide.prefill_ms)
    bound = interpolate_array(knots, narrow.prefill_tokens, narrow.prefill_ms)
    limit = np.where(knots >= LONG_PREFILL_TOKENS, bound, np.inf)
    if (ours <= limit).all():
        return wide
    # Rising from the right: shorter steps may not exceed a lowered longer one.
    capped = np.minimum.accumulate(np.minimum(ours, limit)[::-1])[::-1]
    return replace(
        wide,
        prefill_tokens=tuple(knots.tolist()),
        prefill_ms=tuple(capped.tolist()),
    )


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


@lru_cache(maxsize=4096)
def compile_stage(
    stage: StageShapes,
    gpu: GpuType,
    engine: Engine,
    links: StageLinks,
    prompt_tokens: float | None = None,
) -> StepTable:
    """The step table of one stage."""
    system = nearest_relative(gpu, engine.name, engine.without)
    assert system is not None
    ring, fit = links.tensor, load_fit(system, engine.name)
    overhead_ms = engine.step_overhead_ms
    if overhead_ms is None:
        overhead_ms = SAMPLER_CALLS * fit.eager_call_ms
    model = StageModel(
        stage=stage,
        gpu=gpu,
        fit=fit,
        ring=ring,
        reducer=reducer_of(stage, ring, engine.name, system),
        hop=links.hop,
        step_overhead_ms=overhead_ms,
        eager_call_ms=0.0 if engine.cuda_graphs else fit.eager_call_ms,
    )
    if stage.ranks.count == 1:
        return model.compile()
    fabrics = fabrics_of(links.stage, engine.name, system)
    quick = fabrics_of(links.stage, engine.name, system, decode=True)
    if quick == fabrics:
        quick = {}
    return RankedStage(
        operators=FittedRank.of(model, fabrics, quick),
        links=links,
        prompt_tokens=prompt_tokens,
    ).compile()


def reducer_of(
    stage: StageShapes, ring: GroupLink, engine: str, system: str
) -> CollectiveModel | None:
    """The measured fabric of the all-reduces of a stage, None without any."""
    if stage.tp == 1:
        return None
    return fabric_of(Collective.ALL_REDUCE, ring, engine, system)


def _distance(fit: EngineFit, gpu: GpuType) -> tuple[bool, float]:
    memory = math.log(fit.memory_bytes_per_s / gpu.memory_bytes_per_s)
    rates = {str(rate.dtype): rate.flops_per_s for rate in gpu.flops}
    half = rates.get("bf16", rates.get("fp16", rates.get("fp32", 1.0)))
    compute = math.log(fit.flops_per_s["bf16"] / half)
    return fit.architecture != gpu.architecture, abs(memory) + abs(compute)
