"""SM shares by processes: one that is started for each share, as CUDA MPS wants it.

MPS (and OpenMP, which stands for it on a CPU) read the share of a process from its
environment once, so a share is measured by a process of its own. It writes to a file
of its own; what it found joins the other records here, under this process's
environment: MPS shows a confined process fewer SMs, and they are the same GPU.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import dump_json, read_mapping, write_text_atomic
from models.latency.profile_shares import share_slowdowns
from models.profile_records import Environment, StepRecord
from models.profile_table import RecordWriter, read_profile_table
from profiler.campaign import CampaignSettings, run_campaign
from profiler.environment import Device, environment_of
from profiler.grid import GridLimits
from profiler.measurer import TorchMeasurer
from profiler.sections import Section
from profiler.sm_share import (
    MPS_VARIABLE,
    THREADS_VARIABLE,
    OwnProcess,
    least_slowdown,
    num_processors,
)
from profiler.subject import Subject
from profiler.timing import TimingSettings

_PERCENT = 100.0
_SHORTEST_S = 60.0
"""Least time a process gets: starting torch alone may take a quarter of it."""
_CONFINED = ("num_sms",)
"""What a confined process sees otherwise than this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRequest:
    """What the process of a share measures."""

    subjects: tuple[Subject, ...] = spec("Layers.")
    limits: GridLimits = spec("Reach of the grid.")
    device: str = spec("cuda, cuda:N or cpu.")
    gpu: str | None = spec("GPU type it stands for.", default=None)
    timing: TimingSettings = spec("When a sample is good enough.")
    budget_s: float = spec("Time for it.", unit="s", gt=0)
    out: str = spec("File for its records.")

    def __post_init__(self) -> None:
        check_fields(self)


def why_no_processes(device: Device) -> str | None:
    """None when processes can be confined here, or why not."""
    if not device.is_cuda:
        return "a CPU is shared by threads"
    pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    if not (pipes / "control").exists():
        return f"no CUDA MPS server is running (nothing in {pipes})"
    return None


def given_shares(device: Device, wanted: Sequence[float]) -> tuple[float, ...]:
    """The shares that a process can be given, largest first, each once."""
    total = _PERCENT if device.is_cuda else float(num_processors())
    parts = {max(1, round(share * total)) for share in wanted}
    return tuple(part / total for part in sorted(parts, reverse=True) if part < total)


def measure_shares(
    request: ShareRequest, shares: Sequence[float], path: Path
) -> tuple[str, ...]:
    """Measure each share in a process of its own and append what it found to `path`.

    Returns a line for each share that could not be measured.

    Raises
    ------
    InputError
        When a process measured another device, driver or version than this one.
    """
    device = Device.open(request.device)
    environment = environment_of(device, gpu=request.gpu)
    whole = [r for r in read_profile_table(path).steps if r.sm_share_frac == 1.0]
    problems = []
    for share in given_shares(device, shares):
        found: list[StepRecord] = []
        problem = _run_share(request, share, device)
        if problem is None:
            steps = read_profile_table(request.out).steps
            found = [_as_here(record, environment) for record in steps]
            problem = _why_not_enforced([*whole, *found])
        if problem:
            problems.append(f"{share:.0%} of the SMs: {problem}")
            continue
        with RecordWriter(path) as writer:
            for record in found:
                writer.append(record)
    Path(request.out).unlink(missing_ok=True)
    return tuple(problems)


def _why_not_enforced(records: Sequence[StepRecord]) -> str | None:
    """None when prompts took visibly longer on the share; what was seen otherwise."""
    try:
        slowdowns = share_slowdowns(records)
    except InputError as error:
        return str(error)
    for each in slowdowns:
        least = least_slowdown(each.sm_share_frac)
        if each.phase == "prefill" and each.most < least:
            seen = f"prefill took at most {each.most:.2f} times as long"
            return f"{seen}, less than {least:.2f}: the share is not enforced"
    return None


def _run_share(request: ShareRequest, share: float, device: Device) -> str | None:
    """Run the process of a share to its end; None, or what went wrong."""
    Path(request.out).unlink(missing_ok=True)
    asked = Path(f"{request.out}.request.json")
    write_text_atomic(asked, dump_json(to_mapping(request)))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "profiler.sm_share_processes", str(asked)],
            env={**os.environ, **_confined(device, share)},
            capture_output=True,
            text=True,
            check=False,
            timeout=max(_SHORTEST_S, 2.0 * request.budget_s),
        )
    except subprocess.TimeoutExpired as error:
        return f"did not end within {error.timeout:.0f} s"
    finally:
        asked.unlink(missing_ok=True)
    if done.returncode or not Path(request.out).exists():
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit code {done.returncode}"
    return None


def _confined(device: Device, share: float) -> dict[str, str]:
    """The environment of a process with a share of the device."""
    if device.is_cuda:
        return {MPS_VARIABLE: str(round(_PERCENT * share))}
    return {THREADS_VARIABLE: str(max(1, round(share * num_processors())))}


def _as_here(record: StepRecord, environment: Environment) -> StepRecord:
    """The record under this environment, of which it may differ in what is confined."""
    theirs = record.environment
    for name in (f.name for f in fields(Environment) if f.name not in _CONFINED):
        here, there = getattr(environment, name), getattr(theirs, name)
        if here != there:
            raise InputError(f"environment.{name}", there, f"{here!r}, as here")
    return replace(record, environment=environment)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one share: the one that this process was started with."""
    (asked,) = sys.argv[1:] if arguments is None else arguments
    request = from_mapping(ShareRequest, read_mapping(asked), file=asked)
    device = Device.open(request.device)
    measurer = TorchMeasurer(
        device,
        dtype=request.subjects[0].dtype,
        timing=request.timing,
        gpu=request.gpu,
        limiter=OwnProcess(device),
    )
    settings = CampaignSettings(
        budget_s=request.budget_s,
        limits=request.limits,
        sections=(Section.SM_SHARE,),
        max_refinements=0,
    )
    run_campaign(request.subjects, measurer, request.out, settings=settings)


if __name__ == "__main__":
    main()
