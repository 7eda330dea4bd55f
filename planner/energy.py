"""Energy: an estimate of what the GPUs of a simulated deployment draw.

A GPU draws a share of its board power limit that depends on what it does. The shares
are those of the power model released with Splitwise (Patel et al., ISCA 2024): of 400 W
on an A100 63 W idle, 250 W in decode steps and all of it in prefill steps; of 700 W on
an H100 75, 380 and all of it. Their means stand for every GPU. Hosts, switches and
cooling are left out. Nothing of it was measured with this package: an estimate.
"""

from collections.abc import Sequence

from clusters.topology import Topology
from planner.deployment import Replica
from planner.simulator.outcome import ReplicaStats, StageStats

IDLE_FRAC = (63 / 400 + 75 / 700) / 2
"""Of the board power limit, waiting."""
DECODE_FRAC = (250 / 400 + 380 / 700) / 2
"""In decode steps."""
PREFILL_FRAC = 1.0
"""In prefill steps, and in steps of both."""


def replica_power_w(
    replica: Replica, load: ReplicaStats, topology: Topology
) -> float | None:
    """Mean power of a replica's GPUs over a simulation, in W (an estimate).

    Where stages are unlike, each is as busy as it was itself. None when the limit of
    a GPU is not known.
    """
    if not replica.shape.has_unlike_stages:
        return _power_w(replica.gpu_indices, load, topology)
    stages = zip(replica.stage_gpus, load.stages, strict=True)
    powers = [_power_w(gpus, stage, topology) for gpus, stage in stages]
    known = [power for power in powers if power is not None]
    return sum(known) if len(known) == len(powers) else None


def _power_w(
    gpus: Sequence[int], load: ReplicaStats | StageStats, topology: Topology
) -> float | None:
    prompts = load.prefill_busy_frac + load.mixed_busy_frac
    decodes = load.decode_busy_frac
    share = (
        IDLE_FRAC
        + (PREFILL_FRAC - IDLE_FRAC) * prompts
        + (DECODE_FRAC - IDLE_FRAC) * decodes
    )
    limits_w = [topology.gpu(gpu).type.tdp_w for gpu in gpus]
    known_w = [limit for limit in limits_w if limit is not None]
    return sum(known_w) * min(1.0, share) if len(known_w) == len(limits_w) else None
