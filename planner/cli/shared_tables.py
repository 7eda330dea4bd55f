"""A plan for several services as tables for a terminal."""

from typing import TYPE_CHECKING

from planner.cli.plan_tables import shortened
from planner.cli.tables import facts_table, sections, table_of
from planner.deployment import gpu_ranges
from planner.multiplexing.problem import SharedGoal
from planner.multiplexing.serve import SharedEvaluation
from planner.multiplexing.shared_plan import SharedPlan
from planner.multiplexing.unit import LlmUnit
from planner.simulator.system import Phase

if TYPE_CHECKING:
    from rich.console import Group, RenderableType


def shared_plan_report(plan: SharedPlan) -> "Group":
    """Everything a person wants to see first."""
    parts = [
        ("", _summary(plan)),
        ("Units", unit_table(plan, plan.evaluation)),
        (f"Services, simulated for {plan.evaluation.span_s:g} s", service_table(plan)),
    ]
    parts += _worst_windows(plan.evaluation)
    if plan.alternatives:
        parts.append(("Alternatives, simulated alike", _alternatives(plan)))
    if plan.warnings:
        lines = [("", text) for text in plan.warnings]
        parts.append(("Warnings", facts_table(lines)))
    return sections(*parts)


def shared_simulation_report(plan: SharedPlan, evaluation: SharedEvaluation) -> "Group":
    """Attainment of every service and load of every unit."""
    met = "met" if evaluation.is_met else "MISSED"
    facts = [
        ("Plan", f"{plan.placed.num_gpus} GPUs in {len(plan.placed.units)} units"),
        ("Verdict", f"{met}: {_within(evaluation)}"),
        ("Quotas", str(evaluation.scheduling)),
    ]
    return sections(
        ("", facts_table(facts)),
        ("Units", unit_table(plan, evaluation)),
        (f"Services, {evaluation.span_s:g} s", service_table(plan, evaluation)),
        *_worst_windows(evaluation),
    )


def unit_table(plan: SharedPlan, evaluation: SharedEvaluation) -> "RenderableType":
    """A row for each LLM of each unit: SM share, KV quota, load."""
    topology = plan.problem.cluster.topology
    rows = []
    for index, (each, load) in enumerate(
        zip(plan.placed.units, evaluation.units, strict=True)
    ):
        unit = each.unit
        node = topology.gpu(each.gpu_indices[0]).node_name
        local = [topology.gpu(gpu).local_index for gpu in each.gpu_indices]
        place = f"{node}:{gpu_ranges(local)}"
        how = _how(unit)
        for i, member in enumerate(unit.members):
            is_apart = unit.phase is Phase.DECODE and unit.is_shared
            is_side_by_side = how.endswith("%") or (is_apart and not unit.cycle_ms)
            share = f"{member.decode_share_frac:.0%}" if is_side_by_side else "-"
            rows.append(
                [
                    str(index) if i == 0 else "",
                    f"{place} ({unit.mesh.gpu_type})" if i == 0 else "",
                    f"{how} {load.prefill_busy_frac:.0%}" if i == 0 else "",
                    member.service,
                    f"{member.served_rps:.3g}",
                    share,
                    f"{member.kv_quota_tokens:,}",
                    f"{load.decode_busy_frac[i]:.0%}",
                    f"{load.kv_peak_frac[i]:.0%}",
                ]
            )
    headers = [
        "unit",
        "GPUs",
        "prefill",
        "service",
        "req/s",
        "SMs",
        "KV quota",
        "busy",
        "KV peak",
    ]
    numeric = {"req/s", "SMs", "KV quota", "busy", "KV peak", "prefill"}
    return table_of(headers, shortened(rows), numeric=numeric)


def _how(unit: LlmUnit) -> str:
    """SMs of prefills, or how else a unit runs."""
    if unit.phase is not Phase.AGGREGATED:
        return f"{unit.phase}, turns" if unit.cycle_ms else f"{unit.phase} only"
    return "turns" if unit.cycle_ms else f"{unit.prefill_share_frac:.0%}"


