"""A simulation as tables for a terminal."""

from typing import TYPE_CHECKING

from planner.cli.plan_tables import latency_table, load_table, use_facts
from planner.cli.tables import facts_table, sections
from planner.engines import EnginePreset
from planner.evaluation import Disturbance, Evaluation
from planner.plan import Plan

if TYPE_CHECKING:
    from rich.console import Group


def simulation_report(
    plan: Plan, evaluation: Evaluation, *, engine: str | None = None
) -> "Group":
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
    facts += use_facts(evaluation)
    if evaluation.joules_per_output_token is not None:
        joules = f"{evaluation.joules_per_output_token:.3g} J of the GPUs a token"
        facts.append(("Energy", f"{joules}, estimated from board limits"))
    if evaluation.disturbance is not None:
        facts.append(("Events", disturbance_text(evaluation.disturbance)))
    if engine is not None:
        facts[1:1] = engine_facts(EnginePreset.load(engine))
    return sections(
        ("", facts_table(facts)),
        ("Latency", latency_table(evaluation, is_sure=True)),
        ("Load", load_table(evaluation)),
    )


def disturbance_text(found: Disturbance) -> str:
    """What events from outside did, in a line."""
    return (
        f"{found.num_events} from outside: {found.num_recomputed:,} requests computed "
        f"again ({found.num_recomputed_tokens:,} tokens), {found.num_rerouted:,} sent "
        f"elsewhere, {found.num_unfinished:,} never ended"
    )


def engine_facts(preset: EnginePreset) -> list[tuple[str, str]]:
    """What a preset sets, and how far it was off on measured runs."""
    large = preset.large_gpu_batch_tokens
    tokens = f"{preset.max_batch_tokens:,}" + (f" or {large:,}" if large else "")
    overheads, fit = preset.fit.overheads, preset.fit
    errors = [
        f"{name} {share:.0%}"
        for name, share in (
            ("TTFT", fit.ttft_median_error_frac),
            ("TPOT", fit.tpot_median_error_frac),
        )
        if share is not None
    ]
    return [
        (
            "Engine",
            f"{preset.name}: {preset.policy}, {tokens} tokens a step, "
            f"{preset.max_num_seqs:,} requests",
        ),
        (
            "Memory",
            f"{preset.memory_frac:.0%} {preset.memory_kind.replace('_', ' ')}, "
            f"blocks of {preset.block_tokens} tokens, "
            f"graphs up to {preset.captured[-1]:,} requests",
        ),
        (
            "Overheads",
            f"{overheads.request_ms:.0f} ms a request, {overheads.launch_ms:.3f} ms to "
            f"launch a kernel of a prefill, {overheads.graph_kernel_ms:.4f} ms between "
            "those of a decode",
        ),
        ("Median error", f"{', '.join(errors)} on {fit.rows:,} measured runs left out"),
    ]
