"""What `phaseplan profile smoke` looks at beside the device, and its table."""

import time
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from planner.cli.profile_simulator import SimulatorCompiler
from planner.cli.tables import table_of

if TYPE_CHECKING:
    from rich.table import Table

    from profiler.environment import Device
    from profiler.smoke import ProbeResult
    from profiler.subject import Subject

_PACKAGES = ("numpy", "scipy", "yaml", "networkx", "typer", "rich")
_OPTIONAL = ("numba", "triton", "matplotlib", "pynvml", "cuda.bindings.driver")


def smoke_subjects(
    device: "Device", suite: str, model: str | None, dtype: str
) -> tuple["Subject", ...]:
    """One layer of every model of the suite at its largest shard, and one pair of ends.

    Larger shards bring nothing new: they only take longer.
    """
    from profiler.campaign_plan import campaign_subjects

    subjects = campaign_subjects(device, suite=suite, model=model, dtype=dtype)
    found: dict[tuple[object, str], Subject] = {}
    for subject in subjects:
        key = ("ends", "") if subject.is_ends else (subject.llm, subject.part)
        kept = found.get(key)
        if kept is None or (not subject.is_ends and subject.tp > kept.tp):
            found[key] = subject
    return tuple(found.values())


def crashing_features(device: "Device", dtype: str) -> tuple[str, ...]:
    """Features that take a process down when they are tried on a device."""
    import tempfile
    from pathlib import Path

    from profiler.grid import GridLimits
    from profiler.smoke import SmokeRequest, features_to_leave_out, smoke

    with tempfile.TemporaryDirectory() as folder:
        request = SmokeRequest(
            limits=GridLimits(),
            device=f"{device.kind}:{device.index}" if device.is_cuda else device.kind,
            dtype=dtype,
            out=str(Path(folder) / "results.json"),
        )
        return tuple(map(str, features_to_leave_out(smoke(request))))


def host_probes() -> tuple["ProbeResult", ...]:
    """What the host brings: packages that are needed, and others."""
    from profiler.smoke import Outcome, ProbeResult

    results = []
    for title, names, missing in (
        ("packages", _PACKAGES, Outcome.FAILED),
        ("optional packages", _OPTIONAL, Outcome.ABSENT),
    ):
        began = time.perf_counter()
        told = {name: _version(name) for name in names}
        absent = [name for name, version in told.items() if version is None]
        detail = ", ".join(
            f"{name} {version or 'absent'}" for name, version in told.items()
        )
        results.append(
            ProbeResult(
                name=title,
                outcome=missing if absent else Outcome.OK,
                detail=detail,
                seconds=time.perf_counter() - began,
            )
        )
    return tuple(results)


class SimulatorProbe:
    """Compiles the simulator in a process of its own, while the device is looked at."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._compiler = SimulatorCompiler()

    def result(self, deadline_s: float) -> "ProbeResult":
        """How it went; a compilation that takes longer is no failure."""
        from profiler.smoke import Outcome, ProbeResult

        limit_s = max(1.0, self._began_s + deadline_s - time.monotonic())
        why_not = self._compiler.why_not_ready(limit_s)
        outcome = Outcome.OK if why_not is None else Outcome.FAILED
        if self._compiler.is_running:
            outcome, why_not = (
                Outcome.NOT_TRIED,
                "still compiling; it goes on next time",
            )
        detail = why_not or "compiled"
        self._compiler.end()
        return ProbeResult(
            name="simulator",
            outcome=outcome,
            detail=detail,
            seconds=time.monotonic() - self._began_s,
        )


def _version(package: str) -> str | None:
    try:
        module = import_module(package)
    except ImportError:
        return None
    return str(getattr(module, "__version__", "there"))


def smoke_table(results: Sequence["ProbeResult"]) -> "Table":
    """Probe by probe: how it ended, how long it took, and what it found."""
    rows = [
        [result.name, str(result.outcome), f"{result.seconds:.1f} s", result.detail]
        for result in results
    ]
    return table_of(["probe", "outcome", "time", "detail"], rows, numeric=("time",))
