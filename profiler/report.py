"""Report of a campaign's folder: ceilings, shares, fits, repeatability, validation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clusters.fields import InputError
from models.latency.measured import single_gpu_table
from models.latency.profile import Profile
from models.latency.step_table import StepTable
from models.profile_records import RateRecord, Role, Status, StepRecord
from models.profile_table import ProfileTable, read_profile_table

_SHARES = (
    ("layer_products", "matmul"),
    ("layer_weights", "copy"),
    ("decode_attention", "copy"),
)
"""Rates of kernels, and the ceiling each is held against."""
_SARATHI_BATCHES = (1, 2, 18)
_SARATHI_TOKENS = 1024


def campaign_report(folder: Path) -> str:
    """Markdown over whatever a campaign left in its folder."""
    table = read_profile_table(folder / "records.jsonl")
    parts = ["# Campaign", _environment(table), _rates(table.rates)]
    if (folder / "profile.json").exists():
        profile = Profile.load(folder / "profile.json")
        parts += [_fits(profile), _facts(profile)]
    if (folder / "repeat.jsonl").exists():
        parts.append(_repeat(table, read_profile_table(folder / "repeat.jsonl")))
    if (folder / "validation.json").exists():
        text = (folder / "validation.json").read_text(encoding="utf-8")
        parts.append(_validation(json.loads(text)["levels"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def repeatability(first: ProfileTable, second: ProfileTable) -> tuple[float, int]:
    """Median relative difference of points measured in both tables, and their number.

    Raises
    ------
    InputError
        When no point is in both.
    """
    times = {r.key: r.step.ms for r in first.steps if r.step is not None}
    differences = [
        abs(r.step.ms / times[r.key] - 1.0)
        for r in second.steps
        if r.step is not None and r.key in times
    ]
    if not differences:
        raise InputError("records", "no point in common", "two runs of one grid")
    return float(np.median(differences)), len(differences)


def _environment(table: ProfileTable) -> str:
    where = table.environment()
    steps = table.steps
    counts = {str(s): sum(r.status is s for r in steps) for s in Status}
    backends = sorted({r.backend for r in steps if r.backend})
    return "\n".join(
        [
            f"- device: {where.device_name} ({where.gpu}), driver {where.driver}, "
            f"CUDA {where.cuda}, torch {where.torch}",
            f"- points: {len(steps)}: "
            + ", ".join(f"{n} {name}" for name, n in counts.items() if n),
            *(f"- kernels: {backend}" for backend in backends),
            *(f"- unreadable: {problem}" for problem in table.problems),
        ]
    )


def _rates(rates: Sequence[RateRecord]) -> str:
    latest = {r.name: r for r in rates}
    rows = [[r.name, f"{r.per_s:.4g} {r.rate_unit}", r.size] for r in latest.values()]
    text = "## Ceilings and kernels\n\n" + _table(["rate", "measured", "of"], rows)
    shares = []
    for name, ceiling in _SHARES:
        found = latest.get(name)
        against = next((r for n, r in latest.items() if n.startswith(ceiling)), None)
        if found is not None and against is not None:
            share = found.per_s / against.per_s
            shares.append(f"- {name}: {share:.0%} of {against.name}")
    return "\n\n".join([text, "\n".join(shares)])


def _fits(profile: Profile) -> str:
    rows = []
    for model in profile.models:
        for part in model.parts:
            rows.append(
                [
                    f"{model.llm.name} TP{model.tp} {model.dtype}",
                    part.part,
                    *(
                        f"{e.median_frac:.1%} / {e.p90_frac:.1%} ({e.num_points})"
                        for e in (part.prefill_error, part.decode_error)
                    ),
                ]
            )
        rows += [
            [model.llm.name, f"not fitted: {why}", "", ""] for why in model.unfitted
        ]
    errors = [
        error.median_frac
        for model in profile.models
        for part in model.parts
        for error in (part.prefill_error, part.decode_error)
    ]
    headers = ["model", "part", "prefill median / p90", "decode median / p90"]
    overall = f"Median of the medians: {np.median(errors):.1%}."
    return f"## Held-out errors\n\n{_table(headers, rows)}\n\n{overall}"


def _facts(profile: Profile) -> str:
    """Saturation of prefill, and the price of decoding (after SARATHI)."""
    rows = []
    for model in profile.models:
        if model.tp != 1:
            continue
        try:
            table = single_gpu_table(profile, model.llm)
        except InputError:  # a part of it was not measured
            continue
        prefill = table.prefill_step_ms([_SARATHI_TOKENS]) / _SARATHI_TOKENS
        ratios = [
            table.decode_step_ms(b, b * _SARATHI_TOKENS) / b / prefill
            for b in _SARATHI_BATCHES
        ]
        rows.append(
            [
                model.llm.name,
                f"{saturation_tokens(table)}",
                " / ".join(f"{ratio:.0f}x" for ratio in ratios),
                "-"
                if model.mixed_to_sum_frac is None
                else f"{model.mixed_to_sum_frac:.2f}",
            ]
        )
    headers = [
        "model",
        "prefill saturates at (tokens)",
        "decode/prefill per token at batch 1 / 2 / 18",
        "mixed step over the sum",
    ]
    return "## Phases\n\n" + _table(headers, rows) if rows else ""


def saturation_tokens(table: StepTable, *, share: float = 0.9) -> int:
    """Shortest prompt (a power of two) at `share` of the best tokens a second."""
    sizes = [2**k for k in range(5, 14) if 2**k <= table.prefill_tokens[-1]]
    rates = [size / table.prefill_step_ms([size]) for size in sizes]
    best = max(rates)
    return next(
        size for size, rate in zip(sizes, rates, strict=True) if rate >= share * best
    )


def _repeat(first: ProfileTable, second: ProfileTable) -> str:
    try:
        median, num = repeatability(first, second)
    except InputError as error:
        return f"## Repeatability\n\n{error}"
    return f"## Repeatability\n\nMedian difference {median:.2%} over {num} points."


def _validation(levels: Sequence[dict[str, Any]]) -> str:
    rows = []
    for level in levels:
        for row in level["compared"]:
            pair = [row["predicted"], row["measured"]]
            error = f"{pair[0] / pair[1] - 1.0:+.1%}" if all(pair) else "-"
            rows.append(
                [
                    f"{level['load_frac']:.0%} ({level['rate_rps']:.3g}/s)",
                    row["name"],
                    *(f"{v:.4g} {row['unit']}" if v else "-" for v in pair),
                    error,
                ]
            )
    headers = ["load", "number", "predicted", "measured", "error"]
    return "## Predicted and measured\n\n" + _table(headers, rows)


def write_plots(folder: Path) -> list[str]:
    """Plots of the measured steps, where matplotlib is installed; their names."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return []
    steps = [
        r
        for r in read_profile_table(folder / "records.jsonl").steps
        if r.step is not None and r.role is not Role.PROBE
    ]
    names = []
    for phase in ("prefill", "decode"):
        figure = Figure(figsize=(8, 5))
        axes = figure.add_subplot()
        for label, xs, ys in _curves([r for r in steps if r.point.phase == phase]):
            axes.plot(xs, ys, "o", markersize=3, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("prompt tokens" if phase == "prefill" else "requests")
        axes.set_ylabel("ms a layer")
        axes.legend(fontsize=6)
        figure.savefig(folder / f"{phase}.png", dpi=110)
        names.append(f"{phase}.png")
    return names


def _curves(
    records: Sequence[StepRecord],
) -> list[tuple[str, list[float], list[float]]]:
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        label = f"{record.llm.name} TP{record.tp} {record.part}"
        xs, ys = groups.setdefault(label, ([], []))
        point = record.point
        xs.append(float(point.prompt_tokens or point.num_decodes))
        assert record.step is not None
        ys.append(record.step.ms)
    return [(label, xs, ys) for label, (xs, ys) in groups.items()]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
