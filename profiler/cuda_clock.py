"""CudaClock: times steps with CUDA events, each on a cold L2 cache."""

import time

import numpy as np
import torch

from clusters.units import MIB
from profiler.timing import FloatArray, Step

_FLUSH_FACTOR = 4
"""Bytes written between samples, in L2 caches."""
_DEFAULT_L2_BYTES = 64 * MIB


class CudaClock:
    """Times steps on a CUDA device; the host is never waited for in between."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        properties = torch.cuda.get_device_properties(device)
        l2_bytes = getattr(properties, "L2_cache_size", 0) or _DEFAULT_L2_BYTES
        self._flush = torch.empty(
            _FLUSH_FACTOR * l2_bytes, dtype=torch.int8, device=device
        )

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
        torch.cuda.synchronize(self._device)
        pairs = zip(starts, ends, strict=True)
        return np.array([start.elapsed_time(end) for start, end in pairs])

    def now_s(self) -> float:
        """Wall-clock time in s."""
        return time.perf_counter()
