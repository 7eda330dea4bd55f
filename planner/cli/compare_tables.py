"""A comparison as a table for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.cli.tables import sections, table_of
from planner.compare import Comparison

if TYPE_CHECKING:
    from rich.console import Group


def compare_report(rows: Sequence[Comparison]) -> "Group":
    """One row a plan."""
    cells = []
    for row in rows:
        shown = []
        for name in ("ttft", "tpot"):
            metric = row.evaluation.metric(name)
            shown.append("-" if metric is None else f"{metric.p90_ms:.1f}")
        price = "-" if row.usd_per_hour is None else f"{row.usd_per_hour:.2f}"
        attained = f"{row.evaluation.attainment.joint_frac:.1%}"
        cells.append(
            [
                row.name,
                row.deployment,
                str(row.num_gpus),
                price,
                f"{row.goodput_rps:.2f}",
                attained,
                *shown,
            ]
        )
    headers = [
        "plan",
        "deployment",
        "GPUs",
        "$/h",
        "req/s",
        "attained",
        "TTFT p90",
        "TPOT p90",
    ]
    common = rows[0].evaluation
    title = f"On the same {common.num_requests:,} requests at {common.rate_rps:.2f}/s"
    return sections((title, table_of(headers, cells, numeric=set(headers[2:]))))
