"""The nearest SLO that can be met, where the one asked for cannot.

"No deployment meets it" leaves a reader without a next step. So the deployments that
came nearest, and one replica of every shape with both phases, are simulated at the rate
asked for (or with hardly any load), and the limits that break are loosened until the
wanted share of the requests is good. Of all, the one whose limits grow least is told.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusters.fields import check_fields, spec
from planner.deployment import Deployment
from planner.evaluate import Evaluator
from planner.search.contract import Candidate, Ledger
from planner.search.shapes import usable_shapes
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from planner.slo import Slo, SloRule

_LIGHT_FRAC = 1e-6
"""Share of its capacity at which a deployment is as good as idle."""

_DIGITS = 3
"""Significant digits of a loosened limit, rounded up."""

_MAX_SHAPES = 64
"""Shapes looked at beside the finalists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestSlo:
    """An SLO that is met, and by what."""

    slo: Slo = spec("The looser limits.")
    factor: float = spec("By how much the loosest has grown.", unit="1", ge=1)
    deployment: str = spec("What meets it.")
    num_gpus: int = spec("Its GPUs.", unit="GPUs", ge=1)
    rate_rps: float | None = spec(
        "At this rate; None: with hardly any load.", unit="requests/s", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def describe(self) -> str:
        """E.g. ``nearest SLO that is met with hardly any load: TTFT <= 24 ms ...``."""
        load = "with hardly any load"
        if self.rate_rps is not None:
            load = f"at {self.rate_rps:g} requests/s"
        return (
            f"the nearest SLO that is met {load} is {self.slo.describe()} "
            f"({self.deployment})"
        )


def nearest_slo(
    evaluator: Evaluator, finalists: Sequence[Candidate], rate_rps: float | None
) -> NearestSlo | None:
    """The least loosened SLO of the problem that one of the finalists or shapes meets.

    Parameters
    ----------
    evaluator
        What simulates.
    finalists
        Deployments that came nearest.
    rate_rps
        Rate at which it is to be met; None: hardly any load.
    """
    found = [
        nearest
        for deployment in _deployments(evaluator, finalists, rate_rps)
        if (nearest := _nearest_of(evaluator, deployment, rate_rps)) is not None
    ]
    return min(found, key=lambda n: (n.factor, n.num_gpus), default=None)


def _deployments(
    evaluator: Evaluator, finalists: Sequence[Candidate], rate_rps: float | None
) -> Iterator[Deployment]:
    """The finalists; without a rate also one replica of every shape."""
    yield from (each.deployment for each in finalists)
    if rate_rps is None:
        alone = usable_shapes(evaluator.planner, Phase.AGGREGATED, Ledger())
        yield from alone[:_MAX_SHAPES]


def _nearest_of(
    evaluator: Evaluator, deployment: Deployment, rate_rps: float | None
) -> NearestSlo | None:
    """The least loosened SLO that a deployment meets; None when none is."""
    slo = evaluator.planner.problem.service.slo
    workload = evaluator.planner.problem.service.workload
    limit_rps = evaluator.rate_limit_rps(deployment)
    if rate_rps is not None and rate_rps > limit_rps:
        return None
    rate = rate_rps or limit_rps * _LIGHT_FRAC
    num = evaluator.effort.num_requests(rate)
    requests = workload.draw(num, seed=evaluator.seed, rate_rps=rate)
    system = evaluator.planner.system(deployment)
    looser = loosened(slo, simulate(system, requests))
    if looser is None:
        return None
    if rate_rps is not None:
        # A queue that grows without end has passed; what lasts is judged as ever.
        lasting = evaluator.system_goodput(system, looser, floor_rps=rate_rps)
        if lasting.rate_rps < rate_rps:
            return None
    before = slo.limits_ms
    return NearestSlo(
        slo=looser,
        factor=max(now / before[name] for name, now in looser.limits_ms.items()),
        deployment=deployment.describe(),
        num_gpus=deployment.num_gpus,
        rate_rps=rate_rps,
    )


def loosened(slo: Slo, result: SimulationResult) -> Slo | None:
    """The SLO with the limits that break at their least; None when none would do.

    Limits that hold for enough requests stay. Of those that do not, one alone is put
    where enough requests are within it; several of a joint rule grow by one factor.
    """
    num = result.num_arrived
    needed = num - slo.max_misses(num)
    limits = slo.limits_ms
    ratios = {m: _ratios(result, m, limit) for m, limit in limits.items()}
    broken = [m for m, over in ratios.items() if int((over <= 1.0).sum()) < needed]
    if slo.rule is SloRule.EACH:
        factors = {m: _least([ratios[m]], needed) for m in broken}
        return _scaled(slo, factors)
    for grown in (broken, list(limits)):
        kept = [ratios[m] for m in limits if m not in grown]
        others = np.max([np.zeros(num), *kept], axis=0)
        over = [np.where(others <= 1.0, ratios[m], math.inf) for m in grown]
        factor = _least(over, needed) if grown else math.inf
        if math.isfinite(factor):
            return _scaled(slo, dict.fromkeys(grown, factor))
    return None


def _ratios(
    result: SimulationResult, metric: str, limit_ms: float
) -> NDArray[np.float64]:
    """A metric of each request over its limit; infinity for those not served.

    A request that has no such metric (a single token has no TPOT) keeps every limit.
    """
    over = result.metric_ms(metric) / limit_ms
    absent = np.isnan(over)
    return np.where(result.is_done, np.where(absent, 0.0, over), math.inf)


def _least(ratios: Iterable[NDArray[np.float64]], needed: int) -> float:
    """The least factor within which `needed` requests keep all these limits."""
    worst = np.sort(np.max(list(ratios), axis=0))
    return float(worst[needed - 1]) if needed > 0 else 1.0


def _scaled(slo: Slo, factors: Mapping[str, float]) -> Slo | None:
    """The SLO with some limits multiplied, rounded up to a few digits."""
    if not all(math.isfinite(factor) for factor in factors.values()):
        return None
    limits: dict[str, Any] = {
        f"{metric}_ms": _rounded_up(slo.limits_ms[metric] * max(1.0, factor))
        for metric, factor in factors.items()
    }
    return replace(slo, **limits)


def _rounded_up(value: float) -> float:
    """The next number with a few significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - _DIGITS + 1)
    return float(f"{math.ceil(value / unit * (1.0 - 1e-12)) * unit:.{_DIGITS}g}")
