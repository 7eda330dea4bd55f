"""Smoke: every probe of a device once, each failure with its reason, no failure fatal.

The probes run in a process of their own. Where one takes that process down (an illegal
access, a kernel that hangs) it is named, and the next process runs those after it: so
one look at a new machine finds all its surprises.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import dump_json, read_mapping, read_text, write_text_atomic
from profiler.environment import Device
from profiler.features import LEFT_OUT, Feature
from profiler.grid import GridLimits
from profiler.kernel_errors import KERNEL_ERRORS, first_line
from profiler.probes import Bench, NotHereError, Probe, ProbeFailedError, probes_of
from profiler.subject import Subject

_PROBE_S = 30.0
"""Longest silence of the process of the probes; compiling may take most of it."""
_POLL_S = 0.1
_MAX_FRUITLESS = 3
"""Processes in a row that die at their first probe: then it is not the probes."""
_FEATURE_OF = {
    "flash, ragged batches": Feature.VARLEN,
    "fused elementwise steps": Feature.FUSED,
    "fp8 products": Feature.FP8,
    "grouped products": Feature.GROUPED,
    "graph capture": Feature.GRAPHS,
    "SM shares": Feature.SM_SHARES,
}
"""Probes whose crash is a feature to leave out from then on."""


class Outcome(StrEnum):
    """How a probe ended."""

    OK = "ok"
    FAILED = "failed"
    CRASHED = "crashed"
    ABSENT = "absent"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe found."""

    name: str = spec("Its name.")
    outcome: Outcome = spec("How it ended.")
    detail: str = spec("What it found, or why it failed.", default="")
    seconds: float = spec("Time it took.", unit="s", ge=0, default=0.0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeRequest:
    """What the process of the probes is asked."""

    subjects: tuple[Subject, ...] = spec("Layers to run a few steps of.", default=())
    limits: GridLimits = spec("Reach of the steps.")
    device: str = spec("cuda, cuda:N or cpu.")
    dtype: str = spec("Number format of the activations.")
    names: tuple[str, ...] = spec("Probes to run; empty: all.", default=())
    out: str = spec("File for the results, a line each.")

    def __post_init__(self) -> None:
        check_fields(self)

    def bench(self) -> Bench:
        """What the probes work on."""
        return Bench(
            device=Device.open(self.device),
            dtype=self.dtype,
            subjects=self.subjects,
            limits=self.limits,
        )


def smoke(
    request: SmokeRequest,
    *,
    max_s: float = 55.0,
    show: Callable[[ProbeResult], None] = lambda _: None,
    now_s: Callable[[], float] = time.monotonic,
) -> tuple[ProbeResult, ...]:
    """Run every probe, in as many processes as it takes, until `max_s` is over."""
    run = _Run(request, now_s() + max_s, show, now_s)
    left = list(request.names or probes_of(request.subjects))
    num_fruitless, not_tried = 0, "no time was left"
    while left and now_s() < run.deadline_s:
        why = run.process(left)
        done = {result.name for result in run.results}
        num_fruitless = num_fruitless + 1 if left[0] not in done else 0
        left = [name for name in left if name not in done]
        if why is None or not left:
            break
        run.add(ProbeResult(name=left[0], outcome=Outcome.CRASHED, detail=why))
        run.left_out += [_FEATURE_OF[n] for n in left[:1] if n in _FEATURE_OF]
        left = left[1:]
        if num_fruitless == _MAX_FRUITLESS:
            not_tried = f"{num_fruitless} processes in a row found nothing"
            break
    for name in left:
        run.add(ProbeResult(name=name, outcome=Outcome.NOT_TRIED, detail=not_tried))
    return tuple(run.results)


def features_to_leave_out(results: Sequence[ProbeResult]) -> tuple[Feature, ...]:
    """Features whose probe took its process down."""
    return tuple(
        _FEATURE_OF[result.name]
        for result in results
        if result.outcome is Outcome.CRASHED and result.name in _FEATURE_OF
    )


@dataclass(slots=True)
class _Run:
    """One look at a device, over as many processes as it takes."""

    request: SmokeRequest
    deadline_s: float
    show: Callable[[ProbeResult], None]
    now_s: Callable[[], float]
    results: list[ProbeResult] = field(default_factory=list)
    left_out: list[Feature] = field(default_factory=list)

    def add(self, result: ProbeResult) -> None:
        """Keep a result and show it."""
        self.results.append(result)
        self.show(result)

    def process(self, names: Sequence[str]) -> str | None:
        """Run the probes of `names` in a process; None, or how it died."""
        asked = Path(f"{self.request.out}.request.json")
        write_text_atomic(
            asked, dump_json({**to_mapping(self.request), "names": list(names)})
        )
        environment = {**os.environ, LEFT_OUT: ",".join(self.left_out)}
        command = [sys.executable, "-m", "profiler.smoke", str(asked)]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=errors
            )
            try:
                why = self._watch(process, len(self.results))
            finally:
                process.kill()
                process.wait()
                asked.unlink(missing_ok=True)
                Path(self.request.out).unlink(missing_ok=True)
            errors.seek(0)
            return why or _how_it_ended(process.returncode, errors.read())

    def _watch(self, process: "subprocess.Popen[bytes]", before: int) -> str | None:
        """Take results as they come; None when it ended, or that it took too long."""
        heard_s = self.now_s()
        while True:
            has_ended = process.poll() is not None
            found = _read_results(Path(self.request.out))
            for result in found[len(self.results) - before :]:
                self.add(result)
                heard_s = self.now_s()
            if has_ended:
                return None
            silent_s = self.now_s() - heard_s
            if silent_s > _PROBE_S:
                return f"nothing came for {silent_s:.0f} s"
            if self.now_s() > self.deadline_s:
                return f"stopped after {silent_s:.0f} s: the time was over"
            time.sleep(_POLL_S)


