"""Which file requests were read from, so that a plan can say it and read it again."""

from dataclasses import dataclass
from pathlib import Path

from clusters.fields import check_fields, spec
from planner.workload.requests import Requests
from planner.workload.traces import TraceFormat, read_trace, trace_format


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSource:
    """A trace file, or the first rows of it."""

    path: str = spec("The file.")
    format: str | None = spec("A trace format; None: by the first line.", default=None)
    model: str | None = spec("Only the rows of this model; None: all.", default=None)
    head: int | None = spec("Only this many rows.", unit="requests", ge=1, default=None)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """The file's name without folder and suffix, and the model."""
        stem = Path(self.path).stem
        return stem if self.model is None else f"{stem} {self.model}"

    def read(self) -> Requests:
        """The requests; see `read_trace` for errors and warnings."""
        return read_trace(
            self.path, format=self.format, model=self.model, head=self.head
        )

    def has_times(self) -> bool:
        """Whether the file has arrival times, or only lengths."""
        kind = self.format or trace_format(self.path)
        return TraceFormat(kind).has_times
