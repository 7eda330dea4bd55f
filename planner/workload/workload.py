"""Workload: what is asked of a service, and the one place that draws requests."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import to_mapping
from clusters.units import s_to_ms
from planner.workload.arrivals import (
    ArrivalProcess,
    ClosedLoop,
    FixedGapArrivals,
    GammaArrivals,
    PoissonArrivals,
)
from planner.workload.lengths import EmpiricalLengths, LengthDistribution
from planner.workload.presets import named_lengths
from planner.workload.replay import replay
from planner.workload.requests import FloatArray, Requests
from planner.workload.sessions import Sessions
from planner.workload.streams import Stream, generator_for
from planner.workload.trace_source import TraceSource
from planner.workload.workload_file import (
    WorkloadFile,
    arrivals_to_file,
    lengths_to_file,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """Requests of one service: a recorded trace, or lengths with arrivals.

    Use the constructors `poisson`, `gamma`, `fixed_gap`, `closed_loop`, `from_trace`
    and `from_requests`.
    """

    name: str = spec("For reports.")
    lengths: LengthDistribution | None = spec(
        "Prompt and answer lengths.", default=None
    )
    arrivals: ArrivalProcess | ClosedLoop | None = spec(
        "When requests come.", default=None
    )
    rate_rps: float | None = spec(
        "Mean rate; None: as recorded, or a closed loop.",
        unit="requests/s",
        gt=0,
        default=None,
    )
    trace: Requests | None = spec("Recorded requests.", default=None)
    jitter_ms: float = spec(
        "Random delay of recorded times that were rounded down to this grid.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    source: TraceSource | None = spec("File of the trace.", default=None)
    sessions: Sessions | None = spec(
        "Turns that follow each other; the rate is that of all turns.", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.trace is not None:
            if (self.lengths, self.arrivals, self.sessions) != (None, None, None):
                raise InputError("trace", self.name, "no lengths or arrivals beside it")
            return
        if self.lengths is None or self.arrivals is None:
            raise InputError("workload", self.name, "a trace, or lengths and arrivals")
        if (self.rate_rps is None) != isinstance(self.arrivals, ClosedLoop):
            expected = "a rate for open arrivals, and none for a closed loop"
            raise InputError("rate_rps", self.rate_rps, expected)
        if self.sessions is not None and isinstance(self.arrivals, ClosedLoop):
            raise InputError("sessions", "...", "none in a closed loop")
        if self.jitter_ms > 0:
            raise InputError("jitter_ms", self.jitter_ms, "0 where there is no trace")

    @classmethod
    def of_lengths(
        cls,
        lengths: LengthDistribution | str,
        *,
        arrivals: ArrivalProcess | ClosedLoop,
        rate_rps: float | None = None,
        name: str | None = None,
        sessions: Sessions | None = None,
    ) -> Self:
        """Lengths (a distribution, a preset's name or ``512x64``) with arrivals."""
        named = name or (lengths if isinstance(lengths, str) else "synthetic")
        if isinstance(lengths, str):
            lengths = named_lengths(lengths)
        return cls(
            name=named,
            lengths=lengths,
            arrivals=arrivals,
            rate_rps=rate_rps,
            sessions=sessions,
        )

    @classmethod
    def poisson(cls, *, rate_rps: float, lengths: LengthDistribution | str) -> Self:
        """Independent users at a mean rate."""
        return cls.of_lengths(lengths, arrivals=PoissonArrivals(), rate_rps=rate_rps)

    @classmethod
    def gamma(
        cls, *, rate_rps: float, cv: float, lengths: LengthDistribution | str
    ) -> Self:
        """Bursty (cv > 1) or smooth (cv < 1) arrivals at a mean rate."""
        return cls.of_lengths(lengths, arrivals=GammaArrivals(cv=cv), rate_rps=rate_rps)

    @classmethod
    def fixed_gap(cls, *, rate_rps: float, lengths: LengthDistribution | str) -> Self:
        """Equal gaps."""
        return cls.of_lengths(lengths, arrivals=FixedGapArrivals(), rate_rps=rate_rps)

    @classmethod
    def closed_loop(
        cls, *, concurrency: int, lengths: LengthDistribution | str
    ) -> Self:
        """A fixed number of clients that each wait for their answer."""
        return cls.of_lengths(lengths, arrivals=ClosedLoop(concurrency=concurrency))

    @classmethod
    def from_trace(
        cls,
        path: str | Path,
        *,
        format: str | None = None,
        rate_rps: float | None = None,
        model: str | None = None,
        head: int | None = None,
        jitter_ms: float = 0.0,
    ) -> Self:
        """A trace file, replayed as recorded or scaled to a mean rate.

        A file with lengths only (ShareGPT) becomes Poisson arrivals at `rate_rps` with
        lengths drawn from the file.

        Parameters
        ----------
        path
            The file.
        format
            A `TraceFormat`; None looks at the first line.
        rate_rps
            Mean rate to scale the recorded times to, in requests per second.
        model
            Only the rows of this model, where the file has several; None: all.
        head
            Only the first (of these) rows of the file.
        jitter_ms
            Grid that times were rounded down to, e.g. 3000 for Mooncake's conversation.

        Raises
        ------
        InputError
            As `read_trace`, or if there are neither times nor a rate.
        """
        source = TraceSource(path=str(path), format=format, model=model, head=head)
        requests = source.read()
        if source.has_times():
            return cls(
                name=source.name,
                trace=requests,
                rate_rps=rate_rps,
                jitter_ms=jitter_ms,
                source=source,
            )
        if rate_rps is None:
            expected = "a rate, since this trace has lengths but no times"
            raise InputError("rate_rps", rate_rps, expected, file=str(path))
        lengths = EmpiricalLengths.of(requests, source=source)
        return cls.of_lengths(
            lengths, arrivals=PoissonArrivals(), rate_rps=rate_rps, name=source.name
        )

    @classmethod
    def from_requests(
        cls,
        requests: Requests,
        *,
        rate_rps: float | None = None,
        name: str = "requests",
    ) -> Self:
        """Requests already in memory, replayed like a trace."""
        return cls(name=name, trace=requests, rate_rps=rate_rps)

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> Self:
        """The mapping described by `WorkloadFile`, or the name of a trace file."""
        form = WorkloadFile.of(data, file=file)
        if form.trace is not None:
            workload = cls.from_trace(
                form.path(form.trace, file=file),
                format=form.format,
                rate_rps=form.rate_rps,
                model=form.model,
                head=form.head,
                jitter_ms=form.jitter_ms,
            )
        else:
            workload = cls.of_lengths(
                form.length_distribution(file=file),
                arrivals=form.arrival_process(),
                rate_rps=form.rate_rps,
                name=form.lengths if isinstance(form.lengths, str) else None,
                sessions=form.sessions,
            )
        return workload if form.name is None else replace(workload, name=form.name)

    def to_file_form(self) -> dict[str, Any]:
        """The mapping that `from_file_form` reads back.

        Raises
        ------
        InputError
            If requests or lengths were given in memory and have no file.
        """
        form: dict[str, Any] = {"name": self.name}
        if self.trace is not None:
            if self.source is None:
                raise InputError(
                    "trace", self.name, "a trace that was read from a file"
                )
            form |= {"trace": self.source.path, "format": self.source.format}
            form |= {"model": self.source.model, "head": self.source.head}
            form |= {"jitter_ms": self.jitter_ms}
        if self.lengths is not None:
            form["lengths"] = lengths_to_file(self.lengths)
        if self.arrivals is not None:
            form["arrivals"] = arrivals_to_file(self.arrivals)
        if self.sessions is not None:
            form["sessions"] = to_mapping(self.sessions)
        form["rate_rps"] = self.rate_rps
        return {key: value for key, value in form.items() if value is not None}

    @property
    def concurrency(self) -> int | None:
        """Requests in the system at any time; None where arrivals are open."""
        if isinstance(self.arrivals, ClosedLoop):
            return self.arrivals.concurrency
        return None

    @property
    def ramp_ms(self) -> float:
        """How long the clients of a closed loop take to begin, in ms."""
        if isinstance(self.arrivals, ClosedLoop):
            return s_to_ms(self.arrivals.ramp_s)
        return 0.0

    @property
    def mean_rate_rps(self) -> float | None:
        """The mean rate, asked or recorded; None for a closed loop."""
        if self.rate_rps is None and self.trace is not None:
            return self.trace.rate_rps
        return self.rate_rps

    @property
    def mean_input_tokens(self) -> float:
        """Mean prompt length."""
        if self.trace is not None:
            return float(self.trace.input_tokens.mean())
        if self.sessions is not None:
            return self.sessions.mean_input_tokens(self._lengths)
        return self._lengths.mean_input_tokens

    @property
    def mean_output_tokens(self) -> float:
        """Mean answer length."""
        if self.trace is not None:
            return float(self.trace.output_tokens.mean())
        return self._lengths.mean_output_tokens

    @property
    def summary(self) -> str:
        """One line for a report."""
        if self.concurrency is not None:
            load = f"{self.concurrency} requests at a time"
        elif self.rate_rps is None:
            load = f"{self.mean_rate_rps:.4g} requests/s as recorded"
        else:
            load = f"{self.rate_rps:.4g} requests/s"
        return (
            f"{self.name}: {load}, mean {self.mean_input_tokens:.0f} input and "
            f"{self.mean_output_tokens:.0f} output tokens"
        )

    def at_rate(self, rate_rps: float) -> Self:
        """The same workload at another mean rate."""
        return replace(self, rate_rps=rate_rps)

    def draw(
        self, num_requests: int, *, seed: int, rate_rps: float | None = None
    ) -> Requests:
        """Requests of this workload; equal arguments give equal requests.

        For one seed, lengths are the same at every rate and gaps only scale, and the
        first of many requests are those of a shorter draw. Sessions are others at
        another rate, since more of them are under way.

        Parameters
        ----------
        num_requests
            How many, at least 1. A trace starts again where it ends.
        seed
            Whole, >= 0. A trace starts at its first request for 0, else at any one.
        rate_rps
            Another mean rate than the workload's own, in requests per second.

        Returns
        -------
        Requests
            The first arrives at 0; in a closed loop all do, and whoever runs them
            admits `concurrency` at a time.

        Raises
        ------
        InputError
            For a number, seed or rate out of range.
        """
        if num_requests < 1:
            raise InputError("num_requests", num_requests, "a whole number >= 1")
        rate = self.rate_rps if rate_rps is None else rate_rps
        if rate is not None and not 0 < rate < math.inf:
            raise InputError("rate_rps", rate, "a number > 0")
        if self.trace is not None:
            return replay(
                self.trace,
                num_requests,
                seed=seed,
                rate_rps=rate,
                jitter_ms=self.jitter_ms,
            )
        input_tokens, output_tokens = self._lengths.draw(
            num_requests, generator_for(Stream.LENGTHS, seed=seed)
        )
        if self.sessions is not None:
            rng = generator_for(Stream.SESSIONS, seed=seed)
            dealt = self.sessions.deal(
                num_requests,
                rate_rps=self._open_rate(rate),
                arrivals=self._open_arrivals,
                rng=rng,
                arrivals_rng=generator_for(Stream.ARRIVALS, seed=seed),
            )
            return self.sessions.requests(
                dealt, new_tokens=input_tokens, output_tokens=output_tokens, rng=rng
            )
        return Requests(
            arrival_ms=self._arrival_ms(num_requests, seed=seed, rate_rps=rate),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )

    def _arrival_ms(
        self, num_requests: int, *, seed: int, rate_rps: float | None
    ) -> FloatArray:
        if self.arrivals is None or isinstance(self.arrivals, ClosedLoop):
            if rate_rps is not None:
                raise InputError("rate_rps", rate_rps, "no rate for a closed loop")
            return np.zeros(num_requests)
        rng = generator_for(Stream.ARRIVALS, seed=seed)
        return self.arrivals.arrival_ms(
            num_requests, rate_rps=self._open_rate(rate_rps), rng=rng
        )

    def _open_rate(self, rate_rps: float | None) -> float:
        if rate_rps is None:
            raise InputError("rate_rps", rate_rps, "a number > 0")
        return rate_rps

    @property
    def _open_arrivals(self) -> ArrivalProcess:
        if self.arrivals is None or isinstance(self.arrivals, ClosedLoop):
            raise InputError("sessions", "...", "open arrivals")
        return self.arrivals

    @property
    def _lengths(self) -> LengthDistribution:
        if self.lengths is None:
            raise InputError("lengths", None, "a length distribution")
        return self.lengths
