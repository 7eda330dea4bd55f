"""Goodput of one replica of a shape, for its phase alone, with its best batching."""

from collections.abc import Sequence
from dataclasses import replace

from planner.capacity import replica_capacity_rps
from planner.cost import power_w, usd_per_hour
from planner.deployment import Deployment
from planner.search.batching import best_batching
from planner.search.contract import STOPPED, Ledger, SearchContext
from planner.search.ratios import RatedShape
from planner.simulator.system import Phase
from planner.slo import Slo

_SAMPLE_REQUESTS = 300


def phase_slo(slo: Slo, phase: Phase) -> Slo | None:
    """The limits that a phase alone answers for; None when it has none."""
    if phase is Phase.PREFILL:
        return slo.only("ttft") or slo.only("e2e")
    if phase is Phase.DECODE:
        return slo.only("tpot") or slo.only("e2e")
    return slo


def capacity_alone_rps(context: SearchContext, alone: Deployment) -> float:
    """Capacity of one replica, which it is rated by where no limit is for its phase."""
    workload = context.problem.service.workload
    sample = workload.draw(_SAMPLE_REQUESTS, seed=0, rate_rps=1.0)
    system = context.evaluator.planner.system(alone)
    return replica_capacity_rps(system.replicas[0], sample)


def rate_alone(
    context: SearchContext,
    usable: tuple[Deployment, ...],
    phase: Phase,
    ledger: Ledger,
    *,
    pool_sizes: Sequence[int] | None = None,
    is_guessed: bool = True,
) -> list[RatedShape]:
    """Goodput of one replica of each shape, under the limits of its phase alone.

    A phase without a limit of its own is rated by its capacity. With `pool_sizes`, as
    many replicas share the arrivals, and the rate is that of one of them: a pool evens
    out bursts that a single replica cannot. With `is_guessed` the search for it begins
    at a guess, by what a pool of the shape before it gained. The shapes rated have the
    batch limits that serve one replica best (`best_batching`).
    """
    sizes = pool_sizes or (1,) * len(usable)
    service = context.problem.service
    part = phase_slo(service.slo, phase)
    rated = []
    pool_gain = 1.0
    for given, size in zip(usable, sizes, strict=True):
        if context.should_stop():
            ledger.reject(STOPPED)
            continue
        alone = given if part is None else best_batching(context, given, part)
        if context.should_stop():
            alone, size = given, 1  # what has been simulated already
        system = context.evaluator.planner.system(alone)
        if part is None:
            rate, light_load_frac = capacity_alone_rps(context, alone), 1.0
        else:
            pool = replace(system, replicas=system.replicas * size)
            evaluator = context.evaluator
            alone_rps = evaluator.known_rps(system, part)
            near_rps = alone_rps * size * pool_gain if is_guessed else 0.0
            pool_goodput = evaluator.system_goodput(pool, part, near_rps=near_rps)
            rate = pool_goodput.rate_rps / size
            if alone_rps > 0.0 and rate > 0.0:
                pool_gain = rate / alone_rps  # the next is guessed to gain as much
            light_load_frac = pool_goodput.light_load_frac
        ledger.evaluated += 1
        rated.append(
            RatedShape(
                shape=alone.replicas[0].shape,
                rate_rps=rate,
                light_load_frac=light_load_frac,
                usd_per_hour=usd_per_hour(context.problem.cluster, alone),
                power_w=power_w(context.problem.cluster, alone),
            )
        )
    return rated
