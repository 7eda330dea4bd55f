"""Limits of a plan beside its GPUs' number: what is available, the budget, the power.

Every method keeps them: placement never takes more GPUs of a type than there are to
have, and no deployment beyond the budget or the power is simulated.
"""

from collections import Counter
from collections.abc import Mapping

from planner.cost import power_w, usd_per_hour
from planner.deployment import Deployment
from planner.objective import Amounts
from planner.problem import Problem

_ROUNDING = 1e-9


def amounts_of(problem: Problem, deployment: Deployment, rate_rps: float) -> Amounts:
    """What a deployment of a goodput serves and takes."""
    return Amounts(
        rate_rps=rate_rps,
        num_gpus=deployment.num_gpus,
        usd_per_hour=usd_per_hour(problem.cluster, deployment),
        power_w=power_w(problem.cluster, deployment),
    )


def why_over(problem: Problem, deployment: Deployment) -> str | None:
    """Which limit a deployment breaks, or None (a reason that counts together)."""
    space = problem.search
    topology = problem.cluster.topology
    used: Counter[str] = Counter()
    if space.available_gpus:
        used.update(topology.gpu(gpu).type.name for gpu in deployment.gpu_indices)
    usd = power = None
    if space.max_usd_per_hour is not None:
        usd = usd_per_hour(problem.cluster, deployment)
    if space.max_power_w is not None:
        power = power_w(problem.cluster, deployment)
    return why_too_much(problem, used, usd, power)


def why_too_much(
    problem: Problem,
    gpus: Mapping[str, int],
    usd_per_hour: float | None,
    power_w: float | None,
) -> str | None:
    """Which limit GPUs by type, a price and a power break, or None.

    An unknown price or power breaks its limit, if there is one.
    """
    space = problem.search
    for name, used in gpus.items():
        if used > space.available_gpus.get(name, used):
            return f"needs more {name} than are available"
    for taken, most, why in (
        (usd_per_hour, space.max_usd_per_hour, "costs more than max_usd_per_hour"),
        (power_w, space.max_power_w, "takes more than max_power_w"),
    ):
        if most is not None and (taken is None or taken > most * (1.0 + _ROUNDING)):
            return why
    return None
