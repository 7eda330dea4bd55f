"""Published tables: measured latencies that other authors released, as knots.

Reference
    Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting",
    ISCA 2024, arXiv 2311.18677: Llama-2-70B and BLOOM-176B on A100 and H100.
    Duan et al., "MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM
    Serving", ICML 2024, arXiv 2404.02015: LLaMA 7B to 65B on A100.

The files in `models/catalog/published` hold the knots of a `StepTable` per model, GPU
type and tensor parallelism, written from the released tables by
`benchmarks/fit/published_tables.py`. They describe the engines of their time, so they
answer only when named: ``engine: {latency_sources: [published-splitwise]}``.

Differences from the released tools
    - one table for prefill and decode; the Splitwise simulator asks a flat curve for
      its decode steps, and MuxServe rounds batches up to the next measured one.
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
    SourceRemarks,
)
from models.latency.step_table import StepTable
from models.llm import LlmSpec

PUBLICATIONS = ("splitwise", "muxserve")
_FOLDER = Path(__file__).parents[1] / "catalog" / "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedKnots:
    """One model on one GPU type at one tensor parallelism."""

    llm: str = spec("Catalogue name of the LLM.")
    gpu: str = spec("Catalogue name of the GPU type.")
    tp: int = spec("Tensor parallelism.", unit="GPUs", ge=1)
    rows_used: int = spec("Published points behind it.", unit="rows", ge=1)
    p90_error_frac: float = spec(
        "Distance from 9 of 10 of those points.", unit="1", ge=0
    )
    prefill_tokens: tuple[float, ...] = spec("Knots of prefill.", unit="tokens")
    prefill_ms: tuple[float, ...] = spec("Prefill at its knots.", unit="ms")
    decode_batch: tuple[float, ...] = spec("Knots of decode.", unit="requests")
    decode_ms: tuple[float, ...] = spec("Decode without context.", unit="ms")
    decode_per_kv_token_ms: tuple[float, ...] = spec(
        "Decode per attended token.", unit="ms/token"
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def table(self) -> StepTable:
        """The step table of all layers on one stage."""
        return StepTable(
            prefill_tokens=self.prefill_tokens,
            prefill_ms=self.prefill_ms,
            decode_batch=self.decode_batch,
            decode_ms=self.decode_ms,
            decode_per_kv_token_ms=self.decode_per_kv_token_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A file of published tables."""

    source: str = spec("Where the tables were published.")
    date: str = spec("When.")
    engine: str = spec("Name of the publication's engine.")
    tables: tuple[PublishedKnots, ...] = spec("By model, GPU type and parallelism.")


@cache
def load_publication(name: str) -> Publication:
    """One of `PUBLICATIONS`."""
    path = _FOLDER / f"{name}.yaml"
    return from_mapping(Publication, read_mapping(path), file=str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTableSource:
    """The tables of one publication as a latency source."""

    publication: str = spec("splitwise or muxserve.")
    efficiency: CommunicationEfficiency = spec(
        "For the pipeline hops.", default=CommunicationEfficiency()
    )

    @property
    def name(self) -> str:
        """Name users select it by."""
        return f"published-{self.publication}"

    @property
    def provenance(self) -> Provenance:
        """Kind of evidence."""
        return Provenance.PUBLISHED

    @property
    def expected_error_frac(self) -> float | None:
        """Worst of its tables, against the points they were made from."""
        return max((table.p90_error_frac for table in self._tables), default=None)

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None when the publication measured this very LLM on this GPU type."""
        if self._of_pair(llm, gpu):
            return None
        gpus = sorted({table.gpu for table in self._tables})
        if gpu.name not in gpus:
            return f"measured on {', '.join(gpus)} only, not {gpu.name}"
        return f"no table of {llm.name}"

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """Tables of a replica whose TP was measured; PP by layer share."""
        request.refuse_ranks("the publication")
        whole = self._knots(request).table
        return stages_by_layers(whole, request, self.efficiency)

    def remarks(self, request: LatencyRequest) -> SourceRemarks:
        """Whose measurements these are, and how far the table is from them."""
        publication = load_publication(self.publication)
        knots = self._knots(request)
        return SourceRemarks(
            notes=(
                f"{publication.source} ({publication.date}, {knots.rows_used} points)",
            ),
            expected_error_frac=knots.p90_error_frac,
        )

    @property
    def _tables(self) -> tuple[PublishedKnots, ...]:
        return load_publication(self.publication).tables

    def _of_pair(self, llm: LlmSpec, gpu: GpuType) -> dict[int, PublishedKnots]:
        """Tables by tensor parallelism."""
        return {
            table.tp: table
            for table in self._tables
            if table.gpu == gpu.name and llm.is_catalog_model(table.llm)
        }

    def _knots(self, request: LatencyRequest) -> PublishedKnots:
        llm, tp = request.llm, request.parallelism.tp
        tables = self._of_pair(llm, request.gpu)
        if tp not in tables:
            known = ", ".join(f"TP{degree}" for degree in sorted(tables))
            raise LatencyUnavailableError(
                f"no published latency of {llm.name} at TP{tp} (published: {known})"
            )
        return tables[tp]
