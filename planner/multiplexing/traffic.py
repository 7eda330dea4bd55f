"""The traffic of all services together, on one clock (`clock`)."""

from dataclasses import replace

import numpy as np

from planner.multiplexing.clock import replayed, span_of_workloads, squeeze_of
from planner.multiplexing.problem import SharedProblem
from planner.workload.rate_schedule import PiecewiseRateArrivals
from planner.workload.requests import Requests


def span_of(problem: SharedProblem, *, rate_scale: float = 1.0) -> float:
    """Time that a simulation of the services spans, in s."""
    workloads = [service.workload for service in problem.services]
    return span_of_workloads(workloads, rate_scale)


def draw_all(
    problem: SharedProblem, *, span_s: float, seed: int, rate_scale: float = 1.0
) -> dict[str, Requests]:
    """Requests of every service over a span, by name.

    Parameters
    ----------
    problem
        The services.
    span_s
        Time that the arrivals span, in s.
    seed
        Seed of the traffic; each service draws apart.
    rate_scale
        Factor on all rates.
    """
    squeeze = squeeze_of([service.workload for service in problem.services], span_s)
    found = {}
    for index, service in enumerate(problem.services):
        workload = service.workload
        rate = (workload.mean_rate_rps or 0.0) * rate_scale
        num = max(1, round(rate * span_s))
        if workload.trace is not None:
            found[service.name] = replayed(workload, num + 1, span_s, rate_scale)
            continue
        arrivals = workload.arrivals
        if isinstance(arrivals, PiecewiseRateArrivals) and squeeze < 1.0:
            day = arrivals.squeezed(arrivals.period_s * squeeze)
            workload = replace(workload, arrivals=day)
        drawn = workload.draw(num, seed=_seed(seed, index), rate_rps=rate)
        found[service.name] = drawn
    return found


def _seed(seed: int, index: int) -> int:
    """A seed for each service, far from those of the next seeds."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
