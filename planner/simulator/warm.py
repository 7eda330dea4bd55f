"""Compile the simulator now, so that the first plan does not wait for it.

Run as ``python -m planner.simulator.warm``; the compiled kernel is kept in the user's
cache directory. With ``--full`` the kernel that can do everything is compiled as well.
"""

import sys

import numpy as np

from models.latency.step_table import StepTable
from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.launch import run_full, run_world
from planner.simulator.state import World
from planner.simulator.system import Phase, ServingReplica, ServingSystem
from planner.workload.requests import Requests


def warm(*, is_full: bool = False) -> None:
    """Simulate one request, which compiles (or loads) the kernel.

    `is_full`: that of runs with prefix caches, events and the like too.
    """
    table = StepTable(
        prefill_tokens=(0.0, 1.0),
        prefill_ms=(1.0, 1.0),
        decode_batch=(0.0, 1.0),
        decode_ms=(1.0, 1.0),
        decode_per_kv_token_ms=(0.0, 0.0),
    )
    replica = ServingReplica(
        phase=Phase.AGGREGATED, stages=(table,), kv_capacity_tokens=64
    )
    requests = Requests(
        arrival_ms=np.zeros(1),
        input_tokens=np.ones(1, dtype=np.int64),
        output_tokens=np.ones(1, dtype=np.int64),
    )
    system = ServingSystem(replicas=(replica,), kv_bytes_per_token=0.0)

    def build() -> World:
        return build_world(system, requests, SimulationOptions())

    run_world(build)
    if is_full:
        run_full(build())


if __name__ == "__main__":
    warm(is_full="--full" in sys.argv[1:])
