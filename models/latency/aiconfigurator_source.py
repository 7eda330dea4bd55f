"""AIConfigurator: step latencies asked live from another tool's engine model.

For whoever wants the numbers of the package ``aiconfigurator-core`` (NVIDIA,
Apache-2.0) in the same plan: its composition of its own measured operators, sampled to
a step table. The package is an extra, imported when a table is compiled and not before:

    pip install 'phaseplan[aiconfigurator]'

Limits
    Models and GPU systems are those the package ships. Collectives are the ones it
    measured on its machines, whatever the links of the plan. Its steps hold no host
    time; engines add some (`models.latency.fitted.SAMPLER_CALLS`).
"""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from clusters.fields import spec
from clusters.gpu import Dtype, GpuType
from models.communication import CommunicationEfficiency
from models.hf_names import find_model
from models.latency.fit_file import ENGINES
from models.latency.layer_share import stages_by_layers
from models.latency.request import (
    LatencyRequest,
    LatencyUnavailableError,
    Provenance,
    SourceRemarks,
)
from models.latency.sampled_table import sampled_table
from models.latency.step_table import StepTable
from models.latency.weights import variants_for
from models.llm import LlmSpec, WeightFormat, catalog_names

PACKAGE = "aiconfigurator_core"
INSTALL = "pip install 'phaseplan[aiconfigurator]'"
_CONFIG_SUFFIX = "_config.json"
_ONE_STEP = 2
"""Output length that asks for exactly one decode step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AiconfiguratorSource:
    """The package's model of one engine as a latency source."""

    engine: str = spec("vllm, sglang or trtllm.", default="vllm")
    version: str = spec("Version of the engine's tables.", default="current")
    efficiency: CommunicationEfficiency = spec(
        "For the pipeline hops.", default=CommunicationEfficiency()
    )

    @property
    def name(self) -> str:
        """Name users select it by."""
        return f"aiconfigurator-{self.engine}"

    @property
    def provenance(self) -> Provenance:
        """Kind of evidence: somebody else's model of their measurements."""
        return Provenance.PUBLISHED

    @property
    def expected_error_frac(self) -> float | None:
        """Not stated by the package."""
        return None

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None when the package is installed and ships this model and GPU system."""
        if importlib.util.find_spec(PACKAGE) is None:
            return f"needs the package aiconfigurator-core: {INSTALL}"
        if gpu.name not in shipped_systems():
            return f"no tables of {gpu.name} in aiconfigurator-core"
        if repository_of(llm) is None:
            return f"no model {llm.name} in aiconfigurator-core"
        return None

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """One table a pipeline stage, of the package's steps at the request's TP."""
        request.refuse_ranks(self.name)
        whole = _whole_table(
            request.llm,
            request.gpu.name,
            self.engine,
            self.version,
            (request.parallelism.tp, request.parallelism.ep),
        )
        return stages_by_layers(whole, request, self.efficiency)

    def remarks(self, request: LatencyRequest) -> SourceRemarks:
        """Whose numbers these are, and what they leave out."""
        return SourceRemarks(
            notes=(
                f"aiconfigurator-core's {self.engine} ({self.version}), its own links",
                "no host time",
            )
        )


def live_sources() -> tuple[AiconfiguratorSource, ...]:
    """One source for each engine the package knows."""
    return tuple(AiconfiguratorSource(engine=engine) for engine in ENGINES)


@cache
def shipped_systems() -> frozenset[str]:
    """GPU systems the installed package has tables of, named as in our catalogue."""
    folder = resources.files(PACKAGE) / "systems" / "data"
    return frozenset(entry.name for entry in folder.iterdir() if entry.is_dir())


@cache
def shipped_models() -> Mapping[str, str]:
    """Repositories the installed package has configs of, by catalogue name."""
    folder = resources.files(PACKAGE) / "model_configs"
    found: dict[str, str] = {}
    for name in sorted(entry.name for entry in folder.iterdir()):
        if not name.endswith(_CONFIG_SUFFIX) or "hf_quant" in name:
            continue
        repository = name.removesuffix(_CONFIG_SUFFIX).replace("--", "/", 1)
        known = find_model(repository, catalog_names())
        if known is not None and known.suffix is None:
            found.setdefault(known.name, repository)
    return found


def repository_of(llm: LlmSpec) -> str | None:
    """The package's name of a catalogue model, in whatever number formats."""
    repository = shipped_models().get(llm.name)
    if repository is None:
        return None
    shipped = LlmSpec.load(llm.name)
    return repository if replace(llm, precision=shipped.precision) == shipped else None


@cache
def _whole_table(
    llm: LlmSpec, system: str, engine: str, version: str, degrees: tuple[int, int]
) -> StepTable:
    """The table of all layers on one stage, for (TP, EP)."""
    tp, ep = degrees
    handle_type = importlib.import_module(f"{PACKAGE}.sdk.engine").EngineHandle
    options: dict[str, Any] = {
        "backend_version": version,
        "tp_size": tp,
        "pp_size": 1,
        "attention_dp_size": 1,
        **_number_formats(llm),
    }
    if llm.moe is not None:
        options |= {"moe_tp_size": tp // ep, "moe_ep_size": ep}
    try:
        handle = handle_type.compile(repository_of(llm), system, engine, **options)
        return sampled_table(
            lambda requests, tokens: float(
                handle.predict_prefill_latency(requests, tokens, 0)
            ),
            lambda requests, context: float(
                handle.predict_decode_latency(requests, context, _ONE_STEP)
            ),
        )
    # What the package raises where its tables or its support end.
    except (ValueError, RuntimeError, KeyError) as error:
        where = f"{llm.name} TP{tp} EP{ep} on {system} with {engine}"
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LatencyUnavailableError(
            f"aiconfigurator-core has no {where}: {message}"
        ) from error


def _number_formats(llm: LlmSpec) -> dict[str, str]:
    """The package's names of a model's number formats."""
    precision = llm.precision
    dense = precision.attention if llm.moe is not None else precision.mlp
    formats = {"gemm_quant_mode": _mode(dense), "kvcache_quant_mode": "fp8"}
    if precision.kv is not Dtype.FP8:
        # Said apart, or the package expects fp8 attention over a bf16 cache.
        formats |= {"kvcache_quant_mode": "bfloat16", "fmha_quant_mode": "bfloat16"}
    if llm.moe is not None:
        formats["moe_quant_mode"] = _mode(precision.experts)
    return formats


def _mode(weights: WeightFormat) -> str:
    return variants_for(weights)[0]