def service_table(
    plan: SharedPlan, evaluation: SharedEvaluation | None = None
) -> "RenderableType":
    """What each service asked for and got, with its limits."""
    slos = {service.name: service.slo for service in plan.problem.services}
    has_e2e = any(slo.e2e_ms is not None for slo in slos.values())
    outcomes = (evaluation or plan.evaluation).services
    rows = []
    for each in outcomes:
        slo = slos[each.service]
        joint = "-" if each.attainment is None else f"{each.attainment.joint_frac:.1%}"
        rows.append(
            [
                each.service,
                f"{each.wanted_rps:.3g}",
                f"{each.admitted_rps:.3g}",
                f"{each.within_slo_rps:.3g}",
                joint,
                _of_limit(each.ttft_p90_ms, slo.ttft_ms),
                _of_limit(each.tpot_p90_ms, slo.tpot_ms),
                *([_of_limit(each.e2e_p90_ms, slo.e2e_ms)] if has_e2e else []),
            ]
        )
    headers = [
        "service",
        "wanted/s",
        "admitted/s",
        "within SLO/s",
        "attained",
        "TTFT p90 ms",
        "TPOT p90 ms",
        *(["E2E p90 ms"] if has_e2e else []),
    ]
    return table_of(headers, rows, numeric=set(headers[1:]))


def _worst_windows(
    evaluation: SharedEvaluation,
) -> list[tuple[str, "RenderableType"]]:
    """The part of the time in which each service did worst; none without changes."""
    rows = [
        [
            each.service,
            f"{each.worst.start_s:g}",
            f"{each.worst.end_s:g}",
            f"{each.worst.num_requests:,}",
            f"{each.worst.attained_frac:.1%}",
        ]
        for each in evaluation.services
        if each.worst is not None
    ]
    headers = ["service", "from s", "to s", "requests", "attained"]
    table = table_of(headers, rows, numeric=set(headers[1:]))
    return [("Worst part of the time", table)] if rows else []


def _summary(plan: SharedPlan) -> "RenderableType":
    price = "no price" if plan.usd_per_hour is None else f"{plan.usd_per_hour:.2f} $/h"
    rows = [
        ("Status", ": ".join([plan.status, *plan.reasons])),
        ("Verdict", plan.verdict),
        ("Method", str(plan.method)),
        ("Served", _within(plan.evaluation)),
        ("Promised", f"{plan.promised_rps:.4g} of {plan.wanted_rps:.4g} requests/s"),
        (
            "Size",
            f"{plan.placed.num_gpus} of {plan.problem.cluster.num_gpus} GPUs in "
            f"{len(plan.placed.units)} units, {price}",
        ),
    ]
    if plan.bound is not None:
        gap = "" if plan.gap_frac is None else f", gap {plan.gap_frac:.1%}"
        # Costs count as negative values.
        is_cost = plan.problem.goal is SharedGoal.MIN_COST
        most = f"at most {plan.bound:.4g}"
        limit = f"at least {-plan.bound:.4g} $/h" if is_cost else most
        rows.append(("Bound", f"{plan.problem.goal}: {limit} by the estimate{gap}"))
    return facts_table(rows)


def _within(evaluation: SharedEvaluation) -> str:
    wanted = sum(each.wanted_rps for each in evaluation.services)
    return f"{evaluation.within_slo_rps:.4g} of {wanted:.4g} requests/s within SLO"


def _alternatives(plan: SharedPlan) -> "RenderableType":
    rows = []
    for each in plan.alternatives:
        price = "-" if each.usd_per_hour is None else f"{each.usd_per_hour:.2f}"
        served = f"{each.within_slo_rps:.4g}"
        rows.append([str(each.method), str(each.num_gpus), served, price])
    headers = ["method", "GPUs", "within SLO/s", "$/h"]
    return table_of(headers, rows, numeric=set(headers[1:]))


def _of_limit(value_ms: float | None, limit_ms: float | None) -> str:
    value = "-" if value_ms is None else f"{value_ms:.0f}"
    return value if limit_ms is None else f"{value} of {limit_ms:g}"
