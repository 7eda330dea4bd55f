"""A plan as tables for a terminal: summary, pools, latencies, alternatives."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from clusters.units import GB
from planner.cli.tables import facts_table, sections, table_of
from planner.deployment import gpu_ranges
from planner.evaluation import Evaluation
from planner.flow_routing import describe_routing
from planner.objective import Amounts, Goal
from planner.plan import AllocationBound, Alternative, Plan
from planner.problem import Problem

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

MAX_ROWS = 24
"""Replicas and routes shown; the files have all of them."""

_UNITS = {
    Goal.MAX_GOODPUT: "requests/s",
    Goal.MAX_GOODPUT_PER_GPU: "requests/s a GPU",
    Goal.MIN_GPUS: "GPUs",
    Goal.MIN_COST: "$/h",
    Goal.MIN_POWER: "W",
}

MAX_WORTH = 4
"""Things that would help most."""


def plan_report(plan: Plan) -> "Group":
    """Everything a person wants to see of a plan first."""
    parts = [
        ("", summary_table(plan)),
        ("Replicas", pool_table(plan)),
        (
            f"Simulated at {plan.evaluation.rate_rps:.2f} requests/s",
            latency_table(plan.evaluation),
        ),
    ]
    if plan.alternatives:
        parts.append(("Alternatives, simulated alike", alternative_table(plan)))
    return sections(*parts)


def summary_table(plan: Plan) -> "RenderableType":
    """Status, verdict, size and bound."""
    goodput = plan.goodput
    gpus = plan.deployment.num_gpus
    price = "no price" if plan.usd_per_hour is None else f"{plan.usd_per_hour:.2f} $/h"
    if plan.power_w is not None:
        price += f", {plan.power_w:,.0f} W of board limits"
    attainment = plan.evaluation.attainment
    met = "met" if attainment.is_met else "MISSED"
    rows = [
        ("Status", ": ".join([plan.status, *plan.reasons])),
        ("Verdict", plan.verdict),
        ("Plan", f"{plan.deployment.describe()}  ({plan.method})"),
        (
            "Goodput",
            f"{goodput.rate_rps:.2f} requests/s "
            f"(95 % CI {goodput.low_rps:.2f}-{goodput.high_rps:.2f}), "
            f"{goodput.rate_rps / gpus:.3f} per GPU",
        ),
        ("SLO", f"{met}: {plan.problem.service.slo.describe()}"),
        ("Attained", f"{attainment.joint_frac:.1%} within all limits"),
        *use_facts(plan.evaluation),
        ("Size", f"{gpus} of {plan.problem.cluster.num_gpus} GPUs, {price}"),
        ("Goal", goal_text(plan.problem)),
    ]
    if plan.bound is not None:
        rows.append(("Bound", bound_text(plan)))
    if plan.kv_flow is not None:
        rows.append(("KV flow", plan.kv_flow.describe()))
    routing = describe_routing(plan.deployment, plan.problem.engine.routing)
    if routing is not None:
        rows.append(("Routing", routing))
    if plan.allocation is not None:
        rows += allocation_rows(plan.allocation, plan.problem.objective.goal)
    shapes = {evidence.shape for evidence in plan.evidence}
    rows += [("Warning", warning) for warning in folded(plan.warnings, shapes)]
    return facts_table(rows)


def goal_text(problem: Problem) -> str:
    """Goal and limits, e.g. ``min_cost, then min_gpus; at most 40 $/h``."""
    objective, space = problem.objective, problem.search
    text = ", then ".join(objective.goals)
    if objective.give_up_frac > 0:
        text += f" for up to {objective.give_up_frac:.0%} of the first"
    limits = [f"{most} {name} GPUs" for name, most in space.available_gpus.items()]
    if space.max_gpus is not None:
        limits.append(f"{space.max_gpus} GPUs")
    if space.max_usd_per_hour is not None:
        limits.append(f"{space.max_usd_per_hour:g} $/h")
    if space.max_power_w is not None:
        limits.append(f"{space.max_power_w:,g} W")
    return text + (f"; at most {', '.join(limits)}" if limits else "")


GAIN_UNITS = {
    Goal.MAX_GOODPUT: "requests/s",
    Goal.MAX_GOODPUT_PER_GPU: "requests/s per GPU",
    Goal.MIN_GPUS: "GPUs saved",
    Goal.MIN_COST: "$/h saved",
    Goal.MIN_POWER: "W saved",
}
"""What a gain of each goal is counted in."""


def bound_text(plan: Plan) -> str:
    """What is proven for every plan, whatever its scheduling."""
    goal = plan.problem.objective.goal
    text = f"proven: no plan has {_beyond(goal)} {_amount(goal, plan.bound or 0.0)}"
    return text + ("" if plan.gap_frac is None else f"; gap {plan.gap_frac:.1%}")


def use_facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What admission refused, and what prefix caches held, where there are such."""
    facts = []
    found = evaluation.admission
    if found is not None:
        attained = evaluation.attainment.joint_frac
        facts.append(
            (
                "Admission",
                f"{found.num_refused:,} of {evaluation.num_requests:,} requests "
                f"refused on arrival; {found.admitted_joint_frac:.1%} of the others "
                f"within all limits, {attained:.1%} of all "
                f"({found.joint_frac_without:.1%} if every one is let in)",
            )
        )
    use = evaluation.prefix_use
    if use is not None:
        facts.append(
            (
                "Prefix cache",
                f"{use.hit_tokens_frac:.1%} of the prompt tokens were cached; "
                f"{use.hit_requests_frac:.1%} of the requests had some",
            )
        )
    return facts


