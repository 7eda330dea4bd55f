"""One published figure of a batching policy beside the simulated one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.latency.fitted import FittedSource
from models.latency.step_table import StepTable
from planner.simulator.build import SimulationOptions
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import BatchLimits, Phase, ServingReplica, ServingSystem
from planner.workload.requests import Requests

TOLERANCE_FRAC = 0.25

OF_THEN = FittedSource(engine="vidur")
"""Kernels as the authors of SARATHI, Sarathi-Serve and Vidur profiled them."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One published figure beside the simulated one."""

    item: str
    name: str
    published: float | None
    ours: float
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether it is within the tolerance; None: nothing was asked for."""
        if self.low is None and self.high is None:
            return None
        return (self.low is None or self.ours >= self.low) and (
            self.high is None or self.ours <= self.high
        )


def close(
    item: str, name: str, published: float, ours: float, frac: float = TOLERANCE_FRAC
) -> Check:
    """A figure asked for within a share of the published one."""
    return Check(
        item=item,
        name=name,
        published=published,
        ours=ours,
        low=(1.0 - frac) * published,
        high=(1.0 + frac) * published,
    )


def at_most(item: str, name: str, published: float, ours: float) -> Check:
    """A share that must not pass the published one, both to the percent."""
    return Check(
        item=item, name=name, published=published, ours=ours, high=published + 0.005
    )


def served(
    stages: Sequence[StepTable],
    limits: BatchLimits,
    requests: Requests,
    kv_tokens: int,
    options: SimulationOptions | None = None,
) -> SimulationResult:
    """Requests on one replica that serves alone, gaps between tokens counted."""
    replica = ServingReplica(
        phase=Phase.AGGREGATED,
        stages=tuple(stages),
        limits=limits,
        kv_capacity_tokens=kv_tokens,
    )
    system = ServingSystem(replicas=(replica,), kv_bytes_per_token=1.0)
    options = options or SimulationOptions(is_itl_counted=True)
    return simulate(system, requests, options=options)


def at_once(inputs: Sequence[int], outputs: Sequence[int]) -> Requests:
    """Requests that are all there at the start."""
    return Requests(
        arrival_ms=np.zeros(len(inputs)),
        input_tokens=np.asarray(inputs, dtype=np.int64),
        output_tokens=np.asarray(outputs, dtype=np.int64),
    )
