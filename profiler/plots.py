"""Plots of a campaign, where matplotlib is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clusters.fields import InputError
from models.latency.measured import single_gpu_table
from models.latency.profile import Profile
from models.latency.profile_mixed import fitted_ms, mixed_laws
from models.profile_records import Role, StepRecord
from models.profile_table import read_profile_table
from profiler.facts import (
    BATCHES,
    chunk_efficiency,
    decode_to_prefill,
    tile_edges,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME = "plots.png"
_PROMPT = 4096
"""Tokens of the prompt that is cut into chunks."""
Curve = tuple[str, list[float], list[float]]


def write_plots(folder: Path) -> list[str]:
    """One picture of the measured steps in `folder`; its name, or none."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return []
    table = read_profile_table(folder / "records.jsonl")
    steps = [r for r in table.steps if r.step is not None]
    fitted = [r for r in steps if r.role is not Role.PROBE]
    figure: Any = Figure(figsize=(26, 10))
    axes = figure.subplots(2, 4)
    plot_times([r for r in fitted if r.point.phase == "prefill"], ax=axes[0][0])
    plot_times([r for r in fitted if r.point.phase == "decode"], ax=axes[0][1])
    plot_rates([r for r in fitted if r.point.phase == "prefill"], ax=axes[1][0])
    plot_shares([r for r in steps if r.point.phase != "mixed"], ax=axes[1][1])
    if (folder / "profile.json").exists():
        profile = Profile.load(folder / "profile.json")
        plot_chunks(profile, ax=axes[0][2])
        plot_mixed(steps, profile, ax=axes[1][2])
        plot_decode_cost(profile, ax=axes[0][3])
    plot_tile_edges(steps, ax=axes[1][3])
    figure.tight_layout()
    figure.savefig(folder / _NAME, dpi=100)
    return [_NAME]


def plot_times(records: Sequence[StepRecord], *, ax: "Axes") -> "Axes":
    """Time of a layer by prompt tokens, or by requests."""
    is_prefill = any(record.point.new_tokens for record in records)
    for label, xs, ys in _curves(records):
        ax.plot(xs, ys, "o", markersize=3, label=label)
    _finish(ax, "prompt tokens" if is_prefill else "requests", "ms a layer")
    return ax


def plot_rates(records: Sequence[StepRecord], *, ax: "Axes") -> "Axes":
    """Prompt tokens a second of a layer by prompt tokens: where it saturates."""
    alone = [
        r
        for r in records
        if len(r.point.new_tokens) == 1 and not any(r.point.past_tokens)
    ]
    for label, xs, ys in _curves(alone):
        pairs = sorted((x, x / y) for x, y in zip(xs, ys, strict=True))
        ax.plot([x for x, _ in pairs], [y for _, y in pairs], ".-", label=label)
    _finish(ax, "prompt tokens", "tokens a ms, one layer")
    return ax


def plot_shares(records: Sequence[StepRecord], *, ax: "Axes") -> "Axes":
    """Slowdown of each point by its share of the SMs."""
    whole = {r.key: r for r in records if r.sm_share_frac == 1.0}
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        base = whole.get(record.key_on(1.0))
        if record.sm_share_frac == 1.0 or base is None:
            continue
        assert record.step is not None
        assert base.step is not None
        pair = (record.sm_share_frac, record.step.ms / base.step.ms)
        curves.setdefault(record.point.describe(), []).append(pair)
    for label, pairs in curves.items():
        xs, ys = zip(*sorted([*pairs, (1.0, 1.0)]), strict=True)
        ax.plot(xs, ys, ".-", label=label)
    ax.set_xlabel("share of the SMs")
    ax.set_ylabel("slowdown")
    if curves:
        ax.legend(fontsize=6)
    return ax


