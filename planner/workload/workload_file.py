"""How a workload is written in a problem file or a plan."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_fields, nearest, to_mapping
from planner.workload.arrivals import (
    ArrivalProcess,
    ClosedLoop,
    FixedGapArrivals,
    GammaArrivals,
    PoissonArrivals,
    TraceArrivals,
)
from planner.workload.lengths import (
    EmpiricalLengths,
    FixedLengths,
    LengthDistribution,
    LognormalLengths,
)
from planner.workload.presets import named_lengths
from planner.workload.rate_schedule import DailyArrivals, PiecewiseRateArrivals
from planner.workload.sessions import Sessions
from planner.workload.trace_source import TraceSource

FileArrivals = (
    PoissonArrivals
    | GammaArrivals
    | FixedGapArrivals
    | PiecewiseRateArrivals
    | DailyArrivals
    | ClosedLoop
)
_WITHOUT_PARAMETERS: dict[str, ArrivalProcess] = {
    "poisson": PoissonArrivals(),
    "fixed_gap": FixedGapArrivals(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmpiricalFile:
    """Lengths drawn from a trace, without its times."""

    trace: str = spec("Trace file, relative to the file that names it.")
    format: str | None = spec("A trace format; None: by the first line.", default=None)
    head: int | None = spec("Only this many rows.", unit="requests", ge=1, default=None)
    with_replacement: bool = spec("Draw pairs independently.", default=False)
    kind: Literal["empirical"] = spec("Tag in files.", default="empirical")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFile:
    """Keys of a workload in a file: ``trace``, or ``lengths`` with ``arrivals``."""

    name: str | None = spec("For reports.", default=None)
    trace: str | None = spec(
        "Trace file, relative to the file that names it.", default=None
    )
    format: str | None = spec("A trace format; None: by the first line.", default=None)
    model: str | None = spec(
        "Only the rows of this model, in a trace of several; None: all.", default=None
    )
    head: int | None = spec("Only this many rows.", unit="requests", ge=1, default=None)
    jitter_ms: float = spec(
        "Random delay of recorded times that were rounded down to this grid.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    lengths: str | FixedLengths | LognormalLengths | EmpiricalFile | None = spec(
        "A preset, INPUTxOUTPUT, or a distribution with its kind.", default=None
    )
    arrivals: str | FileArrivals | None = spec(
        "poisson (default), fixed_gap, or a process with its kind.", default=None
    )
    sessions: Sessions | None = spec("Turns that follow each other.", default=None)
    rate_rps: float | None = spec("Mean rate.", unit="requests/s", gt=0, default=None)
    concurrency: int | None = spec(
        "Closed loop with so many requests at a time.",
        unit="requests",
        ge=1,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.trace is None) == (self.lengths is None):
            raise InputError("trace", self.trace, "either a trace or lengths")
        if self.model is not None and self.trace is None:
            raise InputError("model", self.model, "a trace beside it")
        of_lengths = (self.arrivals, self.concurrency, self.sessions)
        if self.trace is not None and of_lengths != (None, None, None):
            raise InputError(
                "trace", self.trace, "no arrivals, concurrency or sessions beside it"
            )
        if self.arrivals is not None and self.concurrency is not None:
            raise InputError("concurrency", self.concurrency, "no arrivals beside it")

    @classmethod
    def of(cls, data: object, *, file: str | None = None) -> Self:
        """The keys of a mapping; text alone is a trace file."""
        if isinstance(data, str):
            return cls(trace=data)
        return from_fields(cls, data, file=file)

    def path(self, name: str, *, file: str | None) -> str:
        """A trace file named in `file`, seen from where the program runs."""
        return str(Path(file).parent / name) if file else name

    def length_distribution(self, *, file: str | None = None) -> LengthDistribution:
        """The lengths, read from their trace if they are empirical."""
        if isinstance(self.lengths, str):
            return named_lengths(self.lengths)
        if isinstance(self.lengths, EmpiricalFile):
            source = TraceSource(
                path=self.path(self.lengths.trace, file=file),
                format=self.lengths.format,
                head=self.lengths.head,
            )
            return EmpiricalLengths.of(
                source.read(),
                with_replacement=self.lengths.with_replacement,
                source=source,
            )
        if self.lengths is None:
            raise InputError("lengths", None, "a length distribution")
        return self.lengths

    def arrival_process(self) -> ArrivalProcess | ClosedLoop:
        """The arrivals; Poisson if the file does not say."""
        if self.concurrency is not None:
            return ClosedLoop(concurrency=self.concurrency)
        if self.arrivals is None:
            return PoissonArrivals()
        if isinstance(self.arrivals, str):
            if self.arrivals not in _WITHOUT_PARAMETERS:
                hint = nearest(self.arrivals, _WITHOUT_PARAMETERS)
                expected = f"poisson, fixed_gap, or a mapping with a kind ({hint})"
                raise InputError("arrivals", self.arrivals, expected)
            return _WITHOUT_PARAMETERS[self.arrivals]
        if isinstance(self.arrivals, DailyArrivals):
            return self.arrivals.schedule()
        return self.arrivals


def lengths_to_file(lengths: LengthDistribution) -> Any:
    """Plain data of a length distribution.

    Raises
    ------
    InputError
        If it is a pool in memory without a file.
    """
    if not isinstance(lengths, EmpiricalLengths):
        return to_mapping(lengths)
    if lengths.source is None:
        raise InputError("lengths", "...", "lengths that were read from a file")
    source = lengths.source
    return to_mapping(
        EmpiricalFile(
            trace=source.path,
            format=source.format,
            head=source.head,
            with_replacement=lengths.with_replacement,
        )
    )


def arrivals_to_file(arrivals: ArrivalProcess | ClosedLoop) -> Any:
    """Plain data of an arrival process.

    Raises
    ------
    InputError
        If it holds recorded gaps in memory.
    """
    if isinstance(arrivals, TraceArrivals):
        raise InputError("arrivals", "...", "arrivals that a file can describe")
    return to_mapping(arrivals)
