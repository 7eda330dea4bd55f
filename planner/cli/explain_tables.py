"""An explanation as tables for a terminal."""

from typing import TYPE_CHECKING

from planner.cli.plan_tables import latency_table, route_table
from planner.cli.tables import facts_table, sections, table_of
from planner.explain import Explanation
from planner.plan import Plan

if TYPE_CHECKING:
    from rich.console import Group, RenderableType


def explain_report(plan: Plan, found: Explanation) -> "Group":
    """Bottleneck, rooms, margins, sensitivity, counts and provenance."""
    facts = facts_table(
        [
            ("Plan", plan.deployment.describe()),
            ("Verdict", plan.verdict),
            ("Bottleneck", found.bottleneck),
        ]
    )
    parts = [
        ("", facts),
        ("Each phase alone", _rooms(found)),
        ("Margins", latency_table(plan.evaluation)),
        ("Sensitivity", _sensitivity(found)),
    ]
    if plan.deployment.routes:
        parts.append(("KV routes", route_table(plan)))
    parts += [("Candidates", _counts(plan)), ("Latencies", _evidence(plan))]
    return sections(*parts)


def _rooms(found: Explanation) -> "RenderableType":
    rows = [
        [room.shape, f"{room.capacity_rps:.2f}", f"{room.room_frac:+.0%}"]
        for room in found.phases
    ]
    headers = ["replicas", "req/s", "beyond the plan"]
    return table_of(headers, rows, numeric=set(headers[1:]))


def _sensitivity(found: Explanation) -> "RenderableType":
    rows = [
        [each.change, f"{each.attainment_frac:.1%}", "met" if each.is_met else "MISSED"]
        for each in found.sensitivities
    ]
    return table_of(["change", "attained", "SLO"], rows, numeric={"attained"})


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
    rows = [
        [
            each.shape,
            each.latency_provenance,
            "-"
            if each.expected_error_frac is None
            else f"{each.expected_error_frac:.0%}",
            each.latency_reason,
        ]
        for each in plan.evidence
    ]
    return table_of(["shape", "provenance", "error", "why"], rows, numeric={"error"})
