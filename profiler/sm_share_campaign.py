"""The SM-share section of a campaign: by the best way there is, or recorded why not.

Steps
    1. Confine streams of this process (green contexts; threads on a CPU).
    2. Otherwise start a process for each share (CUDA MPS), where a server runs.
    3. Otherwise every point of the section is recorded as not measured, and why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clusters.fields import check_fields, spec
from profiler.campaign import CampaignSettings, Progress, run_campaign
from profiler.environment import Device
from profiler.measurer import TorchMeasurer
from profiler.sections import SM_SHARES, Section
from profiler.sm_share import limiter_for
from profiler.sm_share_processes import (
    ShareRequest,
    given_shares,
    measure_shares,
    why_no_processes,
)
from profiler.subject import Subject
from profiler.timing import TimingSettings

_PROCESSES_FRAC = 0.8
"""Of the budget, where processes measure; this one measures the whole device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOutcome:
    """How the shares were given, or why there are none."""

    limiter: str = spec("Name of the way; empty: not measured.", default="")
    problems: tuple[str, ...] = spec("What could not be measured, and why.", default=())

    def __post_init__(self) -> None:
        check_fields(self)

    def describe(self) -> str:
        """E.g. ``by green-context`` or ``not measured: ...``."""
        how = f"by {self.limiter}" if self.limiter else "not measured"
        return f"{how}: {'; '.join(self.problems)}" if self.problems else how


def measure_sm_shares(
    device: Device,
    subjects: Sequence[Subject],
    path: Path,
    *,
    settings: CampaignSettings,
    timing: TimingSettings,
    gpu: str | None = None,
    shares: Sequence[float] = SM_SHARES,
    after_crash: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ShareOutcome:
    """Append the SM-share section of the subjects to `path`.

    Raises
    ------
    InputError
        When `path` cannot be written, or holds records of another environment.
    """
    settings = replace(settings, sections=(Section.SM_SHARE,), max_refinements=0)
    measurer = TorchMeasurer(device, dtype=subjects[0].dtype, timing=timing, gpu=gpu)
    # 1. Streams or threads of this process.
    limiter, why_not = limiter_for(device, shares, measurer.clock)
    measurer.confine_with(limiter, why_not, shares=shares)
    no_processes = why_no_processes(device)
    if limiter is None and no_processes is None:
        # 2. Processes; this one measures the same points on the whole device.
        measurer.confine_with(None, why_not, shares=())
        run_campaign(
            subjects,
            measurer,
            path,
            settings=settings,
            after_crash=after_crash,
            progress=progress,
        )
        request = ShareRequest(
            subjects=tuple(subjects),
            limits=settings.limits,
            device=f"cuda:{device.index}" if device.is_cuda else "cpu",
            gpu=gpu,
            timing=timing,
            budget_s=_PROCESSES_FRAC * settings.budget_s / max(1, len(shares)),
            out=f"{path}.share",
        )
        problems = measure_shares(request, shares, path)
        name = "" if len(problems) == len(given_shares(device, shares)) else "processes"
        return ShareOutcome(limiter=name, problems=problems)
    # 3. Without a way, the points are recorded as not measured.
    run_campaign(
        subjects,
        measurer,
        path,
        settings=settings,
        after_crash=after_crash,
        progress=progress,
    )
    if limiter is None:
        return ShareOutcome(problems=(why_not, str(no_processes)))
    return ShareOutcome(limiter=limiter.name)
