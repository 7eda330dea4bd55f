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
from models.latency.fit_file import ENGINES, EngineFit, load_fit, shipped_systems
from models.latency.operators.collective import AllReduceModel
from models.latency.request import LatencyRequest, Provenance, SourceRemarks
from models.latency.stage_model import StageModel, fabric_for
from models.latency.step_table import StepTable, interpolate_array
from models.llm import LlmSpec
from models.shapes import StageShapes

TRANSFER_ERROR_FACTOR = 2.5
"""How much larger the error is on a relative that was not measured."""
STEP_OVERHEAD_MS = 0.3
"""What scheduling and sampling add to a step with CUDA graphs and asynchronous
scheduling: median of measured time per output token of vLLM at up to 8 requests minus
the operators' (Llama-3.1-70B and gpt-oss-120b on H100, H200 and B200, public runs of
2026). Without CUDA graphs the launches of every layer come on top."""
LONG_PREFILL_TOKENS = 512.0
"""Prefills from here on never slow down with tensor parallelism in an island."""
_SAME_RATE = math.log(1.2)
"""Link rates within this factor count as the same fabric."""
_OTHER_VENDORS = frozenset({"xe2"})
"""Architectures whose efficiency says nothing about NVIDIA GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSource:
    """Fitted operators of one engine as a source."""

    engine: str = spec("Serving engine.", default="vllm")
    step_overhead_ms: float = spec(
        "Host time of a step that the GPU waits for.",
        unit="ms",
        ge=0,
        default=STEP_OVERHEAD_MS,
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
        if self.engine not in ENGINES:
            return f"no fits of {self.engine} (there are {', '.join(ENGINES)})"
        if nearest_relative(gpu, self.engine) is None:
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
        hops = (*request.links.pp, None)
        return tuple(
            compile_stage(
                stage, request.gpu, self.engine, ring, hop, self.step_overhead_ms
            )
            for stage, ring, hop in zip(shapes, request.links.tp, hops, strict=True)
        )

    def remarks(self, request: LatencyRequest) -> SourceRemarks:
        """Relative used, links from physics, what lies outside the fit, the error."""
        gpu, notes, outside = request.gpu, [], set[str]()
        system = nearest_relative(gpu, self.engine)
        assert system is not None
        fit = load_fit(system, self.engine)
        error_frac = fit.step_p90_error_frac
        if system != gpu.name:
            notes.append(f"efficiency of {system} at the peaks of {gpu.name}")
            if error_frac is not None:
                error_frac *= TRANSFER_ERROR_FACTOR
        stages = stage_shapes(request.llm, request.parallelism)
        for stage, ring in zip(stages, request.links.tp, strict=True):
            reducer = _reducer(ring, self.engine, system) if stage.tp > 1 else None
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
            outside.update(model.outside_fit())
        return SourceRemarks(
            notes=tuple(dict.fromkeys(notes)),
            outside_fit=tuple(sorted(outside)),
            expected_error_frac=error_frac,
        )


def _half_as_wide(request: LatencyRequest) -> LatencyRequest | None:
    """The same replica at half the tensor parallelism, within an NVLink island."""
    tp, ep = request.parallelism.tp, request.parallelism.ep
    inside = all(ring.kind is LinkKind.NVLINK for ring in request.links.tp)
    if tp % 2 or ep > 1 or not inside:
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
def nearest_relative(gpu: GpuType, engine: str) -> str | None:
    """The measured system whose efficiency stands in for `gpu`: itself if measured.

    Otherwise the same vendor, the same architecture if there is one, then the nearest
    memory and compute peaks.
    """
    systems = shipped_systems(engine)
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
    engine: str,
    ring: GroupLink,
    hop: GroupLink | None,
    step_overhead_ms: float,
) -> StepTable:
    """The step table of one stage."""
    system = nearest_relative(gpu, engine)
    assert system is not None
    return StageModel(
        stage=stage,
        gpu=gpu,
        fit=load_fit(system, engine),
        ring=ring,
        reducer=_reducer(ring, engine, system) if stage.tp > 1 else None,
        hop=hop,
        step_overhead_ms=step_overhead_ms,
    ).compile()


def _reducer(ring: GroupLink, engine: str, system: str) -> AllReduceModel | None:
    """The measured fabric nearest to the ring, the own system's if it is as near."""
    if ring.kind is LinkKind.NETWORK:
        return None
    own = load_fit(system, engine).variants("all_reduce")
    for model in own.values():
        # Reading nine other files to find a nearer fabric takes longer than planning.
        assert isinstance(model, AllReduceModel)
        near = abs(math.log(model.link_bytes_per_s / ring.bytes_per_s)) < _SAME_RATE
        if model.kind is ring.kind and near:
            return model
    fabrics = {
        name: model
        for name in shipped_systems(engine)
        for model in load_fit(name, engine).variants("all_reduce").values()
        if isinstance(model, AllReduceModel)
    }
    return fabric_for(ring, fabrics, system)


def _distance(fit: EngineFit, gpu: GpuType) -> tuple[bool, float]:
    memory = math.log(fit.memory_bytes_per_s / gpu.memory_bytes_per_s)
    rates = {str(rate.dtype): rate.flops_per_s for rate in gpu.flops}
    half = rates.get("bf16", rates.get("fp16", rates.get("fp32", 1.0)))
    compute = math.log(fit.flops_per_s["bf16"] / half)
    return fit.architecture != gpu.architecture, abs(memory) + abs(compute)
