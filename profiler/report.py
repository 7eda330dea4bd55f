"""Report of a campaign's folder: ceilings, kernels, fits, facts, shares, validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clusters.fields import InputError
from clusters.mapping import from_mapping
from clusters.serde import read_mapping
from models.latency.measured import single_gpu_table
from models.latency.profile import Profile, ProfiledModel
from models.profile_records import RateRecord, Status, StepPoint, StepRecord
from models.profile_table import ProfileTable, read_profile_table
from profiler.facts import (
    BATCHES,
    chunk_efficiency,
    decode_to_prefill,
    saturation_tokens,
    tile_edges,
)
from profiler.markdown import markdown_table
from profiler.shipped import compare_shipped
from profiler.shipped_report import shipped_section

_SHARES = (
    ("layer_products", "matmul"),
    ("layer_weights", "copy"),
    ("decode_attention", "copy"),
)
"""Rates of kernels, and the ceiling each is held against."""
_PROMPT = 4096


def campaign_report(folder: Path, summary: Mapping[str, Any]) -> str:
    """Markdown over whatever a campaign left in its folder."""
    table = read_profile_table(folder / "records.jsonl")
    parts = ["# Campaign", _environment(table), _features(summary), _rates(table.rates)]
    if (folder / "profile.json").exists():
        profile = Profile.load(folder / "profile.json")
        parts += [_fits(profile), _facts(profile), _tiles(table), _mixed(profile)]
        parts.append(shipped_section(compare_shipped(table, profile)))
        parts.append(_sm_shares(profile, summary))
    if (folder / "repeat.jsonl").exists():
        parts.append(_repeat(table, read_profile_table(folder / "repeat.jsonl")))
    if (folder / "validation.json").exists():
        found = read_mapping(folder / "validation.json")
        parts += [_calibration(found), _validation(found["levels"])]
        parts.append(_steps(found.get("steps", ())))
    parts.append(_stages(summary))
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
    notes = sorted({r.note for r in steps if r.status is Status.NOT_MEASURED})
    backends = sorted({r.backend for r in steps if r.backend})
    return "\n".join(
        [
            f"- device: {where.device_name} ({where.gpu}), "
            f"driver {where.driver or '-'}, CUDA {where.cuda or '-'}, "
            f"torch {where.torch}",
            *_conditions(steps),
            f"- points: {len(steps)}: "
            + ", ".join(f"{n} {name}" for name, n in counts.items() if n),
            *(f"- kernels: {backend}" for backend in backends),
            *(f"- **measured with {words}**" for words in _stand_ins(steps)),
            *(f"- not measured: {note}" for note in notes),
            *(f"- unreadable: {problem}" for problem in table.problems),
        ]
    )


def _conditions(steps: Sequence[StepRecord]) -> list[str]:
    """Clocks, power and temperature of all points, least and most."""
    kinds = (
        ("SM clock", "sm_clock_mhz", "MHz"),
        ("memory clock", "memory_clock_mhz", "MHz"),
        ("power", "power_w", "W"),
        ("temperature", "temperature_c", "C"),
    )
    found = []
    for name, key, unit in kinds:
        values = [getattr(r.conditions, key) for r in steps if r.step is not None]
        read = [value for value in values if value is not None]
        if read:
            found.append(f"{name} {min(read):.0f} to {max(read):.0f} {unit}")
    told = "; ".join(found) or "clocks, power and temperature cannot be read"
    return [f"- while measuring: {told}"]


def _stand_ins(steps: Sequence[StepRecord]) -> list[str]:
    notes = {(r.note, r.llm.name) for r in steps if r.step is not None and r.note}
    return [f"{note}: {llm}" for note, llm in sorted(notes)]


def _features(summary: Mapping[str, Any]) -> str:
    features = summary.get("features", {})
    lines = [f"- {name}: {found}" for name, found in features.items()]
    lines += [f"- {line}" for line in summary.get("rates_missing", [])]
    if "other_users" in summary:
        lines.append(f"- **{summary['other_users']}**")
    return "## Features\n\n" + "\n".join(lines) if lines else ""


def _rates(rates: Sequence[RateRecord]) -> str:
    latest = {r.name: r for r in rates}
    rows = [[r.name, f"{r.per_s:.4g} {r.rate_unit}", r.size] for r in latest.values()]
    text = "## Ceilings and kernels\n\n" + markdown_table(
        ["rate", "measured", "of"], rows
    )
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
        rows += [
            [
                _name(model),
                part.part,
                *(
                    f"{e.median_frac:.1%} / {e.p90_frac:.1%} ({e.num_points})"
                    for e in (part.prefill_error, part.decode_error)
                ),
            ]
            for part in model.parts
        ]
        rows += [[_name(model), f"not fitted: {why}", "", ""] for why in model.unfitted]
    errors = [
        error
        for model in profile.models
        for part in model.parts
        for error in (part.prefill_error, part.decode_error)
    ]
    headers = ["model", "part", "prefill median / p90", "decode median / p90"]
    medians = np.median([error.median_frac for error in errors])
    p90s = np.median([error.p90_frac for error in errors])
    overall = f"Median over all: {medians:.1%} median, {p90s:.1%} p90."
    return f"## Held-out errors\n\n{markdown_table(headers, rows)}\n\n{overall}"


def _facts(profile: Profile) -> str:
    """Saturation of prefill, the price of decoding and of chunks (after SARATHI)."""
    rows = []
    for model in profile.models:
        if model.tp != 1:
            continue
        try:
            table = single_gpu_table(profile, model.llm)
        except InputError:  # a part of it was not measured
            continue
        chunks = chunk_efficiency(table, min(_PROMPT, int(table.prefill_tokens[-1])))
        rows.append(
            [
                _name(model),
                f"{saturation_tokens(table)}",
                " / ".join(f"{ratio:.0f}x" for ratio in decode_to_prefill(table)),
                ", ".join(f"{n}: {share:.0%}" for n, share in chunks.items()),
            ]
        )
    batches = " / ".join(map(str, BATCHES))
    headers = [
        "model",
        "prefill saturates at (tokens)",
        f"decode/prefill per token at batch {batches}",
        "speed in chunks of",
    ]
    return "## Phases\n\n" + markdown_table(headers, rows) if rows else ""


def _tiles(table: ProfileTable) -> str:
    groups: dict[str, list[Any]] = {}
    for record in table.steps:
        name = f"{record.llm.name} TP{record.tp} {record.part} {record.dtype}"
        groups.setdefault(name, []).append(record)
    rows = []
    for name, records in groups.items():
        edges = tile_edges(records)
        if edges:
            told = ", ".join(f"{e.tokens}: {e.extra_frac:+.0%}" for e in edges)
            rows.append([name, told])
    if not rows:
        return ""
    return "## Tile edges\n\n" + markdown_table(["layer", "one token more than"], rows)


def _mixed(profile: Profile) -> str:
    rows = [
        [
            f"{_name(model)} {part.part}",
            *(
                f"{law.median_frac:.1%} / {law.p90_frac:.1%} "
                f"({law.measured_to_law:.2f})"
                if law is not None
                else "-"
                for law in part.mixed.laws
            ),
            f"{part.mixed.chunk_attention_factor:.2f}, "
            f"{part.mixed.decode_attention_factor:.2f}, "
            f"{part.mixed.unshared_linear_frac:.2f}",
            f"{part.mixed.num_points}",
            "fitted" if part.mixed.is_simulated else "shared linears",
        ]
        for model in profile.models
        for part in model.parts
        if part.mixed is not None
    ]
    headers = [
        "layer",
        "shared linears: median / p90 error (measured over law)",
        "sum",
        "max",
        "fitted, at steps left out",
        "its factors on chunk and decode attention, and unshared linears",
        "steps",
        "simulated",
    ]
    return "## Mixed steps\n\n" + markdown_table(headers, rows) if rows else ""


def _sm_shares(profile: Profile, summary: Mapping[str, Any]) -> str:
    rows = [
        [
            _name(model),
            f"{each.sm_share_frac:.1%}",
            f"{each.phase} of {each.num_requests}",
            f"{each.slowdown:.2f} ({each.least:.2f} to {each.most:.2f})",
            f"{each.num_points}",
        ]
        for model in profile.models
        for each in model.sm_shares
    ]
    how = str(summary.get("sm_shares", ""))
    if not rows and not how:
        return ""
    headers = ["model", "share of the SMs", "steps", "slowdown", "points"]
    return "\n\n".join(
        ["## SM shares", how, *([markdown_table(headers, rows)] if rows else [])]
    )


def _repeat(first: ProfileTable, second: ProfileTable) -> str:
    try:
        median, num = repeatability(first, second)
    except InputError as error:
        return f"## Repeatability\n\n{error}"
    return f"## Repeatability\n\nMedian difference {median:.2%} over {num} points."


def _calibration(found: Mapping[str, Any]) -> str:
    calibration = found.get("calibration")
    if not calibration:
        return ""
    rows = [
        [
            _point(entry["point"]),
            f"{entry['measured_ms']:.3f} ms",
            f"{entry['layers_ms']:.3f} ms",
            f"{entry['measured_ms'] / entry['layers_ms'] - 1.0:+.1%}",
        ]
        for entry in calibration["points"]
    ]
    facts = [
        f"- engine: {found.get('engine')}",
        f"- added to steps with prompts: {calibration['prefill_ms']:.3f} ms, "
        f"at least {calibration['floor_ms']:.3f} ms",
        f"- added to steps of decodes: {calibration['decode_ms']:.3f} ms",
    ]
    if found.get("no_graphs"):
        facts.append(f"- decodes are not captured: {found['no_graphs']}")
    headers = ["step", "engine", "its layers", "difference"]
    text = "\n".join(facts)
    return f"## Engine and layers\n\n{text}\n\n{markdown_table(headers, rows)}"


def _validation(levels: Sequence[dict[str, Any]]) -> str:
    rows = []
    for level in levels:
        for row in level["compared"]:
            pair = [row["predicted"], row["measured"]]
            error = f"{pair[0] / pair[1] - 1.0:+.1%}" if all(pair) else "-"
            rows.append(
                [
                    level["policy"],
                    f"{level['load_frac']:.0%} ({level['rate_rps']:.3g}/s, "
                    f"{level['num_requests']} requests)",
                    row["name"],
                    *(f"{v:.4g} {row['unit']}" if v else "-" for v in pair),
                    error,
                ]
            )
    headers = ["policy", "load", "number", "predicted", "measured", "error"]
    return "## Predicted and measured\n\n" + markdown_table(headers, rows)


def _steps(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            entry["policy"],
            f"{entry['load_frac']:.0%}",
            entry["kind"],
            f"{entry['num_steps']}",
            f"{entry['ratio']:.3f}",
            f"{entry['total_ratio']:.3f}",
            f"{entry['p90_frac']:.1%}",
        ]
        for entry in entries
    ]
    headers = [
        *("policy", "load", "steps", "number", "predicted over measured, median"),
        *("all time", "p90 error"),
    ]
    return "## Steps of the engine\n\n" + markdown_table(headers, rows) if rows else ""


def _stages(summary: Mapping[str, Any]) -> str:
    times = {
        key.removesuffix("_s"): value
        for key, value in summary.items()
        if key.endswith("_s") and isinstance(value, int | float)
    }
    failed = {
        key.removesuffix("_failed"): str(value).strip().splitlines()[-1]
        for key, value in summary.items()
        if key.endswith("_failed")
    }
    skipped = {
        key.removesuffix("_skipped"): value
        for key, value in summary.items()
        if key.endswith("_skipped")
    }
    lines = [f"- {name}: {seconds} s" for name, seconds in times.items()]
    lines += [f"- **{name} failed**: {why}" for name, why in failed.items()]
    lines += [f"- {name} skipped: {why}" for name, why in skipped.items()]
    return "## Stages\n\n" + "\n".join(lines) if lines else ""


def _point(point: Mapping[str, Any]) -> str:
    return from_mapping(StepPoint, point).describe()


def _name(model: ProfiledModel) -> str:
    return f"{model.llm.name} TP{model.tp} {model.dtype}"
