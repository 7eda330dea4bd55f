"""TorchMeasurer: measures the points of a campaign on a real device."""

import gc
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from clusters.units import GB
from models.flops import stage_shapes
from models.parallelism import Parallelism
from models.profile_records import Environment, Status, StepPoint, StepRecord
from profiler.cuda_clock import CudaClock
from profiler.device_lost import DeviceLostError
from profiler.environment import Device, conditions_of, environment_of
from profiler.grid import GridLimits, GridPoint, num_rows, rows_of, scaled_to_rows
from profiler.kernel_errors import KERNEL_ERRORS, first_line
from profiler.layers.settings import LayerSettings
from profiler.sections import Section, section_grid
from profiler.sm_share import SmLimiter
from profiler.steps import StepRunner
from profiler.subject import Subject
from profiler.timing import CpuClock, DeviceClock, TimingSettings

logger = logging.getLogger(__name__)

_CACHE_SHARE = 0.6
"""Of the memory beside the weights, what the caches may take."""
_MAX_CPU_BYTES = 2e9


class TorchMeasurer:
    """Measures with torch; keeps the weights of the subject at hand on the device."""

    def __init__(
        self,
        device: Device,
        *,
        dtype: str,
        timing: TimingSettings | None = None,
        gpu: str | None = None,
        layer_counts: tuple[int, int] = (1, 4),
        limiter: SmLimiter | None = None,
    ) -> None:
        self._device = device
        self._environment = environment_of(device, gpu=gpu)
        self._settings = LayerSettings.for_device(device.torch_device, dtype)
        self._timing = timing or TimingSettings()
        self._layer_counts = layer_counts
        self._clock: DeviceClock = CpuClock()
        if device.is_cuda:
            self._clock = CudaClock(device)
        self._runner: StepRunner | None = None
        self._why_not: str | None = None
        self._subject: Subject | None = None
        self._rows: dict[Subject, int] = {}
        self._limiter = limiter
        self._wanted_shares: Sequence[float] = ()
        self._no_limiter = "none was asked for"

    @property
    def environment(self) -> Environment:
        """The device and its versions."""
        return self._environment

    @property
    def clock(self) -> DeviceClock:
        """What it times with."""
        return self._clock

    def confine_with(
        self, limiter: SmLimiter | None, why_not: str, *, shares: Sequence[float] = ()
    ) -> None:
        """Give it a way to confine steps, or the reason that there is none.

        Without one, `shares` are the shares to record as not measured.
        """
        self._limiter, self._no_limiter = limiter, why_not
        self._wanted_shares = shares

    @property
    def settings(self) -> LayerSettings:
        """Device and kernels of the layers."""
        return self._settings

    def grid(
        self,
        subject: Subject,
        limits: GridLimits,
        section: Section = Section.STEPS,
    ) -> tuple[GridPoint, ...]:
        """The grid, and where memory ends before it does, a smaller one beside it.

        Shares of the SMs are those that the limiter gives; without one they are those
        that were asked for, and will be recorded as not measured.
        """
        shares = self._shares() if section is Section.SM_SHARE else ()
        whole = section_grid(subject.part, limits, section, sm_shares=shares)
        if subject.is_ends or not whole:
            return whole
        room = self._room_rows(subject)
        held = max(num_rows(whole), self._rows.get(subject, 0))
        self._rows[subject] = min(room, held)
        if num_rows(whole) <= room:
            return whole
        limits = scaled_to_rows(limits, room)
        smaller = section_grid(subject.part, limits, section, sm_shares=shares)
        known = {(each.point, each.sm_share_frac) for each in smaller}
        return (
            *smaller,
            *(each for each in whole if (each.point, each.sm_share_frac) not in known),
        )

    def reserve(self, subject: Subject, points: Sequence[StepPoint]) -> None:
        """Make room in the KV cache for these points, as `grid` does for its own."""
        self._rows[subject] = min(self._room_rows(subject), max(map(rows_of, points)))

    def _shares(self) -> Sequence[float]:
        if self._limiter is None:
            return (1.0, *self._wanted_shares)
        whole = () if self._limiter.confines_process else (1.0,)
        return (*whole, *self._limiter.shares)

    def measure(self, subject: Subject, target: GridPoint) -> StepRecord:
        """Measure a point; out of memory is a result.

        Raises
        ------
        DeviceLostError
            When an error left the device unusable; it holds the record of the point.
        """
        rows = rows_of(target.point)
        room = self._rows.get(subject, rows)
        if not subject.is_ends and rows > room:
            note = f"needs {rows} rows of KV cache, there is room for {room}"
            return self._failed(subject, target, Status.OOM, note)
        is_partial = target.sm_share_frac < 1.0
        if is_partial and self._limiter is None:
            note = f"no SM shares here: {self._no_limiter}"
            return self._failed(subject, target, Status.NOT_MEASURED, note)
        try:
            runner = self._runner_of(subject)
            if runner is None:
                note = self._why_not or "not built"
                return self._failed(subject, target, Status.OOM, note)
            with self._limited(target.sm_share_frac):
                found, fixed_ms = runner.measure(
                    target.point, self._clock, self._timing
                )
        except torch.OutOfMemoryError as error:
            self._forget()
            return self._failed(subject, target, Status.OOM, first_line(error))
        # A kernel that refuses a shape must not end an unattended campaign.
        except KERNEL_ERRORS as error:
            note = f"{type(error).__name__}: {first_line(error)}"
            logger.warning("%s: %s", target.point.describe(), note)
            failed = self._failed(subject, target, Status.NOT_MEASURED, note)
            if not self._device.is_usable():
                raise DeviceLostError(failed) from error
            self._forget()
            return failed
        words = [runner.backend]
        words += [self._limiter.name] if is_partial and self._limiter else []
        return StepRecord(
            environment=self._environment,
            llm=subject.llm,
            tp=subject.tp,
            part=subject.part,
            dtype=subject.dtype,
            backend=" ".join(words),
            sm_share_frac=target.sm_share_frac,
            point=target.point,
            role=target.role,
            status=Status.OK if found.is_stable else Status.UNSTABLE,
            note=runner.stand_ins,
            step=found.spread,
            fixed_ms=fixed_ms,
            num_layers=1 if subject.is_ends else max(self._layer_counts),
            conditions=self._clock.conditions or conditions_of(self._device),
        )

    def _limited(self, share: float) -> AbstractContextManager[None]:
        if share == 1.0 or self._limiter is None:
            return nullcontext()
        return self._limiter.limited(share)

    def _runner_of(self, subject: Subject) -> StepRunner | None:
        """The runner of a subject; its weights replace those of the one before."""
        if self._subject != subject:
            self._forget()
            self._subject = subject
            try:
                self._runner = StepRunner(
                    subject,
                    self._settings,
                    self._rows.get(subject, 1),
                    self._layer_counts,
                )
                self._why_not = None
            except torch.OutOfMemoryError as error:
                self._runner, self._why_not = None, first_line(error)
        return self._runner

    def _forget(self) -> None:
        self._runner, self._subject = None, None
        gc.collect()
        if self._device.is_cuda:
            torch.cuda.empty_cache()

    def _room_rows(self, subject: Subject) -> int:
        """Rows of KV cache there is memory for beside the weights."""
        self._forget()
        (stage,) = stage_shapes(subject.llm, Parallelism(tp=subject.tp))
        group = max(stage.groups, key=lambda g: g.weight_bytes / g.num_layers)
        layers = max(self._layer_counts)
        weights = layers * group.weight_bytes / group.num_layers
        free = float(self._device.free_bytes())
        if not self._device.is_cuda:
            free = min(free, _MAX_CPU_BYTES)
        room = _CACHE_SHARE * (free - weights)
        element = torch.empty(0, dtype=self._settings.dtype).element_size()
        row_bytes = layers * group.attention.kv_bytes_per_token * element / 2
        if room <= 0:
            logger.warning(
                "%s: %.1f GB of weights, %.1f GB free",
                subject.describe(),
                weights / GB,
                free / GB,
            )
        return _rounded_down(max(1, int(room / row_bytes)))

    def _failed(
        self, subject: Subject, target: GridPoint, status: Status, note: str
    ) -> StepRecord:
        return subject.unmeasured(target, self._environment, status=status, note=note)


def _rounded_down(rows: int) -> int:
    """`rows` to its three leading bits.

    Free memory differs a little from run to run, and a resumed campaign must find the
    grid that it left.
    """
    spare = max(0, rows.bit_length() - 3)
    return rows >> spare << spare
