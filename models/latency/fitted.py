"""FittedSource: step latencies composed from operators fitted to measurements.

Idea
    The operators of one serving engine were fitted on measured GPU systems
    (`models.latency.fit_file`). A step of any model is the sum of its operators at the
    shapes `models.flops` gives. A GPU that was not measured takes the efficiency of its
    nearest measured relative, at its own peaks: that of the shapes which keep the
    relative busy for as long.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from clusters.fields import check_fields, spec
from clusters.gpu import GpuType
from clusters.links import GroupLink, LinkKind
from models.flops import stage_shapes
from models.latency.fabrics import fabric_of, fabrics_of
from models.latency.fit_file import ENGINES, load_fit, shipped_systems
from models.latency.operators.collective import Collective, CollectiveModel
from models.latency.prefill_curve import PrefillCurve
from models.latency.rank_operators import FittedRank
from models.latency.ranked import RankedStage
from models.latency.relatives import (
    experts_fit,
    nearest_relative,
    peers_of,
    products_fit,
    weaker_fits,
)
from models.latency.request import (
    LatencyRequest,
    Provenance,
    SourceRemarks,
    StageLinks,
)
from models.latency.stage_model import StageModel
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.shapes import StageShapes

TRANSFER_ERROR_FACTOR = 2.5
"""How much larger the 90th percentile of the error is on a GPU that was not measured.