def allocation_rows(bound: AllocationBound, goal: Goal) -> list[tuple[str, str]]:
    """What replicas of the simulated rates add up to, and what would help most."""
    text = f"replicas at their simulated rates: {_amount(goal, bound.value)} at best"
    if bound.gap_frac is not None:
        text += f"; gap {bound.gap_frac:.1%}"
    rows = [("Allocation", text)]
    useful = [each for each in bound.worth if each.gain > 0][:MAX_WORTH]
    unit = GAIN_UNITS[goal]
    rows += [
        ("Worth", f"one more {each.limit}: {each.gain:.3g} {unit}") for each in useful
    ]
    if bound.worth and len(useful) < MAX_WORTH:
        what = "anything else" if useful else "anything"
        rows.append(("Worth", f"one more of {what}: 0"))
    return rows


def _beyond(goal: Goal) -> str:
    """How a plan would be better than a bound."""
    return "more than" if goal.is_upper else "less than"


def _amount(goal: Goal, value: float) -> str:
    """A value of a goal with its unit."""
    return f"{value:.4g} {_UNITS[goal]}"


def folded(warnings: Sequence[str], shapes: Collection[str]) -> list[str]:
    """Warnings of which several shapes have the same, said once.

    Where all shapes have it, they are not named.
    """
    by_text: dict[str, list[str]] = {}
    for warning in warnings:
        shape, _, text = warning.partition(": ")
        subject, text = (shape, text) if shape in shapes else ("", warning)
        by_text.setdefault(text, []).append(subject)
    return [
        text
        if subjects == [""] or len(subjects) == len(shapes)
        else f"{', '.join(subjects)}: {text}"
        for text, subjects in by_text.items()
    ]


def pool_table(plan: Plan) -> "RenderableType":
    """One row a replica: GPUs, KV cache, load and latency source."""
    topology = plan.problem.cluster.topology
    sources = {e.shape: e.latency_provenance for e in plan.evidence}
    rows = []
    for replica, load in zip(
        plan.deployment.replicas, plan.evaluation.replicas, strict=True
    ):
        nodes = dict.fromkeys(topology.gpu(g).node_name for g in replica.gpu_indices)
        places = []
        for node in nodes:
            local = [
                topology.gpu(g).local_index
                for g in replica.gpu_indices
                if topology.gpu(g).node_name == node
            ]
            places.append(f"{node}:{gpu_ranges(local)}")
        busy = load.prefill_busy_frac + load.decode_busy_frac + load.mixed_busy_frac
        rows.append(
            [
                replica.name,
                " + ".join(dict.fromkeys(replica.shape.gpu_types)),
                replica.shape.split,
                " ".join(places),
                f"{replica.kv_capacity_tokens:,}",
                f"{load.kv_peak_frac:.0%}",
                f"{busy:.0%}",
                sources.get(str(replica.shape), "-"),
            ]
        )
    headers = [
        "replica",
        "GPU",
        "split",
        "GPUs",
        "KV tokens",
        "KV peak",
        "busy",
        "latency",
    ]
    return table_of(headers, shortened(rows), numeric={"KV tokens", "KV peak", "busy"})


def shortened(rows: list[list[str]]) -> list[list[str]]:
    """The first rows of a long table, and how many more there are."""
    if len(rows) <= MAX_ROWS:
        return rows
    last = [f"{len(rows) - MAX_ROWS + 1} more", *([""] * (len(rows[0]) - 1))]
    return [*rows[: MAX_ROWS - 1], last]


