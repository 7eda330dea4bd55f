"""Tables of `phaseplan profile`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.cli.tables import facts_table, quantity, sections, table_of

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from models.latency.profile import Profile
    from planner.validation import ValidationLevel
    from profiler.campaign import CampaignSummary
    from profiler.estimate import PointEstimate


def profile_report(profile: "Profile") -> "Group":
    """Where a profile comes from, its parts with their errors, and the ceilings."""
    where = profile.environment
    facts = [
        ("stands for", profile.gpu),
        ("measured on", f"{where.device_name} ({where.device}, {where.engine})"),
        ("versions", _versions(profile)),
        *(
            (f"ceiling {c.name}", quantity(c.per_s, c.rate_unit))
            for c in profile.ceilings
        ),
    ]
    headers = ["model", "part", "prefill error", "decode error", "up to"]
    rows = []
    for model in profile.models:
        for part in model.parts:
            reach = (
                f"{part.max_prompt_tokens} prompt tokens, "
                f"{part.max_requests} requests, {part.max_kv_tokens:.0f} KV tokens"
            )
            rows.append(
                [
                    f"{model.llm.name} TP{model.tp} {model.dtype}",
                    part.part,
                    _error(part.prefill_error),
                    _error(part.decode_error),
                    reach,
                ]
            )
    left = [
        (f"{m.llm.name} TP{m.tp}", f"{count} x {status}")
        for m in profile.models
        for status, count in m.left_out
    ]
    parts = [("", facts_table(facts)), ("Fits", table_of(headers, rows))]
    if left:
        parts.append(("Points without a number", facts_table(left)))
    return sections(*parts)


def summary_line(summary: "CampaignSummary") -> str:
    """A campaign in one line."""
    statuses = ", ".join(f"{n} {name}" for name, n in summary.statuses.items())
    return (
        f"{summary.num_grid} points: {summary.num_measured} measured now, "
        f"{summary.num_resumed} before, {summary.num_over_budget} over budget; "
        f"{summary.num_refined} added where the fit missed ({statuses}); "
        f"{summary.runtime_s:.0f} s"
    )


def points_table(rows: Sequence["PointEstimate"]) -> "Group":
    """Points of a dry run, and what they come to."""
    headers = ["subject", "step", "role", "bytes", "time"]
    cells = [
        [
            row.subject,
            row.step,
            row.role,
            quantity(row.memory_bytes, "bytes"),
            f"{row.seconds:.1f} s",
        ]
        for row in rows
    ]
    total = sum(row.seconds for row in rows)
    most = max((row.memory_bytes for row in rows), default=0.0)
    facts = [
        ("points", str(len(rows))),
        ("time", f"about {total:.0f} s"),
        ("memory", f"at most {quantity(most, 'bytes')}"),
    ]
    return sections(("", table_of(headers, cells)), ("", facts_table(facts)))


def validation_report(levels: Sequence["ValidationLevel"]) -> "Table":
    """Predicted beside measured, load by load."""
    headers = ["load", "rate", "number", "predicted", "measured", "error"]
    rows = []
    for level in levels:
        for index, row in enumerate(level.compared):
            error = row.error_frac
            is_first = index == 0
            rate = f"{level.rate_rps:.3g} requests/s x {level.num_requests}"
            rows.append(
                [
                    f"{level.load_frac:.0%}" if is_first else "",
                    rate if is_first else "",
                    row.name,
                    quantity(row.predicted, row.unit),
                    quantity(row.measured, row.unit),
                    "-" if error is None else f"{error:+.1%}",
                ]
            )
    return table_of(headers, rows, numeric=("predicted", "measured", "error"))


def _versions(profile: "Profile") -> str:
    where = profile.environment
    named = (("driver", where.driver), ("CUDA", where.cuda), ("torch", where.torch))
    return ", ".join(f"{name} {text}" for name, text in named if text) or "-"


def _error(error: object) -> str:
    median, p90 = getattr(error, "median_frac", 0.0), getattr(error, "p90_frac", 0.0)
    method, num = getattr(error, "method", ""), getattr(error, "num_points", 0)
    return f"{median:.1%} median, {p90:.1%} p90 ({num} {method})"