def _read_results(path: Path) -> tuple[ProbeResult, ...]:
    if not path.exists():
        return ()
    return from_mapping(tuple[ProbeResult, ...], json.loads(read_text(path)))


def _how_it_ended(code: int, errors: str) -> str | None:
    if code == 0:
        return None
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"its process died ({how}){': ' + lines[-1] if lines else ''}"


def run_probe(name: str, probe: Probe, bench: Bench) -> ProbeResult:
    """Run one probe; whatever it raises is its result."""
    began = time.perf_counter()
    try:
        outcome, detail = Outcome.OK, probe(bench)
    except NotHereError as error:
        outcome, detail = Outcome.ABSENT, str(error)
    except ProbeFailedError as error:
        outcome, detail = Outcome.FAILED, str(error)
    except KERNEL_ERRORS as error:
        outcome = Outcome.FAILED
        detail = f"{type(error).__name__}: {first_line(error)}"
    seconds = time.perf_counter() - began
    return ProbeResult(name=name, outcome=outcome, detail=detail, seconds=seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the probes of a request, a line each into its file."""
    (asked,) = sys.argv[1:] if arguments is None else arguments
    request = from_mapping(SmokeRequest, read_mapping(asked), file=asked)
    bench = request.bench()
    probes = probes_of(request.subjects)
    unknown = [name for name in request.names if name not in probes]
    if unknown:
        raise InputError("names", unknown, "names of probes")
    results: list[ProbeResult] = []
    for name in request.names:
        result = run_probe(name, probes[name], bench)
        if result.outcome is Outcome.FAILED and not bench.device.is_usable():
            # The parent names the probe and goes on with the next in a new process.
            raise SystemExit(f"the device is lost: {result.detail}")
        results.append(result)
        write_text_atomic(request.out, dump_json(to_mapping(results)))


if __name__ == "__main__":
    main()
