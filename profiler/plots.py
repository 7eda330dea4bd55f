"""Plots of a campaign, where matplotlib is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.profile_records import Role, StepRecord
from models.profile_table import read_profile_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME = "plots.png"
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
    figure: Any = Figure(figsize=(14, 10))
    axes = figure.subplots(2, 2)
    plot_times([r for r in fitted if r.point.phase == "prefill"], ax=axes[0][0])
    plot_times([r for r in fitted if r.point.phase == "decode"], ax=axes[0][1])
    plot_rates([r for r in fitted if r.point.phase == "prefill"], ax=axes[1][0])
    plot_shares([r for r in steps if r.point.phase != "mixed"], ax=axes[1][1])
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
    for label, xs, ys in _curves([r for r in records if len(r.point.new_tokens) == 1]):
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


def _finish(ax: "Axes", xlabel: str, ylabel: str) -> None:
    ax.set_xscale("log")
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
