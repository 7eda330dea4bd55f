"""Errors of predicted serving runs: summary, slices, worst rows; data and tables."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from silicon_fit import KINDS, SAME_SHAPE
from silicon_predict import Prediction
from silicon_rows import Row

SLICE = ("mode", "engine", "model", "system", "weights", "harness")
PAIR = ("engine", "model", "system", "harness")
WORST_ROWS = 25
SHOWN_BIAS = ("ttft_bias", "tpot_bias")
_VALIDATED = {"compared": "the public harness", "other_harness": "other harnesses"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A row with what was predicted for it, or the reason why nothing was.

    `left_out` has predictions without its pair, model and GPU generation, by that kind.
    """

    row: Row
    predicted: Prediction | None = None
    left_out: Mapping[str, Prediction] = field(default_factory=dict)
    reason: str = ""

    @property
    def slice(self) -> tuple[str, ...]:
        """Where it is reported."""
        row = self.row
        harness = "public" if row.is_public else "other"
        weights = row.gemm_quant or row.moe_quant or "plain"
        return row.mode, row.engine, row.model, row.system, weights, harness


def report_of(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Summary, slices, worst rows and what was not covered."""
    covered = [o for o in outcomes if o.predicted is not None]
    slices: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for outcome in covered:
        slices[outcome.slice].append(outcome)
    return {
        "summary": summary_of(outcomes),
        "not_covered": dict(
            Counter(
                f"{o.row.mode}: {o.reason}" for o in outcomes if o.predicted is None
            ).most_common()
        ),
        "engines": [
            {"engine": engine, "mode": mode, **errors_of(group)}
            for (engine, mode), group in sorted(_by_engine(covered).items())
        ],
        "left_out": [
            {**dict(zip(PAIR, key, strict=True)), **errors_of(group, left_out="pair")}
            for key, group in sorted(_by_pair(covered).items())
        ],
        "slices": [
            {**dict(zip(SLICE, key, strict=True)), **errors_of(group)}
            for key, group in sorted(slices.items())
        ],
        "worst": [
            _row_entry(outcome)
            for outcome in sorted(covered, key=_log_error, reverse=True)[:WORST_ROWS]
        ],
    }


def _by_engine(
    outcomes: Sequence[Outcome],
) -> dict[tuple[str, str], list[Outcome]]:
    """Compared rows by engine and mode."""
    found: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.row.is_compared:
            found[outcome.row.engine, outcome.row.mode].append(outcome)
    return found


def _by_pair(outcomes: Sequence[Outcome]) -> dict[tuple[str, ...], list[Outcome]]:
    """Rows that were left out, by engine and what was left out with them."""
    found: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if "pair" in outcome.left_out:
            row = outcome.row
            model = SAME_SHAPE.get(row.model, row.model)
            harness = "public" if row.is_public else "other"
            found[row.engine, model, row.system, harness].append(outcome)
    return found


def summary_of(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Errors of the three groups of rows, the same left out, and the coverage."""
    covered = [o for o in outcomes if o.predicted is not None]
    parts = {
        "all": covered,
        "compared": [o for o in covered if o.row.is_compared],
        "other_harness": [o for o in covered if not o.row.is_public],
    }
    validated = {
        kind: {
            name: errors_of([o for o in part if kind in o.left_out], left_out=kind)
            for name, part in parts.items()
        }
        for kind in KINDS
    }
    aggregated = [o for o in outcomes if o.row.mode == "agg"]
    complete = [o for o in outcomes if o.row.mode != "agg" and not o.row.problem]
    return {
        **{name: errors_of(part) for name, part in parts.items()},
        "other_tool": errors_of(
            [_of_other_tool(o) for o in covered if o.row.is_compared]
        ),
        "cross_validated": validated["pair"],
        "cross_validated_by": validated,
        "coverage_frac": _covered_frac(aggregated),
        "coverage": {
            "aggregated_rows": len(aggregated),
            "aggregated_frac": _covered_frac(aggregated),
            "complete_disaggregated_rows": len(complete),
            "complete_disaggregated_frac": _covered_frac(complete),
        },
    }


def errors_of(
    outcomes: Sequence[Outcome], *, left_out: str = ""
) -> dict[str, float | int | None]:
    """Medians and means of the absolute relative errors, and signed medians.

    `left_out` is the kind of group that predictions were fitted without, if any.
    """
    found: dict[str, float | int | None] = {"rows": len(outcomes)}
    for metric in ("ttft", "tpot"):
        errors = np.asarray([_error(o, metric, left_out=left_out) for o in outcomes])
        size = np.abs(errors)
        figures = {
            "median_ape": np.median(size) if len(size) else None,
            "mape": size.mean() if len(size) else None,
            "bias": np.median(errors) if len(size) else None,
        }
        for name, value in figures.items():
            shown = None if value is None else _rounded(float(value))
            found[f"{metric}_{name}"] = shown
    return found


def markdown_of(report: Mapping[str, object]) -> str:
    """The report as tables."""
    summary, slices, worst = report["summary"], report["slices"], report["worst"]
    engines = report["engines"]
    assert isinstance(engines, list)
    assert isinstance(summary, dict)
    assert isinstance(slices, list)
    assert isinstance(worst, list)
    names = ("ttft_median_ape", "ttft_mape", "tpot_median_ape", "tpot_mape")
    lines = ["| rows of | rows | TTFT median | MAPE | TPOT median | MAPE |"]
    lines.append("|---" * 6 + "|")
    validated = summary["cross_validated_by"]
    shown = {
        "everything": summary["all"],
        "the public harness, with the other tool's": summary["compared"],
        "the other tool on the same": summary["other_tool"],
        "other harnesses": summary["other_harness"],
        **{
            f"{title}, {kind} left out": validated[kind][part]
            for part, title in _VALIDATED.items()
            for kind in KINDS
        },
    }
    for title, found in shown.items():
        cells = [str(found["rows"]), *(_percent(found[name]) for name in names)]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for entry in engines:
        cells = [str(entry["rows"]), *(_percent(entry[name]) for name in names)]
        title = f"the public harness, {entry['engine']}, {entry['mode']}"
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines.append("\nCovered: " + _coverage_text(summary["coverage"]))
    not_covered = report["not_covered"]
    assert isinstance(not_covered, dict)
    lines += [
        f"- {count} rows not covered, {why}" for why, count in not_covered.items()
    ]
    columns = ("rows", *names, *SHOWN_BIAS)
    left_out = report["left_out"]
    assert isinstance(left_out, list)
    lines += ["", "Predicted without its model and GPU:", ""]
    lines.append(_line((*PAIR, "rows", "TTFT", "MAPE", "TPOT", "MAPE", *SHOWN_BIAS)))
    lines.append("|---" * (len(PAIR) + len(columns)) + "|")
    for entry in left_out:
        cells = [str(entry[key]) for key in (*PAIR, "rows")]
        lines.append(_line([*cells, *(_percent(entry[key]) for key in columns[1:])]))
    lines += ["", "Predicted with the shipped constants:"]
    lines += ["", _line((*SLICE, "rows", "TTFT", "MAPE", "TPOT", "MAPE", *SHOWN_BIAS))]
    lines.append("|---" * (len(SLICE) + len(columns)) + "|")
    for entry in slices:
        cells = [str(entry[key]) for key in (*SLICE, "rows")]
        cells += [_percent(entry[key]) for key in columns[1:]]
        lines.append(_line(cells))
    if worst:
        lines += ["", "Worst rows:", "", _line(tuple(worst[0]))]
        lines.append("|---" * len(worst[0]) + "|")
        lines += [_line([str(cell) for cell in entry.values()]) for entry in worst]
    return "\n".join(lines) + "\n"


def _error(outcome: Outcome, metric: str, *, left_out: str) -> float:
    predicted = outcome.left_out[left_out] if left_out else outcome.predicted
    assert predicted is not None
    measured: float = getattr(outcome.row, f"{metric}_ms")
    found: float = getattr(predicted, f"{metric}_ms")
    return found / measured - 1.0


def _log_error(outcome: Outcome) -> float:
    return max(
        abs(float(np.log1p(_error(outcome, metric, left_out=""))))
        for metric in ("ttft", "tpot")
    )


def _of_other_tool(outcome: Outcome) -> Outcome:
    row = outcome.row
    assert row.other_ttft_ms is not None
    assert row.other_tpot_ms is not None
    theirs = Prediction(ttft_ms=row.other_ttft_ms, tpot_ms=row.other_tpot_ms)
    return Outcome(row=row, predicted=theirs)


def _row_entry(outcome: Outcome) -> dict[str, object]:
    row, predicted = outcome.row, outcome.predicted
    assert predicted is not None
    assert row.pools is not None
    return {
        "id": row.id,
        "version": row.version,
        "parallelism": " + ".join(str(pool.parallelism) for pool in row.pools),
        "concurrency": row.concurrency,
        "ttft_ms": round(row.ttft_ms, 1),
        "predicted_ttft_ms": round(predicted.ttft_ms, 1),
        "tpot_ms": round(row.tpot_ms, 2),
        "predicted_tpot_ms": round(predicted.tpot_ms, 2),
    }


def _covered_frac(outcomes: Sequence[Outcome]) -> float | None:
    if not outcomes:
        return None
    return _rounded(sum(o.predicted is not None for o in outcomes) / len(outcomes))


def _coverage_text(coverage: object) -> str:
    assert isinstance(coverage, dict)
    return (
        f"{_percent(coverage['aggregated_frac'])} of {coverage['aggregated_rows']} "
        f"aggregated rows, {_percent(coverage['complete_disaggregated_frac'])} of "
        f"{coverage['complete_disaggregated_rows']} disaggregated rows with a complete "
        "configuration.\n"
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(share: object) -> str:
    return "-" if share is None else f"{100.0 * float(str(share)):.1f} %"


def _rounded(value: float) -> float:
    return round(float(value), 5)
