"""Compile the simulator now, so that the first plan does not wait for it.

Run as ``python -m planner.simulator.warm``; the compiled kernel is kept in the user's
cache directory.
"""

import numpy as np

from models.latency.step_table import StepTable
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, ServingReplica, ServingSystem
from planner.workload.requests import Requests


def warm() -> None:
    """Simulate one request, which compiles (or loads) every kernel function."""
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
    simulate(ServingSystem(replicas=(replica,), kv_bytes_per_token=0.0), requests)


if __name__ == "__main__":
    warm()
