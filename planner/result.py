"""Result: the answer of `solve`, whose text is the report a person wants first."""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.flow_routing import describe_routing
from planner.objective import Goal
from planner.plan import AllocationBound, MethodCounts, Plan, Status

__all__ = ["Result", "Status", "gap_to"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Status, best plan, bound and counts of a search."""

    status: Status = spec("How good the plan is known to be.")
    reasons: tuple[str, ...] = spec("Why the status is what it is.")
    best: Plan | None = spec("The plan, or the best effort; None: nothing can run.")
    bound: float | None = spec("Bound on the goal.", unit="of the goal")
    gap_frac: float | None = spec("Relative distance to the bound.", unit="1")
    allocation: AllocationBound | None = spec(
        "Bound on whole replicas at simulated rates.", default=None
    )
    counts: tuple[MethodCounts, ...] = spec("What was looked at.")
    runtime_s: float = spec("Wall time of the search.", unit="s", ge=0)
    num_evaluations: int = spec("Goodput searches.", unit="1", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        lines = [
            f"{self.status}: {'; '.join(self.reasons)}"
            if self.reasons
            else str(self.status)
        ]
        if self.best is not None:
            lines += _plan_lines(self.best)
        if self.bound is not None:
            gap = f", gap {self.gap_frac:.0%}" if self.gap_frac is not None else ""
            lines.append(f"bound     {self.bound:.4g}{gap}")
        if self.allocation is not None and self.allocation.gap_frac is not None:
            gap = f", gap {self.allocation.gap_frac:.1%}"
            what = "of whole replicas at simulated rates"
            lines.append(f"bound     {self.allocation.value:.4g} {what}{gap}")
        for each in self.counts:
            if each.why_skipped:
                lines.append(f"{each.method}: skipped, {each.why_skipped}")
                continue
            rejected = ", ".join(f"{n} {why}" for why, n in each.rejected.items())
            share = f"{each.num_evaluated} of {each.num_enumerated}"
            why = f" ({rejected})" if rejected else ""
            lines.append(f"{each.method}: {share} simulated{why}")
        lines.append(f"searched for {self.runtime_s:.1f} s")
        return "\n".join(lines)


def _plan_lines(plan: Plan) -> list[str]:
    goodput = plan.goodput
    gpus = plan.deployment.num_gpus
    price = (
        "price unknown" if plan.usd_per_hour is None else f"{plan.usd_per_hour:.2f} $/h"
    )
    power = "" if plan.power_w is None else f", {plan.power_w:.0f} W"
    attained = plan.evaluation.attainment.joint_frac
    routing = describe_routing(plan.deployment, plan.problem.engine.routing)
    return [
        f"plan      {plan.deployment.describe()}",
        *([] if routing is None else [f"routed    {routing}"]),
        f"goodput   {goodput.rate_rps:.3f} requests/s "
        f"[{goodput.low_rps:.3f}, {goodput.high_rps:.3f}], "
        f"{goodput.rate_rps / gpus:.3f} per GPU",
        f"GPUs      {gpus}, {price}{power}",
        f"SLO       {attained:.1%} of requests within all limits "
        f"at {plan.evaluation.rate_rps:.3f} requests/s",
        f"verdict   {plan.verdict}",
    ]


def gap_to(goal: Goal, value: float | None, bound: float | None) -> float | None:
    """Relative distance of a value to its bound, >= 0; None when either is unknown."""
    if value is None or bound is None or not 0 < bound < float("inf"):
        return None
    gap = (bound - value) / bound if goal.is_upper else (value - bound) / value
    return max(0.0, gap)
