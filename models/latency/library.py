"""LatencyLibrary: which latency source answers for a replica, and why.

The order of the sources is the order of trust. The first that covers an (LLM, GPU type)
pair answers for the pair at every parallelism: where it has no data the candidate is
unavailable, with the reason, and never priced silently from another source.
"""

import warnings
from dataclasses import dataclass, field
from typing import Self

from clusters.fields import InputError, spec
from clusters.gpu import GpuType
from clusters.mapping import nearest
from models.latency.aiconfigurator_source import live_sources
from models.latency.fit_file import ENGINES
from models.latency.fitted import FittedSource
from models.latency.published import PublishedSource
from models.latency.published_tables import PUBLICATIONS, PublishedTableSource
from models.latency.relatives import PROFILED_KERNELS
from models.latency.request import (
    ExtrapolationWarning,
    LatencyChoice,
    LatencyRequest,
    LatencySource,
    LatencyUnavailableError,
    Provenance,
    RemarkingSource,
    SourceRemarks,
)
from models.latency.roofline import RooflineSource
from models.llm import LlmSpec

__all__ = [
    "ExtrapolationWarning",
    "LatencyChoice",
    "LatencyLibrary",
    "LatencyRequest",
    "LatencySource",
    "LatencyUnavailableError",
    "Provenance",
]


def shipped_sources() -> tuple[LatencySource, ...]:
    """Every source that needs no file of the user, those of `default` in its order."""
    return (
        PublishedSource(engine="distserve"),
        PublishedSource(engine="vllm"),
        *(PublishedTableSource(publication=name) for name in PUBLICATIONS),
        *(FittedSource(engine=engine) for engine in (*ENGINES, PROFILED_KERNELS)),
        *live_sources(),
        RooflineSource(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyLibrary:
    """Latency sources in order of trust, with a cache of what they compiled."""

    sources: tuple[LatencySource, ...] = spec("Best first.")
    _cache: dict[LatencyRequest, LatencyChoice] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("sources", self.sources, "at least one latency source")

    @classmethod
    def default(cls) -> Self:
        """Published coefficients of DistServe's engine, fits of vLLM, the roofline."""
        return cls(
            sources=(
                PublishedSource(engine="distserve"),
                FittedSource(),
                RooflineSource(),
            )
        )

    def with_sources(self, *names: str) -> Self:
        """A library of the named shipped or own sources only, in that order.

        Raises
        ------
        InputError
            On a name that is neither in this library nor shipped.
        """
        known = {source.name: source for source in (*shipped_sources(), *self.sources)}
        for name in names:
            if name not in known:
                raise InputError(
                    "sources", name, f"a latency source ({nearest(name, known)})"
                )
        return type(self)(sources=tuple(known[name] for name in names))

    def choose(self, request: LatencyRequest) -> LatencyChoice:
        """Step tables for `request` from the source of its (LLM, GPU type) pair.

        Raises
        ------
        LatencyUnavailableError
            When the parallelism cannot split the model, when no source covers the
            pair, or when the pair's source lacks this parallelism.
        """
        if request not in self._cache:
            self._cache[request] = self._choose(request)
        return self._cache[request]

    def _choose(self, request: LatencyRequest) -> LatencyChoice:
        llm, parallelism = request.llm, request.parallelism
        impossible = parallelism.why_not(llm)
        if impossible:
            raise LatencyUnavailableError(impossible)
        source, reason = self.source_of(llm, request.gpu)
        if isinstance(source, RemarkingSource):
            remarks = source.remarks(request)
            reason = "; ".join([reason, *remarks.notes, *remarks.outside_fit])
            error_frac = remarks.expected_error_frac
            _warn_outside_fit(request, remarks)
        else:
            error_frac = source.expected_error_frac
        return LatencyChoice(
            stages=source.compile(request),
            source=source.name,
            provenance=source.provenance,
            reason=reason,
            expected_error_frac=error_frac,
        )

    def source_of(self, llm: LlmSpec, gpu: GpuType) -> tuple[LatencySource, str]:
        """The source that answers for `llm` on `gpu`, and why it is this one.

        Raises
        ------
        LatencyUnavailableError
            When none does, with every source's reason.
        """
        passed_over: list[str] = []
        for source in self.sources:
            why_not = source.why_not_pair(llm, gpu)
            if why_not is None:
                covers = f"{source.name} covers {llm.name} on {gpu.name}"
                return source, "; ".join([covers, *passed_over])
            passed_over.append(f"{source.name}: {why_not}")
        raise LatencyUnavailableError("; ".join(passed_over))


def _warn_outside_fit(request: LatencyRequest, remarks: SourceRemarks) -> None:
    if not remarks.outside_fit:
        return
    what = f"{request.llm.name} {request.parallelism} on {request.gpu.name}"
    message = f"{what}: {'; '.join(remarks.outside_fit)}"
    warnings.warn(message, ExtrapolationWarning, stacklevel=4)
