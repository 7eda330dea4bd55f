"""Published coefficients: the latency model DistServe's authors fitted and released.

Reference
    Zhong et al., "DistServe: Disaggregating Prefill and Decoding for Goodput-optimized
    Large Language Model Serving", OSDI 2024, arXiv 2401.09670, Appendix A; coefficients
    of the released simulator (`models/catalog/published/distserve.yaml`).

Form
    prefill  a + b * sum(L) + c * sum(L^2)
    decode   a + b * sum(context + 1) + c * batch, with other coefficients from 95
             requests on

Both compile to a `StepTable` exactly: at every whole batch size the knots 94 and 95
separate the two decode pieces, which do not meet.

Differences from the released simulator
    - a pipeline stage takes its share of the layers, plus the hop over the actual link;
      the simulator adds constants of its own instead.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clusters.fields import check_fields, spec
from clusters.gpu import GpuType
from clusters.mapping import from_mapping
from clusters.serde import read_mapping
from models.communication import CommunicationEfficiency
from models.latency.layer_share import stages_by_layers
from models.latency.request import (
    LatencyRequest,
    LatencyUnavailableError,
    Provenance,
)
from models.latency.step_table import StepTable
from models.llm import LlmSpec

_FILE = Path(__file__).parents[1] / "catalog" / "published" / "distserve.yaml"
_FAR_TOKENS = 65536.0
"""Second knot of a straight line in tokens; lines continue beyond it."""
_FAR_REQUESTS = 4096.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCoefficients:
    """Prefill step: ``fixed + per_token * sum(L) + per_sq_token * sum(L^2)``."""

    fixed_ms: float = spec("Cost of any step.", unit="ms", ge=0)
    per_token_ms: float = spec("Cost of a prompt token.", unit="ms/token", ge=0)
    per_sq_token_ms: float = spec("Cost of a squared length.", unit="ms/token^2")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCoefficients:
    """Decode step: ``fixed + per_kv_token * sum(context + 1) + per_request * B``."""

    fixed_ms: float = spec("Cost of any step.", unit="ms", ge=0)
    per_kv_token_ms: float = spec("Cost of an attended token.", unit="ms/token", ge=0)
    per_request_ms: float = spec("Cost of a request.", unit="ms", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def at_batch_ms(self, num_requests: float) -> float:
        """The part that does not depend on context, in ms."""
        return self.fixed_ms + self.per_request_ms * num_requests


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFit:
    """Coefficients of one LLM at one tensor parallelism."""

    llm: str = spec("Catalogue name of the LLM.")
    tp: int = spec("Tensor parallelism.", unit="GPUs", ge=1)
    unusable: str | None = spec("Why it is not used, if so.", default=None)
    prefill: PrefillCoefficients = spec("Prefill step.")
    decode_small: DecodeCoefficients = spec("Decode step of a small batch.")
    decode_large: DecodeCoefficients = spec("Decode step of a large batch.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedEngine:
    """Fits of one serving engine."""

    engine: str = spec("Serving engine that was measured.")
    fits: tuple[PublishedFit, ...] = spec("Its coefficients.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """The published file: one GPU type, several engines."""

    source: str = spec("Where the coefficients were published.")
    date: str = spec("When.")
    gpu: str = spec("Catalogue name of the GPU they were measured on.")
    large_batch_from: int = spec(
        "First batch size of the large decode piece.", unit="requests", ge=2
    )
    engines: tuple[PublishedEngine, ...] = spec("By engine.")


@cache
def load_published(path: Path = _FILE) -> PublishedTable:
    """Read and check a file of published coefficients."""
    return from_mapping(PublishedTable, read_mapping(path), file=str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSource:
    """Published coefficients of one engine as a latency source."""

    engine: str = spec("distserve or vllm (as measured by DistServe's authors).")
    efficiency: CommunicationEfficiency = spec(
        "For the pipeline hops.", default=CommunicationEfficiency()
    )

    @property
    def name(self) -> str:
        """Name users select it by."""
        return f"published-{self.engine}"

    @property
    def provenance(self) -> Provenance:
        """Kind of evidence."""
        return Provenance.PUBLISHED

    @property
    def expected_error_frac(self) -> float | None:
        """Not stated by the publication."""
        return None

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None when the publication measured this very LLM on this GPU type."""
        table = load_published()
        if gpu.name != table.gpu:
            return f"measured on {table.gpu} only, not {gpu.name}"
        if not any(llm.is_catalog_model(name) for name in self._llms()):
            return f"no coefficients of {llm.name}"
        return None

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """Tables of a replica whose TP is in the publication; PP by layer share."""
        llm, parallelism = request.llm, request.parallelism
        request.refuse_ranks("the publication")
        fit = self._fit(llm, parallelism.tp)
        whole = _whole_table(fit, load_published().large_batch_from)
        return stages_by_layers(whole, request, self.efficiency)

    def _fits(self) -> tuple[PublishedFit, ...]:
        engines = {entry.engine: entry.fits for entry in load_published().engines}
        return engines.get(self.engine, ())

    def _llms(self) -> tuple[str, ...]:
        return tuple(sorted({fit.llm for fit in self._fits()}))

    def _fit(self, llm: LlmSpec, tp: int) -> PublishedFit:
        fits = {fit.tp: fit for fit in self._fits() if llm.is_catalog_model(fit.llm)}
        if tp not in fits:
            known = ", ".join(f"TP{degree}" for degree in sorted(fits))
            raise LatencyUnavailableError(
                f"no published latency of {llm.name} at TP{tp} (published: {known})"
            )
        unusable = fits[tp].unusable
        if unusable is not None:
            raise LatencyUnavailableError(
                f"published latency of {llm.name} at TP{tp} is unusable: {unusable}"
            )
        return fits[tp]


def _whole_table(fit: PublishedFit, large_from: int) -> StepTable:
    """All layers on one stage."""
    prefill, small, large = fit.prefill, fit.decode_small, fit.decode_large
    last_small = float(large_from - 1)
    return StepTable(
        prefill_tokens=(0.0, _FAR_TOKENS),
        prefill_ms=(
            prefill.fixed_ms,
            prefill.fixed_ms + prefill.per_token_ms * _FAR_TOKENS,
        ),
        prefill_per_sq_token_ms=prefill.per_sq_token_ms,
        decode_batch=(0.0, last_small, float(large_from), _FAR_REQUESTS),
        decode_ms=(
            small.fixed_ms,
            small.at_batch_ms(last_small),
            large.at_batch_ms(large_from),
            large.at_batch_ms(_FAR_REQUESTS),
        ),
        decode_per_kv_token_ms=(
            small.per_kv_token_ms,
            small.per_kv_token_ms,
            large.per_kv_token_ms,
            large.per_kv_token_ms,
        ),
    )