When every measured system takes its nearest relative instead of itself it is 2.0 to 2.9
times as large for dense models and 1.7 times for mixtures of experts
(`benchmarks/accuracy/step_latency.py --source relative`)."""
SAMPLER_CALLS = 10
"""Operators that vLLM calls after the CUDA graph of a step to draw tokens: choice of
rows, cast, two for the temperature, softmax, three for the draw, cast, copy to the host
(its sampler of 2026 without top-k, top-p and penalties). Each takes the measured host
time of a call (`EngineFit.eager_call_ms`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A serving engine whose operators were fitted."""

    name: str = spec("Its name.")
    step_overhead_ms: float | None = spec(
        "Host time of a step, None: that of drawing tokens.", unit="ms", ge=0
    )
    cuda_graphs: bool = spec("Steps are captured.", default=True)
    without: tuple[str, ...] = spec("Systems whose fits it may not use.", default=())
    best_kernels: bool = spec("Quickest of the kernels measured.", default=False)
    experts_of: str = spec("Engine whose experts it runs, if not its own.", default="")
    experts_variant: str = spec("Format whose kernels its experts run.", default="")


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
    best_kernels: bool = spec(
        "Products and blocks of latent attention as quick as the best measurement of "
        "the same kernel libraries (`relatives.peers_of`, `relatives.weaker_fits`), "
        "as a server picks them; False: the engine's own benchmark alone.",
        default=False,
    )
    experts_of: str = spec(
        "Engine whose routed experts were measured with the kernels that a server was "
        "told to take; empty: this one. Without its fit on a system, its own.",
        default="",
    )
    experts_variant: str = spec(
        "Measured number format whose kernels the routed experts run (Marlin's are "
        "int4_wo, whatever the weights' own four bits mean); empty: their own.",
        default="",
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
        widths = [
            stage_shapes(request.llm, degrees) for degrees in _ever_narrower(request)
        ]
        engine = Engine(
            name=self.engine,
            step_overhead_ms=self.step_overhead_ms,
            cuda_graphs=self.cuda_graphs,
            without=self.without,
            best_kernels=self.best_kernels,
            experts_of=self.experts_of,
            experts_variant=self.experts_variant,
        )
        prompt_tokens = request.prompt_tokens
        return tuple(
            compile_stage(stages, request.gpu, engine, links, prompt_tokens)
            for stages, links in zip(
                zip(*widths, strict=True), request.stage_links, strict=True
            )
        )

    def remarks(self, request: LatencyRequest) -> SourceRemarks:
        """Relative used, links from physics, what lies outside the fit, the error."""
        gpu, notes, outside = request.gpu, [], set[str]()
        system = nearest_relative(gpu, self.engine, self.without)
        assert system is not None
        fit = load_fit(system, self.engine)
        error_frac = fit.step_p90_error_frac
        products = products_fit(gpu, self.engine, self.without)
        if system != gpu.name:
            notes.append(f"efficiency of {system} at the peaks of {gpu.name}")
            if products is not None:
                notes.append(f"matrix products as profiled on {products.system}")
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
                products=products,
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


def _ever_narrower(request: LatencyRequest) -> Iterator[Parallelism]:
    """The degrees of a request, then half the tensor parallelism in an NVLink island.

    Only the first where experts lie apart from the rest or the island ends.
    """
    degrees = request.parallelism
    yield degrees
    if max(degrees.ep, degrees.num_ranks) > 1:
        return
    if any(ring.kind is not LinkKind.NVLINK for ring in request.links.tp):
        return
    while degrees.tp % 2 == 0:
        degrees = replace(degrees, tp=degrees.tp // 2)
        if degrees.why_not(request.llm):
            return
        yield degrees


@lru_cache(maxsize=4096)
def compile_stage(
    stages: tuple[StageShapes, ...],
    gpu: GpuType,
    engine: Engine,
    links: StageLinks,
    prompt_tokens: float | None = None,
) -> StepTable:
    """The step table of the first of `stages`; the others are narrower and bound it."""
    if stages[0].ranks.count > 1:
        return _ranked(stages[0], gpu, engine, links, prompt_tokens)
    priced = [_priced(stage, gpu, engine, links) for stage in stages]
    model, curve = priced.pop()
    while priced:
        narrow = curve
        model, curve = priced.pop()
        curve = curve.no_slower_than(narrow)
    return model.compile(curve)


@lru_cache(maxsize=1024)
def _priced(
    stage: StageShapes, gpu: GpuType, engine: Engine, links: StageLinks
) -> tuple[StageModel, PrefillCurve]:
    """The model of a stage and its prefill, which wider stages are bound by."""
    model = _stage_model(stage, gpu, engine, links)
    return model, model.prefill()


def _ranked(
    stage: StageShapes,
    gpu: GpuType,
    engine: Engine,
    links: StageLinks,
    prompt_tokens: float | None,
) -> StepTable:
    model = _stage_model(stage, gpu, engine, links)
    system = model.fit.system
    fabrics = fabrics_of(links.stage, engine.name, system)
    quick = fabrics_of(links.stage, engine.name, system, decode=True)
    if quick == fabrics:
        quick = {}
    return RankedStage(
        operators=FittedRank.of(model, fabrics, quick),
        links=links,
        prompt_tokens=prompt_tokens,
    ).compile()


def _stage_model(
    stage: StageShapes, gpu: GpuType, engine: Engine, links: StageLinks
) -> StageModel:
    system = nearest_relative(gpu, engine.name, engine.without)
    assert system is not None
    ring, fit = links.tensor, load_fit(system, engine.name)
    overhead_ms = engine.step_overhead_ms
    if overhead_ms is None:
        overhead_ms = SAMPLER_CALLS * fit.eager_call_ms
    # A relative's times are those of its own chip: they bound nothing here.
    has_choice = engine.best_kernels and system == gpu.name
    return StageModel(
        stage=stage,
        gpu=gpu,
        fit=fit,
        products=products_fit(gpu, engine.name, engine.without),
        ring=ring,
        reducer=reducer_of(stage, ring, engine.name, system),
        hop=links.hop,
        step_overhead_ms=overhead_ms,
        peers=peers_of(system, engine.name) if has_choice else (),
        weaker=weaker_fits(system, engine.name, engine.without) if has_choice else (),
        eager_call_ms=0.0 if engine.cuda_graphs else fit.eager_call_ms,
        experts=experts_fit(system, engine.experts_of),
        experts_variant=engine.experts_variant,
    )


def reducer_of(
    stage: StageShapes, ring: GroupLink, engine: str, system: str
) -> CollectiveModel | None:
    """The measured fabric of the all-reduces of a stage, None without any."""
    if stage.tp == 1:
        return None
    return fabric_of(Collective.ALL_REDUCE, ring, engine, system)
