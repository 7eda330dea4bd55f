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
    shown = (
        ("Mixed steps: error of each law (measured over law)", _mixed_rows(profile)),
        ("Slowdown by share of the SMs", _share_rows(profile)),
    )
    parts += [
        (title, table_of(names, found)) for title, (names, found) in shown if found
    ]
    odd = [
        (f"{m.llm.name} TP{m.tp}", words)
        for m in profile.models
        for words in m.stand_ins
    ]
    if odd:
        parts.append(("Formats measured in place of the model's", facts_table(odd)))
    if left:
        parts.append(("Points without a number", facts_table(left)))
    return sections(*parts)


def _mixed_rows(profile: "Profile") -> tuple[list[str], list[list[str]]]:
    """Laws of mixed steps, part by part."""
    headers = ["model", "part", "shared linears", "sum", "max", "fitted", "points"]
    headers += ["simulated"]
    rows = [
        [
            f"{model.llm.name} TP{model.tp} {model.dtype}",
            part.part,
            *(
                f"{law.median_frac:.1%} ({law.measured_to_law:.2f})"
                if law is not None
                else "-"
                for law in part.mixed.laws
            ),
            str(part.mixed.num_points),
            "fitted" if part.mixed.is_simulated else "shared linears",
        ]
        for model in profile.models
        for part in model.parts
        if part.mixed is not None
    ]
    return headers, rows


def _share_rows(profile: "Profile") -> tuple[list[str], list[list[str]]]:
    """Slowdowns, share by share: of prompts, and of decodes by batch."""
    kinds = dict.fromkeys(
        (s.phase, s.num_requests) for model in profile.models for s in model.sm_shares
    )
    headers = ["model", "share"]
    headers += [p if p == "prefill" else f"decode of {n}" for p, n in kinds]
    rows = []
    for model in profile.models:
        found = {(s.sm_share_frac, s.phase, s.num_requests): s for s in model.sm_shares}
        for share in dict.fromkeys(s.sm_share_frac for s in model.sm_shares):
            cells = []
            for kind in kinds:
                s = found.get((share, *kind))
                is_range = s is not None and s.num_points > 1
                spread = f" ({s.least:.2f} to {s.most:.2f})" if s and is_range else ""
                cells.append(f"{s.slowdown:.2f}{spread}" if s else "-")
            name = f"{model.llm.name} TP{model.tp} {model.dtype}"
            rows.append([name, f"{share:.0%}", *cells])
    return headers, rows


def summary_line(summary: "CampaignSummary") -> str:
    """A campaign in one line."""
    statuses = ", ".join(f"{n} {name}" for name, n in summary.statuses.items())
    return (
        f"{summary.num_grid} points: {summary.num_measured} measured now, "
        f"{summary.num_resumed} before, {summary.num_over_budget} over budget; "
        f"{summary.num_refined} added where the fit missed ({statuses}); "
        f"{summary.runtime_s:.0f} s"
    )


def points_table(
    rows: Sequence["PointEstimate"], *, gpu: str | None, budget_s: float
) -> "Group":
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
    facts = facts_table(_totals(rows, gpu, budget_s))
    return sections(("", table_of(headers, cells)), ("", facts))


def subjects_table(
    rows: Sequence["PointEstimate"], *, gpu: str | None, budget_s: float
) -> "Group":
    """Subjects of a dry run, and what they come to."""
    groups: dict[str, list[PointEstimate]] = {}
    for row in rows:
        groups.setdefault(row.subject, []).append(row)
    cells = [
        [
            subject,
            str(len(own)),
            quantity(max(row.memory_bytes for row in own), "bytes"),
            f"{sum(row.seconds for row in own):.1f} s",
        ]
        for subject, own in groups.items()
    ]
    headers = ["subject", "points", "bytes", "time"]
    facts = facts_table(_totals(rows, gpu, budget_s))
    return sections(("", table_of(headers, cells)), ("", facts))


def _totals(
    rows: Sequence["PointEstimate"], gpu: str | None, budget_s: float
) -> list[tuple[str, str]]:
    total = sum(row.seconds for row in rows)
    most = max((row.memory_bytes for row in rows), default=0.0)
    return [
        ("points", str(len(rows))),
        ("time", f"about {total:.0f} s; the budget is {budget_s:.0f} s"),
        ("memory", f"at most {quantity(most, 'bytes')}"),
        ("estimated for", gpu or "a slow processor (--gpu names a GPU type)"),
    ]


def validation_report(levels: Sequence["ValidationLevel"]) -> "Table":
    """Predicted beside measured, load by load."""
    headers = ["policy", "load", "rate", "number", "predicted", "measured", "error"]
    rows = []
    for level in levels:
        for index, row in enumerate(level.compared):
            error = row.error_frac
            is_first = index == 0
            rate = f"{level.rate_rps:.3g} requests/s x {level.num_requests}"
            rows.append(
                [
                    level.policy if is_first else "",
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
