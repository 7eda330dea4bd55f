"""What a latency source is asked, what it answers, and the contract between them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from clusters.fields import InputError, check_fields, spec
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism


class LatencyUnavailableError(ValueError):
    """No latency for a request; the message is the reason, fit for a plan's report."""


class ExtrapolationWarning(UserWarning):
    """A latency lies outside what was measured, so physics stands in for the fit."""


class Provenance(StrEnum):
    """Where a number comes from, from weakest to strongest evidence."""

    DATASHEET = "datasheet"
    PUBLISHED = "published"
    FITTED = "fitted"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLinks:
    """Links of one pipeline stage."""

    tensor: GroupLink = spec("Ring within a tensor-parallel group.")
    stage: GroupLink = spec("Ring over all GPUs of the stage.")
    hop: GroupLink | None = spec("Link to the next stage, None on the last.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRequest:
    """One replica whose step latencies are wanted."""

    llm: LlmSpec = spec("The model.")
    parallelism: Parallelism = spec("How the replica is split.")
    gpu: GpuType = spec("The GPU type of all its GPUs.")
    links: GroupLinks = spec("Links of each stage and between stages.")
    prompt_tokens: float | None = spec(
        "Typical prompt, which an attention-data-parallel rank serves whole; None: a "
        "step's tokens fill all ranks alike.",
        unit="tokens",
        gt=0,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        stages, hops = self.parallelism.pp, self.parallelism.pp - 1
        if len(self.links.tp) != stages:
            raise InputError("links.tp", len(self.links.tp), f"{stages} (one a stage)")
        if len(self.links.pp) != hops:
            raise InputError("links.pp", len(self.links.pp), f"{hops} (one a hop)")
        if len(self.links.inner) not in (0, stages):
            num = len(self.links.inner)
            raise InputError("links.inner", num, f"none or {stages} (one a stage)")

    @property
    def stage_links(self) -> tuple[StageLinks, ...]:
        """Links of every pipeline stage."""
        inner = self.links.inner or self.links.tp
        hops = (*self.links.pp, None)
        return tuple(
            StageLinks(tensor=tensor, stage=stage, hop=hop)
            for tensor, stage, hop in zip(inner, self.links.tp, hops, strict=True)
        )

    def refuse_ranks(self, source: str) -> None:
        """Refuse ranks for a source that knows tensor and pipeline parallelism only.

        Raises
        ------
        LatencyUnavailableError
            When the stage has attention-data-parallel or context-parallel ranks.
        """
        if self.parallelism.num_ranks > 1:
            raise LatencyUnavailableError(
                f"{source} has TP and PP only, not {self.parallelism}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyChoice:
    """Step latencies of every pipeline stage, and where they come from."""

    stages: tuple[StepTable, ...] = spec("One table a pipeline stage.")
    source: str = spec("Name of the source.")
    provenance: Provenance = spec("Kind of evidence behind it.")
    reason: str = spec("Why this source, in one line.")
    expected_error_frac: float | None = spec(
        "Relative error 9 of 10 steps stay within, None when nobody stated one.",
        unit="1",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRemarks:
    """What a source has to say about one request."""

    notes: tuple[str, ...] = spec("For the plan's report.", default=())
    outside_fit: tuple[str, ...] = spec(
        "Where the request leaves the fitted domain, with what stands in.", default=()
    )
    expected_error_frac: float | None = spec(
        "Relative error 9 of 10 steps stay within.", unit="1", default=None
    )


@runtime_checkable
class RemarkingSource(Protocol):
    """A source whose evidence differs from request to request."""

    def remarks(self, request: LatencyRequest) -> SourceRemarks:
        """What to tell about the tables compiled for `request`."""
        ...


class LatencySource(Protocol):
    """Something that compiles requests to step tables.

    `why_not_pair` speaks for an LLM on a GPU type, whatever the parallelism. The
    library uses one source per pair, so that candidate plans are compared on the same
    evidence.
    """

    @property
    def name(self) -> str:
        """Name users select it by."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Kind of evidence."""
        ...

    @property
    def expected_error_frac(self) -> float | None:
        """Relative error 9 of 10 steps stay within, None when nobody stated one."""
        ...

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None when the source covers `llm` on `gpu`, or the reason why not."""
        ...

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """One table a pipeline stage.

        Raises
        ------
        LatencyUnavailableError
            When the pair is covered but not this parallelism.
        """
        ...
