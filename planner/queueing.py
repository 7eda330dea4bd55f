"""Closed forms of queueing theory: bounds, pruning and oracles for the simulator.

Reference
    Zhong et al., "DistServe", OSDI 2024, section 3.1 (equations 1-3): prefill as an
    M/D/1 queue, with the service time split over two GPUs by stages or by tensors.
    Kleinrock, "Queueing Systems", vol. 1, 1975 (M/M/1, M/D/1).
"""

import math

from clusters.fields import InputError


def _check_stable(rate_per_ms: float, service_ms: float) -> float:
    load = rate_per_ms * service_ms
    if not 0.0 <= load < 1.0:
        raise InputError("load", load, "a number >= 0 and < 1 (a stable queue)")
    return load


def mm1_time_ms(rate_per_ms: float, service_ms: float) -> float:
    """Mean time in an M/M/1 system with mean service time `service_ms`, in ms."""
    return service_ms / (1.0 - _check_stable(rate_per_ms, service_ms))


def md1_time_ms(rate_per_ms: float, service_ms: float) -> float:
    """Mean time in an M/D/1 system: D + R*D^2 / (2*(1 - R*D)), in ms."""
    load = _check_stable(rate_per_ms, service_ms)
    return service_ms + service_ms * load / (2.0 * (1.0 - load))


def inter_op_ttft_ms(rate_per_ms: float, service_ms: float) -> float:
    """Mean TTFT with two pipeline stages: D + R*D^2 / (4*(2 - R*D)), in ms."""
    _check_stable(rate_per_ms, service_ms / 2.0)
    load = rate_per_ms * service_ms
    return service_ms + service_ms * load / (4.0 * (2.0 - load))


def intra_op_ttft_ms(rate_per_ms: float, service_ms: float, speedup: float) -> float:
    """Mean TTFT with two-way tensor parallelism of speed-up K, in ms.

    D/K + R*D^2 / (2*K*(K - R*D)).
    """
    return md1_time_ms(rate_per_ms, service_ms / speedup)


def mg1_wait_quantile_ms(load: float, *, longest_ms: float, quantile: float) -> float:
    """Wait that a share `quantile` of the arrivals at an M/G/1 queue stay below, in ms.

    P(wait > x) is about load * exp(-(1 - load) * x / R), where R is the mean rest of
    the service in progress (Kingman's heavy-traffic form, exact for M/M/1). It is half
    of the service time when all are equal, and no more when none is longer than that.
    """
    if not 0.0 <= load < 1.0:
        raise InputError("load", load, "a number >= 0 and < 1 (a stable queue)")
    missed = 1.0 - quantile
    if load <= missed:
        return 0.0
    if missed <= 0.0:
        return math.inf
    return longest_ms / 2.0 / (1.0 - load) * math.log(load / missed)