def plot_chunks(profile: Profile, *, ax: "Axes") -> "Axes":
    """Speed of a prompt in chunks over its speed in one piece, by chunk size."""
    for model in profile.models:
        try:
            table = single_gpu_table(profile, model.llm)
        except InputError:  # not on one GPU, or a part of it was not measured
            continue
        if model.tp == 1:
            longest = int(table.prefill_tokens[-1])
            found = chunk_efficiency(table, min(_PROMPT, longest))
            ax.plot(list(found), list(found.values()), ".-", label=model.llm.name)
    ax.set_ylim(0.0, 1.05)
    _finish(ax, "tokens of a chunk", "speed of the prompt in chunks", log="x")
    return ax


def plot_decode_cost(profile: Profile, *, ax: "Axes") -> "Axes":
    """Cost of a decoded token over that of a prefilled one, by batch (SARATHI)."""
    for model in profile.models:
        try:
            table = single_gpu_table(profile, model.llm)
        except InputError:
            continue
        batches = sorted({*BATCHES, *(int(b) for b in table.decode_batch if b >= 1)})
        ratios = decode_to_prefill(table, batches)
        ax.plot(batches, ratios, ".-", label=model.llm.name)
    for batch in BATCHES:
        ax.axvline(batch, color="grey", linewidth=0.5)
    _finish(ax, "requests of a decode step", "decoded over prefilled token")
    return ax


def plot_tile_edges(records: Sequence[StepRecord], *, ax: "Axes") -> "Axes":
    """What one token beyond a tile edge costs a layer, by the tokens at the edge."""
    groups: dict[str, list[StepRecord]] = {}
    for record in records:
        name = f"{record.llm.name} TP{record.tp} {record.part}"
        groups.setdefault(name, []).append(record)
    for name, own in groups.items():
        edges = tile_edges(own)
        if edges:
            xs = [edge.tokens for edge in edges]
            ax.plot(xs, [edge.extra_frac for edge in edges], ".-", label=name)
    ax.axhline(0.0, color="grey", linewidth=0.5)
    _finish(ax, "tokens at the edge", "extra time of one token more", log="x")
    return ax


def plot_mixed(
    records: Sequence[StepRecord], profile: Profile, *, ax: "Axes"
) -> "Axes":
    """Each law of mixed steps over what was measured, by what was measured."""
    found, fits = [], []
    for model in profile.models:
        mine = [r for r in records if (r.llm, r.tp) == (model.llm, model.tp)]
        for part in model.parts:
            own = [r for r in mine if r.part == part.part and r.sm_share_frac == 1.0]
            found.append(mixed_laws(own, part.table))
            if found[-1] is not None and part.mixed is not None:
                fits.append((found[-1], part.table, part.mixed))
    laws = [each for each in found if each is not None]
    for name in ("shared", "sum", "max") if laws else ():
        measured = np.concatenate([each.measured_ms for each in laws])
        law = np.concatenate([getattr(each, f"{name}_ms") for each in laws])
        ax.plot(measured, law / measured, "o", markersize=3, label=name)
    for index, (each, table, fit) in enumerate(fits):
        law = np.array([fitted_ms(point, table, fit) for point in each.points])
        label = "fitted" if index == 0 else None
        ax.plot(each.measured_ms, law / each.measured_ms, "kx", label=label)
    ax.axhline(1.0, color="grey", linewidth=0.5)
    _finish(ax, "measured ms of a mixed step", "law over measured", log="x")
    return ax


def _finish(ax: "Axes", xlabel: str, ylabel: str, *, log: str = "xy") -> None:
    if "x" in log:
        ax.set_xscale("log")
    if "y" in log:
        ax.set_yscale("log")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=5)


def _curves(records: Sequence[StepRecord]) -> list[Curve]:
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        label = f"{record.llm.name} TP{record.tp} {record.part}"
        xs, ys = groups.setdefault(label, ([], []))
        xs.append(float(record.point.prompt_tokens or record.point.num_decodes))
        assert record.step is not None
        ys.append(record.step.ms)
    return [(label, xs, ys) for label, (xs, ys) in groups.items()]
