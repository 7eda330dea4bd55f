"""Capacity bounds: rates that no scheduling of a system can exceed for long.

A prefill step of the prompts L_i takes F(sum L_i) + c * sum L_i^2. With phi the least
F(x)/x over any batch, a prompt costs a stage at least phi*L + c*L^2. A decode step of a
batch B takes G(B) + H(B)*S, so a token costs a stage at least g = min G(B)/B plus
h = min H(B) for each token it attends to. The slowest stage of a replica bounds its
rate, and the replicas of a phase add up. A request that a replica can never hold is
refused and costs nothing.
"""

import numpy as np
from numpy.typing import NDArray

from clusters.units import MS_PER_S
from models.latency.step_table import StepTable, interpolate_array
from planner.simulator.system import Phase, ServingReplica, ServingSystem
from planner.slo import Slo
from planner.workload.requests import Requests

FloatArray = NDArray[np.float64]

UNLIMITED_RPS = 1e12
"""Capacity of a replica without work (decode of one-token answers): finite, so that
rates can be drawn and compared."""


def prefill_cost_ms(
    stage: StepTable, requests: Requests, max_batch_tokens: int
) -> float:
    """Least mean time of a stage for the prompt of a request, in ms."""
    lengths = requests.input_tokens.astype(np.float64)
    top = max(float(max_batch_tokens), float(lengths.max()))
    inner = np.asarray(stage.prefill_tokens, dtype=np.float64)
    sizes = np.unique(np.clip(np.append(inner[inner > 0], [1.0, top]), 1.0, top))
    times = interpolate_array(sizes, stage.prefill_tokens, stage.prefill_ms)
    # F is piecewise linear, so F(x)/x is least at a knot or an end.
    per_token_ms = float((times / sizes).min())
    squares = float((lengths**2).mean())
    return (
        per_token_ms * float(lengths.mean()) + stage.prefill_per_sq_token_ms * squares
    )


def decode_cost_ms(
    stage: StepTable, requests: Requests, max_batch: int, slo: Slo | None = None
) -> float:
    """Least mean time of a stage for all decode steps of a request, in ms.

    With an `slo` on TPOT, the requests that must meet it decode in steps of that
    length on average. A step of B requests takes at least t(B) = G(B) + H(B)*B
    and costs each of them G(B)/B; on the lower convex hull of these points the mean
    cost is at least the hull at the mean step length (Jensen). The requests that may
    miss are taken to be the longest.
    """
    steps = (requests.output_tokens - 1).astype(np.float64)
    if not steps.any():
        return 0.0
    fixed, slope = stage.decode_arrays(max(1, max_batch))
    sizes = np.arange(1, len(fixed))
    share_ms = fixed[1:] / sizes
    least_ms = float(share_ms.min())
    if slo is not None and slo.tpot_ms is not None:
        step_ms = fixed[1:] + slope[1:] * sizes
        good_ms = hull_at(step_ms, share_ms, slo.tpot_ms)
        num_good = len(steps) - slo.max_misses(len(steps))
        good = float(np.sort(steps)[:num_good].sum() / steps.sum())
        if good > 0.0:  # all of them may be requests of one token
            least_ms = good * good_ms + (1.0 - good) * least_ms
    attended = steps * requests.input_tokens + steps * (steps + 1) / 2
    per_kv_ms = float(slope[1:].min())
    return least_ms * float(steps.mean()) + per_kv_ms * float(attended.mean())


def hull_at(x: FloatArray, y: FloatArray, at: float) -> float:
    """Lower convex hull of points, made non-increasing, at one place.

    Infinity left of the first point: nothing is that fast.
    """
    if at < x.min():
        return float("inf")
    order = np.lexsort((y, x))
    hull: list[tuple[float, float]] = []
    for px, py in zip(x[order], y[order], strict=True):
        if hull and py >= hull[-1][1]:
            continue
        while len(hull) > 1 and _is_above(hull[-2], hull[-1], (px, py)):
            hull.pop()
        hull.append((float(px), float(py)))
    return float(np.interp(at, [p[0] for p in hull], [p[1] for p in hull]))


def _is_above(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]
) -> bool:
    """Whether `b` lies on or above the line from `a` to `c`."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def max_batch_by_memory(replica: ServingReplica, requests: Requests) -> int:
    """Most requests that can be resident at once, by places and by KV tokens."""
    smallest = int((requests.input_tokens + 1).min())
    by_memory = replica.kv_capacity_tokens // smallest
    return max(1, min(replica.limits.max_num_seqs, by_memory))


def replica_capacity_rps(
    replica: ServingReplica, requests: Requests, slo: Slo | None = None
) -> float:
    """Rate one replica cannot exceed for long, in requests/s.

    With an `slo`, a rate at which it cannot be met for long.
    """
    fits = _fitting(replica, requests)
    if not fits.any():
        return UNLIMITED_RPS
    requests = _subset(requests, fits)
    costs_ms = []
    for stage in replica.stages:
        cost = 0.0
        if replica.phase is not Phase.DECODE:
            cost += prefill_cost_ms(stage, requests, replica.limits.max_batch_tokens)
        if replica.phase is not Phase.PREFILL:
            batch = max_batch_by_memory(replica, requests)
            cost += decode_cost_ms(stage, requests, batch, slo)
        costs_ms.append(cost)
    slowest = max(costs_ms) * float(fits.mean())
    return MS_PER_S / slowest if slowest > 0 else UNLIMITED_RPS


def _fitting(replica: ServingReplica, requests: Requests) -> NDArray[np.bool_]:
    """Which requests the replica can ever hold; it refuses others without any work."""
    tokens = requests.input_tokens
    if replica.phase is not Phase.PREFILL:
        tokens = tokens + requests.output_tokens
    blocks = -(-tokens // replica.kv_block_tokens)
    fits: NDArray[np.bool_] = (
        blocks <= replica.kv_capacity_tokens // replica.kv_block_tokens
    )
    return fits


def _subset(requests: Requests, kept: NDArray[np.bool_]) -> Requests:
    return Requests(
        arrival_ms=requests.arrival_ms[kept],
        input_tokens=requests.input_tokens[kept],
        output_tokens=requests.output_tokens[kept],
    )


def system_capacity_rps(system: ServingSystem, requests: Requests) -> float:
    """Rate the whole system cannot exceed for long, in requests/s."""
    rates = []
    for phase in Phase:
        replicas = [system.replicas[i] for i in system.indices(phase)]
        if replicas:
            rates.append(sum(replica_capacity_rps(r, requests) for r in replicas))
    return min(rates)
