"""CudaClock: times steps with CUDA events, each on a cold L2 cache.

While the device works through the queue the host reads clocks and power: after the
last step they would be those of an idle device.
"""

import time

import numpy as np
import torch

from clusters.units import MIB
from models.profile_records import Conditions
from profiler.environment import Device, conditions_of
from profiler.timing import FloatArray, Step

_FLUSH_FACTOR = 4
"""Bytes written between samples, in L2 caches."""
_DEFAULT_L2_BYTES = 64 * MIB
_LOOK_S = 0.2
"""Seconds between two looks at clocks and power, which take a few milliseconds."""
_FEW = 4
"""Runs that are warm-up, during which nobody looks."""


class CudaClock:
    """Times steps on a CUDA device; the host is never waited for in between."""

    def __init__(self, device: Device) -> None:
        self._device = device
        properties = torch.cuda.get_device_properties(device.index)
        l2_bytes = getattr(properties, "L2_cache_size", 0) or _DEFAULT_L2_BYTES
        self._flush = torch.empty(
            _FLUSH_FACTOR * l2_bytes, dtype=torch.int8, device=device.torch_device
        )
        self._conditions: Conditions | None = None
        self._looked_s = -_LOOK_S

    def times_ms(self, step: Step, count: int) -> FloatArray:
        """Duration of each run between two events, in ms."""
        starts = [torch.cuda.Event(enable_timing=True) for _ in range(count)]
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(count)]
        for start, end in zip(starts, ends, strict=True):
            # Writing evicts what the last run left, and gives the host time to enqueue.
            self._flush.zero_()
            start.record()
            step()
            end.record()
        if count > _FEW and self.now_s() - self._looked_s >= _LOOK_S:
            self._looked_s = self.now_s()
            self._conditions = conditions_of(self._device)
        torch.cuda.synchronize(self._device.index)
        pairs = zip(starts, ends, strict=True)
        return np.array([start.elapsed_time(end) for start, end in pairs])

    def now_s(self) -> float:
        """Wall-clock time in s."""
        return time.perf_counter()

    @property
    def conditions(self) -> Conditions | None:
        """Clocks, power and temperature at the last look."""
        return self._conditions
