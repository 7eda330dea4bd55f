"""An explanation as tables for a terminal."""

from typing import TYPE_CHECKING

from planner.cli.plan_tables import (
    GAIN_UNITS,
    latency_table,
    route_table,
    shortened,
)
from planner.cli.tables import facts_table, sections, table_of
from planner.explain import Explanation
from planner.kv_flow import KvFlow
from planner.plan import Plan

if TYPE_CHECKING:
    from rich.console import Group, RenderableType


def explain_report(plan: Plan, found: Explanation) -> "Group":
    """Bottleneck, rooms, margins, sensitivity, counts and provenance."""
    flow = plan.kv_flow
    facts = facts_table(
        [
            ("Plan", plan.deployment.describe()),
            ("Verdict", plan.verdict),
            ("Bottleneck", found.bottleneck),
            *([] if flow is None else [("KV flow", flow.describe())]),
        ]
    )
    parts = [
        ("", facts),
        ("Each phase alone", _rooms(found)),
        ("Margins", latency_table(plan.evaluation)),
        ("Sensitivity", _sensitivity(found)),
        (_ratio_title(plan), _ratios(found)),
    ]
    if plan.deployment.routes:
        parts.append(("KV routes", route_table(plan)))
    if plan.kv_flow is not None:
        parts.append(("The cut: what binds the flow", _cut(plan.kv_flow)))
    if plan.allocation is not None and plan.allocation.worth:
        parts.append(("What one more would bring", _worth(plan)))
    parts += [("Candidates", _counts(plan)), ("Latencies", _evidence(plan))]
    return sections(*parts)


def _rooms(found: Explanation) -> "RenderableType":
    rows = [
        [room.shape, f"{room.capacity_rps:.2f}", signed(room.room_frac)]
        for room in found.phases
    ]
    headers = ["replicas", "req/s", "beyond the plan"]
    return table_of(headers, rows, numeric=set(headers[1:]))


def _cut(flow: KvFlow) -> "RenderableType":
    """Replicas and links in the minimum cut, with what more of each would bring."""
    rows = [[each.what, "request/s", f"{each.gain:.3g}"] for each in flow.cut_replicas]
    rows += [[each.what, "GB/s", f"{each.gain:.3g}"] for each in flow.cut_links]
    headers = ["binds", "one more", "requests/s"]
    return table_of(headers, shortened(rows), numeric={"requests/s"})


def _worth(plan: Plan) -> "RenderableType":
    """Every limit of the configuration programme, those worth nothing too."""
    assert plan.allocation is not None, "asked for with one only"
    unit = GAIN_UNITS[plan.problem.objective.goal]
    rows = [[each.limit, f"{each.gain:.3g}"] for each in plan.allocation.worth]
    return table_of(["one more", unit], shortened(rows), numeric={unit})


def _sensitivity(found: Explanation) -> "RenderableType":
    rows = [
        [each.change, f"{each.attainment_frac:.1%}", "met" if each.is_met else "MISSED"]
        for each in found.sensitivities
    ]
    return table_of(["change", "attained", "SLO"], rows, numeric={"attained"})


def _ratio_title(plan: Plan) -> str:
    free = plan.problem.cluster.num_gpus - plan.deployment.num_gpus
    return f"One replica more or fewer ({free} GPUs are free)"


def _ratios(found: Explanation) -> "RenderableType":
    base = found.ratios[0].goodput_rps
    rows = [
        [
            each.change,
            each.ratio,
            str(each.num_gpus),
            f"{each.goodput_rps:.2f}",
            signed(each.goodput_rps / base - 1.0) if base > 0 else "-",
            f"{each.goodput_per_gpu_rps:.3f}",
        ]
        for each in found.ratios
    ]
    headers = ["replicas", "ratio", "GPUs", "req/s", "change", "per GPU"]
    return table_of(headers, rows, numeric=set(headers[2:]))


def _counts(plan: Plan) -> "RenderableType":
    rows = []
    for each in plan.counts:
        if each.why_skipped:
            rows.append([each.method, "-", f"skipped: {each.why_skipped}"])
            continue
        rows.append([each.method, str(each.num_evaluated), "simulated"])
        rows += [["", str(n), why] for why, n in each.rejected.items() if n]
    return table_of(
        ["method", "number", "what became of them"], rows, numeric={"number"}
    )


def _evidence(plan: Plan) -> "RenderableType":
    rows: list[list[str]] = []
    for each in plan.evidence:
        error = each.expected_error_frac
        is_told = any(row[-1] == each.latency_reason for row in rows)
        rows.append(
            [
                each.shape,
                each.latency_provenance,
                "-" if error is None else f"{error:.0%}",
                "as above" if is_told else each.latency_reason,
            ]
        )
    return table_of(["shape", "provenance", "error", "why"], rows, numeric={"error"})


def signed(change_frac: float) -> str:
    """A relative change in percent, without a minus before zero."""
    return f"{round(change_frac, 2) + 0.0:+.0%}"
