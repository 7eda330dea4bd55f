"""A simulation as tables for a terminal."""

from typing import TYPE_CHECKING

from planner.cli.plan_tables import latency_table, load_table
from planner.cli.tables import facts_table, sections
from planner.evaluate import Evaluation
from planner.plan import Plan

if TYPE_CHECKING:
    from rich.console import Group


def simulation_report(plan: Plan, evaluation: Evaluation) -> "Group":
    """Attainment, percentiles and load of every replica."""
    attainment = evaluation.attainment
    each = {
        "TTFT": attainment.ttft_frac,
        "TPOT": attainment.tpot_frac,
        "E2E": attainment.e2e_frac,
    }
    shares = [
        f"{name} {share:.1%}" for name, share in each.items() if share is not None
    ]
    facts = [
        ("Plan", plan.deployment.describe()),
        ("SLO", plan.problem.service.slo.describe()),
        (
            "Attained",
            f"{attainment.joint_frac:.1%} within all limits; {', '.join(shares)}",
        ),
        ("Verdict", "met" if attainment.is_met else "MISSED"),
        (
            "Requests",
            f"{evaluation.num_requests:,} at {evaluation.rate_rps:.2f} requests/s, "
            f"{evaluation.num_rejected} rejected, "
            f"{evaluation.num_preemptions} preemptions",
        ),
        ("Output", f"{evaluation.output_tokens_per_s:,.0f} tokens/s"),
    ]
    return sections(
        ("", facts_table(facts)),
        ("Latency", latency_table(evaluation)),
        ("Load", load_table(evaluation)),
    )
