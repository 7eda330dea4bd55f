"""Section of the report: measured steps beside the shipped latencies."""

from collections.abc import Sequence

from profiler.markdown import markdown_table
from profiler.shipped import ShippedComparison, ShippedDifference, ShippedStep

_TO_EXPLAIN_FRAC = 0.1
_MOST_ROWS = 60
_ABOUT = (
    "Whole models without host time, at every measured point: layers as measured, the "
    "rest (ends, all-reduces) as in the profile. Differences are predicted over "
    "measured; those of the shipped fits beyond 10 % are in bold."
)


def shipped_section(comparison: ShippedComparison) -> str:
    """Differences of all models, and the points of the first one side by side."""
    texts = ["## Beside the shipped latencies"]
    if comparison.steps:
        texts += [_ABOUT, _differences(comparison.differences())]
        first = comparison.steps[0].model
        mine = [step for step in comparison.steps if step.model == first]
        texts += [f"{first}, point by point:", _points(mine[:_MOST_ROWS])]
    if comparison.left_out:
        texts.append("\n".join(f"- not compared: {why}" for why in comparison.left_out))
    return "\n\n".join(texts)


def _differences(found: Sequence[ShippedDifference]) -> str:
    rows = [
        [
            each.model,
            each.kind,
            f"{each.num_points}",
            _marked(each.shipped_frac),
            "-" if each.within_frac is None else f"{each.within_frac:.0%}",
            f"{each.roofline_frac:+.1%}",
        ]
        for each in found
    ]
    headers = [
        *("model", "steps", "points", "shipped fits, median"),
        *("points within 10 %", "roofline, median"),
    ]
    return markdown_table(headers, rows)


def _points(steps: Sequence[ShippedStep]) -> str:
    rows = [
        [
            step.point.describe(),
            f"{step.measured_ms:.3f}",
            _beside(step.profile_ms, step.measured_ms),
            _beside(step.shipped_ms, step.measured_ms),
            _beside(step.roofline_ms, step.measured_ms),
        ]
        for step in steps
    ]
    headers = ["step", "measured ms", "our fit", "shipped fits", "roofline"]
    return markdown_table(headers, rows)


def _beside(predicted_ms: float | None, measured_ms: float) -> str:
    if predicted_ms is None:
        return "-"
    return f"{predicted_ms:.3f} ({predicted_ms / measured_ms - 1.0:+.1%})"


def _marked(difference_frac: float | None) -> str:
    if difference_frac is None:
        return "-"
    text = f"{difference_frac:+.1%}"
    return f"**{text}**" if abs(difference_frac) > _TO_EXPLAIN_FRAC else text
