"""TorchMeasurer: measures the points of a campaign on a real device."""

import gc
import logging

import torch

from clusters.units import GB
from models.flops import stage_shapes
from models.parallelism import Parallelism
from models.profile_records import Environment, Status, StepRecord
from profiler.cuda_clock import CudaClock
from profiler.environment import Device, conditions_of, environment_of
from profiler.grid import (
    GridLimits,
    GridPoint,
    grid_of,
    num_rows,
    rows_of,
    scaled_to_rows,
)
from profiler.layers.settings import LayerSettings
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
    ) -> None:
        self._device = device
        self._environment = environment_of(device, gpu=gpu)
        self._settings = LayerSettings.for_device(device.torch_device, dtype)
        self._timing = timing or TimingSettings()
        self._layer_counts = layer_counts
        self._clock: DeviceClock = CpuClock()
        if device.is_cuda:
            self._clock = CudaClock(device.torch_device)
        self._runner: StepRunner | None = None
        self._why_not: str | None = None
        self._subject: Subject | None = None
        self._rows: dict[Subject, int] = {}

    @property
    def environment(self) -> Environment:
        """The device and its versions."""
        return self._environment

    @property
    def settings(self) -> LayerSettings:
        """Device and kernels of the layers."""
        return self._settings

    def grid(self, subject: Subject, limits: GridLimits) -> tuple[GridPoint, ...]:
        """The grid, and where memory ends before it does, a smaller one beside it."""
        whole = grid_of(subject.part, limits)
        if subject.is_ends:
            return whole
        room = self._room_rows(subject)
        self._rows[subject] = min(room, num_rows(whole))
        if num_rows(whole) <= room:
            return whole
        smaller = grid_of(subject.part, scaled_to_rows(limits, room))
        known = {each.point for each in smaller}
        return (*smaller, *(each for each in whole if each.point not in known))

    def measure(self, subject: Subject, target: GridPoint) -> StepRecord:
        """Measure a point; out of memory is a result."""
        rows = rows_of(target.point)
        room = self._rows.get(subject, rows)
        if not subject.is_ends and rows > room:
            note = f"needs {rows} rows of KV cache, there is room for {room}"
            return self._failed(subject, target, Status.OOM, note)
        try:
            runner = self._runner_of(subject)
            if runner is None:
                note = self._why_not or "not built"
                return self._failed(subject, target, Status.OOM, note)
            found, fixed_ms = runner.measure(target.point, self._clock, self._timing)
        except torch.OutOfMemoryError as error:
            self._forget()
            return self._failed(subject, target, Status.OOM, _first_line(error))
        # A kernel that refuses a shape must not end an unattended campaign.
        except RuntimeError as error:
            logger.warning("%s: %s", target.point.describe(), _first_line(error))
            self._forget()
            return self._failed(
                subject, target, Status.NOT_MEASURED, _first_line(error)
            )
        return StepRecord(
            environment=self._environment,
            llm=subject.llm,
            tp=subject.tp,
            part=subject.part,
            dtype=subject.dtype,
            backend=runner.backend,
            point=target.point,
            role=target.role,
            status=Status.OK if found.is_stable else Status.UNSTABLE,
            step=found.spread,
            fixed_ms=fixed_ms,
            num_layers=1 if subject.is_ends else max(self._layer_counts),
            conditions=conditions_of(self._device),
        )

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
                self._runner, self._why_not = None, _first_line(error)
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
        return max(1, int(room / row_bytes))

    def _failed(
        self, subject: Subject, target: GridPoint, status: Status, note: str
    ) -> StepRecord:
        return StepRecord(
            environment=self._environment,
            llm=subject.llm,
            tp=subject.tp,
            part=subject.part,
            dtype=subject.dtype,
            point=target.point,
            role=target.role,
            status=status,
            note=note,
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
