"""The GPUs of a cluster as a graph: bandwidth of every pair, memory of every GPU."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusters.cluster import Cluster
from clusters.fields import InputError, spec

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GpuGraph:
    """Bandwidths between GPUs, and their memory.

    Attributes
    ----------
    bytes_per_s
        Rate of the way between two GPUs, the slower direction, 0 where nothing joins
        them and on the diagonal; shape ``(num_gpus, num_gpus)``.
    memory_bytes
        Memory of each GPU, shape ``(num_gpus,)``.
    """

    bytes_per_s: FloatArray = spec("Between two GPUs.", unit="bytes/s")
    memory_bytes: FloatArray = spec("Of each GPU.", unit="bytes")

    def between(self, first: tuple[int, ...], second: tuple[int, ...]) -> float:
        """Bandwidths of all pairs of two sets together, in bytes/s."""
        return float(self.bytes_per_s[np.ix_(first, second)].sum())


def gpu_graph(cluster: Cluster) -> GpuGraph:
    """The graph of a cluster."""
    topology = cluster.topology
    num = len(topology.gpus)
    rates = np.zeros((num, num))
    for a in range(num):
        for b in range(num):
            if a != b:
                with suppress(InputError):  # nothing joins them
                    rates[a, b] = topology.path(a, b).bytes_per_s
    memory = np.array([g.type.memory_bytes for g in topology.gpus], dtype=np.float64)
    return GpuGraph(bytes_per_s=np.minimum(rates, rates.T), memory_bytes=memory)