def latency_table(evaluation: Evaluation, *, is_sure: bool = False) -> "RenderableType":
    """Percentiles, limits and margins; with `is_sure` half the 95 % intervals."""
    rows = []
    for metric in evaluation.metrics:
        limit = "-" if metric.limit_ms is None else f"{metric.limit_ms:g}"
        margin = "-" if metric.margin_ms is None else f"{metric.margin_ms:+.1f}"
        values = [
            f"{value:.1f}"
            if half is None or not is_sure
            else f"{value:.1f} ±{half:.1f}"
            for value, half in (
                (metric.p50_ms, metric.p50_half_ms),
                (metric.p90_ms, metric.p90_half_ms),
                (metric.p99_ms, metric.p99_half_ms),
            )
        ]
        rows.append([metric.metric.upper(), *values, limit, margin])
    transfer = evaluation.transfer_p90_ms
    if transfer is not None:
        rows.append(["KV transfer", "-", f"{transfer:.1f}", "-", "-", "-"])
    headers = ["ms", "p50", "p90", "p99", "limit", "margin"]
    return table_of(headers, rows, numeric=set(headers[1:]))


def alternative_table(plan: Plan) -> "RenderableType":
    """The other finalists."""
    rows = [
        (
            each.deployment,
            str(each.num_gpus),
            f"{each.goodput.rate_rps:.2f}",
            f"{each.goodput_per_gpu_rps:.3f}",
            against(plan, each),
            "-" if each.usd_per_hour is None else f"{each.usd_per_hour:.2f}",
            "-" if each.power_w is None else f"{each.power_w:,.0f}",
        )
        for each in plan.alternatives
    ]
    versus = _VERSUS[plan.problem.objective.goal]
    headers = ["deployment", "GPUs", "req/s", "per GPU", versus, "$/h", "W"]
    # Two methods may come to the same deployment.
    return table_of(headers, dict.fromkeys(rows), numeric=set(headers[1:]))


_VERSUS = {
    Goal.MAX_GOODPUT: "vs plan",
    Goal.MAX_GOODPUT_PER_GPU: "vs plan",
    Goal.MIN_GPUS: "GPUs vs plan",
    Goal.MIN_COST: "$/h vs plan",
    Goal.MIN_POWER: "W vs plan",
}
"""Headers of what `against` tells; more goodput is better, and less of the rest."""


def against(plan: Plan, each: Alternative) -> str:
    """The goal's value of an alternative over the plan's.

    Of one that serves less than the rate asked for, that it does.
    """
    goal = plan.problem.objective.goal
    target = plan.problem.service.workload.rate_rps
    rate = each.goodput.rate_rps
    if goal.needs_rate and target is not None and rate < target:
        return "too slow"
    ours = Amounts(
        rate_rps=plan.goodput.rate_rps,
        num_gpus=plan.deployment.num_gpus,
        usd_per_hour=plan.usd_per_hour,
        power_w=plan.power_w,
    ).value(goal)
    theirs = Amounts(
        rate_rps=rate,
        num_gpus=each.num_gpus,
        usd_per_hour=each.usd_per_hour,
        power_w=each.power_w,
    ).value(goal)
    return f"{theirs / ours - 1.0:+.0%}" if ours and theirs is not None else "-"


def route_table(plan: Plan) -> "RenderableType":
    """KV routes between replicas."""
    flow = plan.kv_flow
    shares = {(r.source, r.target): r.share_frac for r in flow.routes} if flow else {}
    rows = [
        [
            f"{route.source} -> {route.target}",
            route.kind,
            f"{route.bytes_per_s / GB:.1f}",
            f"{route.latency_ms:.3f}",
            f"{shares.get((route.source, route.target), 0.0):.0%}" if shares else "-",
        ]
        for route in plan.deployment.routes
    ]
    headers = ["KV route", "slowest link", "GB/s", "latency ms", "planned share"]
    return table_of(headers, shortened(rows), numeric=set(headers[2:]))


def load_table(evaluation: Evaluation) -> "RenderableType":
    """How busy every replica was."""
    rows = [
        [
            load.name,
            f"{load.num_requests:,}",
            f"{load.prefill_busy_frac:.0%}",
            f"{load.decode_busy_frac:.0%}",
            f"{load.mixed_busy_frac:.0%}",
            f"{load.bubble_frac:.0%}",
            f"{load.kv_mean_frac:.0%}",
            f"{load.kv_peak_frac:.0%}",
            "-" if load.power_w is None else f"{load.power_w:,.0f}",
        ]
        for load in evaluation.replicas
    ]
    headers = ["replica", "requests", "prefill", "decode", "mixed", "bubbles"]
    headers += ["KV mean", "KV peak", "est. W"]
    if evaluation.prefix_use is not None:
        headers.append("cache hits")
        for row, load in zip(rows, evaluation.replicas, strict=True):
            hit_frac = load.prefix_hit_frac
            row.append("-" if hit_frac is None else f"{hit_frac:.0%}")
    return table_of(headers, shortened(rows), numeric=set(headers[1:]))
