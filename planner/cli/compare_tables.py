"""A comparison as tables for a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.tables import sections, table_of
from planner.compare import Comparison

if TYPE_CHECKING:
    from rich.console import Group, RenderableType


def compare_report(rows: Sequence[Comparison]) -> "Group":
    """What the plans deploy, then how they serve the same requests."""
    names = short_names([row.name for row in rows])
    common = rows[0].evaluation
    title = f"On the same {common.num_requests:,} requests at {common.rate_rps:.2f}/s"
    return sections(("Plans", _plans(names, rows)), (title, _results(names, rows)))


def short_names(names: Sequence[str]) -> list[str]:
    """Names of files without their folders, unless two would be the same."""
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(short) else list(names)


def _plans(names: Sequence[str], rows: Sequence[Comparison]) -> "RenderableType":
    cells = [
        [
            name,
            row.deployment,
            str(row.num_gpus),
            "-" if row.usd_per_hour is None else f"{row.usd_per_hour:.2f}",
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    headers = ["plan", "deployment", "GPUs", "$/h"]
    return table_of(headers, cells, numeric={"GPUs", "$/h"})


def _results(names: Sequence[str], rows: Sequence[Comparison]) -> "RenderableType":
    cells = []
    for name, row in zip(names, rows, strict=True):
        shown = []
        for each in ("ttft", "tpot"):
            metric = row.evaluation.metric(each)
            shown.append("-" if metric is None else f"{metric.p90_ms:.1f}")
        attainment = row.evaluation.attainment
        cells.append(
            [
                name,
                f"{row.goodput_rps:.2f}",
                f"{row.goodput_per_gpu_rps:.3f}",
                *shown,
                f"{attainment.joint_frac:.1%}",
                "met" if attainment.is_met else "MISSED",
            ]
        )
    headers = ["plan", "goodput/s", "per GPU", "TTFT p90 ms", "TPOT p90 ms"]
    headers += ["attained", "SLO"]
    return table_of(headers, cells, numeric=set(headers[1:-1]))
