"""RateWriter: times things whose work is known, and appends their rates."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch

from clusters.units import MS_PER_S
from models.profile_records import RateRecord
from models.profile_table import RecordWriter, read_profile_table
from profiler.cuda_clock import CudaClock
from profiler.environment import Device, conditions_of, environment_of
from profiler.features import Feature, why_left_out
from profiler.kernel_errors import KERNEL_ERRORS, first_line
from profiler.steps import capture
from profiler.timing import CpuClock, DeviceClock, Step, TimingSettings, measure


class RateWriter:
    """Appends rates to a file of records, each name once.

    Attributes
    ----------
    problems
        A line for each rate that could not be measured.

    Raises
    ------
    InputError
        When the file cannot be written.
    """

    def __init__(
        self,
        device: Device,
        path: str | Path,
        *,
        timing: TimingSettings | None = None,
        gpu: str | None = None,
    ) -> None:
        self._device, self._timing = device, timing
        self._environment = environment_of(device, gpu=gpu)
        self._clock: DeviceClock = CudaClock(device) if device.is_cuda else CpuClock()
        self._known: set[str] = set()
        if Path(path).exists():
            self._known = {rate.name for rate in read_profile_table(path).rates}
        self._writer = RecordWriter(path)
        self.problems: list[str] = []

    def time(
        self,
        name: str,
        make: Callable[[], tuple[float, Step]],
        *,
        rate_unit: str,
        size: str,
        is_captured: bool = False,
    ) -> None:
        """Time what `make` gives: bytes or FLOP of a run, and the run.

        It is made only when it is needed, and what it holds is let go before the next.
        """
        if name in self._known:
            return
        try:
            amount, step = make()
            ready = self._captured(step) if is_captured else step
            found = measure(ready, self._clock, self._timing)
        except KERNEL_ERRORS as error:
            self.problems.append(f"{name}: {first_line(error)}")
            return
        self._writer.append(
            RateRecord(
                environment=self._environment,
                name=name,
                per_s=amount / found.spread.ms * MS_PER_S,
                rate_unit=rate_unit,
                size=size,
                spread=found.spread,
                conditions=self._clock.conditions or conditions_of(self._device),
            )
        )

    def _captured(self, step: Step) -> Step:
        """The step as a graph, so that launches cost nothing, where that works."""

        def plain() -> object:
            with torch.inference_mode():
                return step()

        if not self._device.is_cuda or why_left_out(Feature.GRAPHS):
            return plain
        try:
            return capture(plain)
        except KERNEL_ERRORS:
            return plain

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
