"""Campaign: measure a grid within a budget; a kill loses at most the point under way.

Every record is appended and synced as it is made, and a campaign that is started again
on the same file continues where it stopped. Each subject gets its share of the time
that is left, so a budget that is too small costs points, never whole models.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clusters.fields import InputError, check_fields, spec
from models.latency.profile_fit import fit_decode, fit_prefill, step_table_of
from models.profile_records import Environment, Role, Status, StepRecord
from models.profile_table import (
    ProfileTable,
    RecordWriter,
    first_difference,
    read_profile_table,
)
from profiler.device_lost import DeviceLostError
from profiler.grid import GridLimits, GridPoint, refine
from profiler.sections import Section
from profiler.subject import Subject
from profiler.under_way import UnderWay

_ENDS_WEIGHT = 0.4
"""Time of the ends of a model beside that of a layer."""


class Measurer(Protocol):
    """Something that measures points on a device."""

    @property
    def environment(self) -> Environment:
        """The device and its versions."""
        ...

    def grid(
        self, subject: Subject, limits: GridLimits, section: Section
    ) -> tuple[GridPoint, ...]:
        """The points of a section of a subject that this device should try."""
        ...

    def measure(self, subject: Subject, target: GridPoint) -> StepRecord:
        """Measure a point; that it cannot be is a status, not an error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSettings:
    """How long to measure, and how good a fit must be."""

    budget_s: float = spec("Time for everything.", unit="s", gt=0, default=480.0)
    limits: GridLimits = spec("Reach of the grid.", default=GridLimits())
    target_frac: float = spec(
        "Held-out error above which points are added.", unit="1", gt=0, default=0.03
    )
    max_refinements: int = spec(
        "Most rounds of refinement a part.", unit="rounds", ge=0, default=6
    )
    sections: tuple[Section, ...] = spec(
        "Parts of the grid, in order.", default=(Section.STEPS,)
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a campaign is."""

    done: int = spec("Points done.", unit="points", ge=0)
    total: int = spec("Points of the grid.", unit="points", ge=0)
    left_s: float = spec("Budget left.", unit="s")
    label: str = spec("What is being measured.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSummary:
    """What a campaign did with every point: nothing is dropped silently.

    `num_grid == num_resumed + num_measured + num_over_budget`; refinements come on top.
    """

    num_grid: int = spec("Points of the grid.", unit="points", ge=0)
    num_resumed: int = spec("Measured by an earlier run.", unit="points", ge=0)
    num_measured: int = spec("Measured now.", unit="points", ge=0)
    num_over_budget: int = spec("Left for another run.", unit="points", ge=0)
    num_refined: int = spec("Added where the fit missed.", unit="points", ge=0)
    statuses: dict[str, int] = spec("Records of the file by status.")
    runtime_s: float = spec("Time it took.", unit="s", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


def run_campaign(
    subjects: Sequence[Subject],
    measurer: Measurer,
    path: str | Path,
    *,
    settings: CampaignSettings | None = None,
    after_crash: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    now_s: Callable[[], float] = time.monotonic,
) -> CampaignSummary:
    """Measure every subject's grid, append the records to `path`, and count.

    Parameters
    ----------
    subjects
        What is measured, each within its share of the time left.
    measurer
        Measures on a device.
    path
        File of records; those already there are not measured again.
    settings
        Time, reach, sections.
    after_crash
        Whether the process before this one ended by itself: then the point it was at
        is recorded as not measured.
    progress, now_s
        Called before each point; the clock.

    Raises
    ------
    InputError
        When `path` cannot be written, or holds records of another environment.
    DeviceLostError
        When the device answers no more; the point that did it is recorded.
    """
    run = _Run(measurer, path, settings or CampaignSettings(), progress, now_s)
    with RecordWriter(path) as writer:
        return run.all(subjects, writer, after_crash=after_crash)


class _Run:
    """One run of a campaign."""

    def __init__(
        self,
        measurer: Measurer,
        path: str | Path,
        settings: CampaignSettings,
        progress: Callable[[Progress], None],
        now_s: Callable[[], float],
    ) -> None:
        self._measurer = measurer
        self._settings = settings
        self._progress = progress
        self._now_s = now_s
        self._started_s = now_s()
        self._records = list(_earlier(path, measurer.environment))
        self._done = {(r.key, r.role) for r in self._records}
        self._known = {r.key for r in self._records}
        self._counts: Counter[str] = Counter()
        self._total = 0
        self._under_way = UnderWay.beside(path)
        self._broken_off: str | None = None

    def all(
        self, subjects: Sequence[Subject], writer: RecordWriter, *, after_crash: bool
    ) -> CampaignSummary:
        """Measure subject by subject, each within its share of the time left."""
        self._broken_off = self._under_way.key() if after_crash else None
        grids = [(s, self._grid_of(s)) for s in subjects]
        self._total = sum(len(grid) for _, grid in grids)
        weights = [_ENDS_WEIGHT if s.is_ends else 1.0 for s in subjects]
        for index, (subject, grid) in enumerate(grids):
            share = weights[index] / sum(weights[index:])
            deadline_s = self._now_s() + share * self._left_s()
            self._measure_grid(subject, grid, writer, deadline_s)
            self._refine(subject, writer, deadline_s)
        self._under_way.end()
        return CampaignSummary(
            num_grid=self._total,
            num_resumed=self._counts["resumed"],
            num_measured=self._counts["measured"],
            num_over_budget=self._counts["over_budget"],
            num_refined=self._counts["refined"],
            statuses=dict(
                sorted(Counter(str(r.status) for r in self._latest()).items())
            ),
            runtime_s=self._now_s() - self._started_s,
        )

    def _grid_of(self, subject: Subject) -> tuple[GridPoint, ...]:
        limits = self._settings.limits
        grids = [
            self._measurer.grid(subject, limits, section)
            for section in self._settings.sections
        ]
        targets = [target for grid in grids for target in grid]
        # A look at what is fitted as well needs no measurement of its own.
        fitted = {t.point for t in targets if t.role is not Role.PROBE}
        return tuple(
            target
            for target in targets
            if target.role is not Role.PROBE
            or target.sm_share_frac < 1.0
            or target.point not in fitted
        )

    def _measure_grid(
        self,
        subject: Subject,
        grid: Sequence[GridPoint],
        writer: RecordWriter,
        deadline_s: float,
    ) -> None:
        for target in grid:
            if self._is_done(subject, target):
                self._counts["resumed"] += 1
            elif self._now_s() >= deadline_s:
                self._counts["over_budget"] += 1
            else:
                self._measure(subject, target, writer)
                self._counts["measured"] += 1

    def _refine(
        self, subject: Subject, writer: RecordWriter, deadline_s: float
    ) -> None:
        for _ in range(self._settings.max_refinements):
            if self._now_s() >= deadline_s:
                return
            for target in self._next_points(subject):
                if not self._is_done(subject, target):
                    self._measure(subject, target, writer)
                    self._counts["refined"] += 1

    def _next_points(self, subject: Subject) -> tuple[GridPoint, ...]:
        mine = [
            r
            for r in self._latest()
            if subject.is_of(r) and r.status is Status.OK and r.sm_share_frac == 1.0
        ]
        fitted = [r for r in mine if r.role is Role.FIT]
        try:
            attends = not subject.is_ends
            table = step_table_of(
                fit_prefill(fitted, has_attention=attends),
                fit_decode(fitted, has_attention=attends),
            )
        except InputError:  # too few points: there is nothing to refine
            return ()
        return refine(mine, table, target_frac=self._settings.target_frac)

    def _measure(
        self, subject: Subject, target: GridPoint, writer: RecordWriter
    ) -> None:
        label = f"{subject.describe()}: {target.point.describe()}"
        done = self._counts["measured"] + self._counts["resumed"]
        self._progress(
            Progress(done=done, total=self._total, left_s=self._left_s(), label=label)
        )
        key = subject.key_of(target.point, target.sm_share_frac)
        if key == self._broken_off:
            note = "the process ended while it was measured"
            where = self._measurer.environment
            self._keep(subject.unmeasured(target, where, note=note), writer)
            return
        self._under_way.begin(key)
        try:
            self._keep(self._measurer.measure(subject, target), writer)
        except DeviceLostError as error:
            self._keep(error.record, writer)
            raise

    def _keep(self, record: StepRecord, writer: RecordWriter) -> None:
        writer.append(record)
        self._records.append(record)
        self._done.add((record.key, record.role))
        self._known.add(record.key)

    def _is_done(self, subject: Subject, target: GridPoint) -> bool:
        """Whether a point needs no measurement; a look at one that is known neither."""
        key = subject.key_of(target.point, target.sm_share_frac)
        if target.role is Role.PROBE:
            return key in self._known
        return (key, target.role) in self._done

    def _latest(self) -> tuple[StepRecord, ...]:
        return ProfileTable(records=tuple(self._records)).steps

    def _left_s(self) -> float:
        used = self._now_s() - self._started_s
        return max(0.0, self._settings.budget_s - used)


def _earlier(path: str | Path, environment: Environment) -> tuple[StepRecord, ...]:
    """Step records of a file to go on with; a new file has none."""
    target = Path(path)
    if not target.exists():
        return ()
    table = read_profile_table(target)
    for record in table.records:
        if record.environment != environment:
            name, there, here = first_difference(record.environment, environment)
            raise InputError(
                f"environment.{name}",
                here,
                f"{there!r}, as in the records already there (or another file)",
                file=str(target),
            )
    return tuple(r for r in table.records if isinstance(r, StepRecord))
