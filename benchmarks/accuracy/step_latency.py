"""Fitted step latencies against a file of step latencies, slice by slice.

    python benchmarks/accuracy/step_latency.py FILE [--format json|text]
        [--source fitted|relative|roofline]

FILE is a CSV with the columns ``system, backend, backend_version, model, precision,
gemm_quant, kvcache_quant, tp, moe_tp, moe_ep, phase, batch, isl_or_context,
latency_ms``, and ``moe_quant`` where experts have another format. A prefill row is
`batch` prompts of that length, a decode row one step of `batch` requests with that
context. Where ``moe_tp * moe_ep`` is a multiple of `tp`, that many ranks (attention in
data parallel) do so each. Other columns are not read. No such row is ever fitted.

A row is left out, and listed, when it breaks physics: when more work of the same
configuration (more requests, longer, or both) took clearly less time, so that no
monotone model can meet both; or when the fit discarded the table behind it because it
holds no kernel times. Rows of a model, system, engine, format, split or phase this
package does not know, and rows without a latency, are counted as not covered.

``--source relative`` treats every measured GPU as one that was not: it takes the
efficiency of its nearest measured relative at its own peaks.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
from step_rows import SLICE, Row, llm_of, read_rows

from clusters.fields import InputError
from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.latency.fit_file import ENGINES, load_fit, shipped_systems
from models.latency.fitted import FittedSource
from models.latency.operators.collective import CollectiveModel
from models.latency.request import LatencyRequest, LatencyUnavailableError
from models.latency.roofline import RooflineSource
from models.latency.step_table import StepTable
from models.llm import LlmSpec, WeightFormat
from models.parallelism import Parallelism

FASTER_WITH_MORE_WORK_FRAC = 0.02
"""Share by which more work must be faster before the slower row counts as broken."""
WORST_ROWS = 20
SOURCES = ("fitted", "relative", "roofline")
PHASES = ("prefill", "decode")
CONFIGURATION = (
    *("system", "backend", "model", "precision", "gemm_quant", "moe_quant"),
    *("kvcache_quant", "tp", "moe_tp", "moe_ep", "phase"),
)


def main(arguments: Sequence[str]) -> int:
    """Print the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--format", choices=("text", "json", "markdown"), default="text"
    )
    parser.add_argument("--source", choices=SOURCES, default="fitted")
    options = parser.parse_args(arguments)
    rows = predicted(read_rows(options.file), source=options.source)
    report = report_of(rows)
    if options.format == "json":
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write(markdown_of(report))
    return 0


def predicted(rows: Iterable[Row], *, source: str = "fitted") -> list[Row]:
    """Rows with a prediction or the problem that kept them from one."""
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    done: list[Row] = []
    for row in rows:
        if not row.latency_ms > 0.0:
            done.append(replace(row, problem="not covered: no latency"))
            continue
        groups[tuple(getattr(row, key) for key in CONFIGURATION)].append(row)
    for group in groups.values():
        first = group[0]
        try:
            llm = llm_of(
                first.model, first.gemm_quant, first.kvcache_quant, first.moe_quant
            )
            table = step_table(first, llm, source)
        except (InputError, LatencyUnavailableError) as error:
            done += [replace(row, problem=f"not covered: {error}") for row in group]
            continue
        table_problem = discarded_table(first)
        if table_problem:
            done += [
                replace(row, problem=table_problem, is_moe=llm.moe is not None)
                for row in group
            ]
            continue
        broken = faster_with_more_work(group)
        done += [
            replace(
                row,
                predicted_ms=predict(table, row),
                is_moe=llm.moe is not None,
                problem="more work took less time" if is_broken else "",
            )
            for row, is_broken in zip(group, broken, strict=True)
        ]
    return done


def predict(table: StepTable, row: Row) -> float:
    """Latency of a row's step, in ms."""
    batch = row.batch * row.ranks
    if row.phase == "prefill":
        return table.prefill_step_ms([row.length] * batch)
    return table.decode_step_ms(batch, float(batch * (row.length + 1)))


def discarded_table(row: Row) -> str:
    """Why the measurements behind a row break physics, or nothing."""
    if row.system not in shipped_systems(row.backend):
        return ""
    return load_fit(row.system, row.backend).discarded.get(f"gemm/{row.gemm_quant}", "")


def faster_with_more_work(rows: Sequence[Row]) -> list[bool]:
    """Which rows some row with at least as much work beats clearly."""
    batch = np.asarray([row.batch for row in rows])
    length = np.asarray([row.length for row in rows])
    time = np.asarray([row.latency_ms for row in rows])
    more = (batch[None] >= batch[:, None]) & (length[None] >= length[:, None])
    faster = time[None] < time[:, None] * (1.0 - FASTER_WITH_MORE_WORK_FRAC)
    return [bool(found) for found in (more & faster).any(axis=1)]


def step_table(row: Row, llm: LlmSpec, source: str) -> StepTable:
    """Our table for a row's configuration."""
    gpu = gpu_of(row.system, llm.precision.experts)
    if row.backend not in ENGINES:
        raise InputError("backend", row.backend, f"one of {', '.join(ENGINES)}")
    if row.phase not in PHASES:
        raise InputError("phase", row.phase, f"one of {', '.join(PHASES)}")
    ranks = row.ranks if llm.moe else 1
    if llm.moe and row.moe_tp * row.moe_ep not in (1, ranks * row.tp):
        widths = f"tp {row.tp}, moe_tp {row.moe_tp}, moe_ep {row.moe_ep}"
        raise LatencyUnavailableError(f"experts over part of the GPUs: {widths}")
    parallelism = Parallelism(
        tp=row.tp, ep=row.moe_ep if llm.moe else 1, attention_dp=ranks
    )
    problem = parallelism.why_not(llm)
    if problem:
        raise LatencyUnavailableError(problem)
    request = LatencyRequest(
        llm=llm,
        parallelism=parallelism,
        gpu=gpu,
        links=GroupLinks(tp=(ring_of(row.system, row.backend, gpu),)),
    )
    if source == "roofline":
        return RooflineSource().compile(request)[0]
    engine = FittedSource(
        engine=row.backend,
        step_overhead_ms=0.0,
        without=(row.system,) if source == "relative" else (),
    )
    why_not = engine.why_not_pair(llm, gpu)
    if why_not is not None:
        raise LatencyUnavailableError(why_not)
    return engine.compile(request)[0]


def gpu_of(system: str, experts: WeightFormat) -> GpuType:
    """The catalogue's GPU.

    Engines quantise the inputs of MXFP4 experts where a GPU multiplies in four bits; a
    file that says 16 bits was measured without, so such a GPU counts as one that
    cannot.
    """
    gpu = GpuType.load(system)
    if experts.compute_dtype is not Dtype.BF16:
        return gpu
    wide = tuple(rate for rate in gpu.flops if rate.dtype is not Dtype.FP4)
    return replace(gpu, flops=wide)


@cache
def ring_of(system: str, engine: str, gpu: GpuType) -> GroupLink:
    """The ring of the machine: what its own all-reduce tables were measured on."""
    if system in shipped_systems(engine):
        for model in load_fit(system, engine).variants("all_reduce").values():
            assert isinstance(model, CollectiveModel)
            return GroupLink(
                bytes_per_s=model.link_bytes_per_s, latency_ms=0.002, kind=model.kind
            )
    rate = gpu.nvlink_bytes_per_s or gpu.pcie_bytes_per_s
    kind = LinkKind.NVLINK if gpu.nvlink_bytes_per_s else LinkKind.PCIE
    return GroupLink(bytes_per_s=rate, latency_ms=0.002, kind=kind)


def report_of(rows: Sequence[Row]) -> dict[str, object]:
    """Summary, slices, worst rows and what was left out."""
    used = [row for row in rows if not row.problem]
    slices: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in used:
        slices[tuple(getattr(row, key) for key in SLICE)].append(row)
    uncovered = [row for row in rows if row.problem.startswith("not covered")]
    broken = [row for row in rows if row.problem and row not in uncovered]
    return {
        "summary": {
            kind: {
                **_errors([row for row in used if row.is_moe is is_moe]),
                "excluded": sum(row.is_moe is is_moe for row in broken),
            }
            for kind, is_moe in (("dense", False), ("moe", True))
        },
        "not_covered": dict(Counter(row.problem for row in uncovered)),
        "excluded_by_slice": [
            {**dict(zip(SLICE, key, strict=True)), "rows": count}
            for key, count in sorted(
                Counter(tuple(getattr(r, k) for k in SLICE) for r in broken).items()
            )
        ],
        "excluded_rows": [asdict(row) for row in broken],
        "slices": [
            {**dict(zip(SLICE, key, strict=True)), **_errors(group)}
            for key, group in sorted(slices.items())
        ],
        "worst": [
            {**asdict(row), "error_frac": round(row.error_frac, 4)}
            for row in sorted(used, key=lambda row: -abs(row.error_frac))[:WORST_ROWS]
        ],
    }


def markdown_of(report: dict[str, object]) -> str:
    """The report as tables."""
    summary, slices, worst = report["summary"], report["slices"], report["worst"]
    assert isinstance(summary, dict)
    assert isinstance(slices, list)
    assert isinstance(worst, list)
    lines = [
        "| models | rows | left out | median | p90 | bias |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in summary.items():
        lines.append(
            f"| {kind} | {found['rows']} | {found['excluded']} | "
            f"{_percent(found['median_ape'])} | {_percent(found['p90_ape'])} | "
            f"{_percent(found['bias'])} |"
        )
    for problem, count in dict(report["not_covered"]).items():  # type: ignore[call-overload]
        lines.append(f"\n{count} rows {problem}")
    lines += [
        "",
        "| " + " | ".join(SLICE) + " | rows | median | p90 | bias |",
        "|" + "---|" * (len(SLICE) + 4),
    ]
    for entry in slices:
        cells = [str(entry[key]) for key in SLICE] + [str(entry["rows"])]
        cells += [_percent(entry[key]) for key in ("median_ape", "p90_ape", "bias")]
        lines.append("| " + " | ".join(cells) + " |")
    shown = (
        *SLICE,
        "tp",
        "batch",
        "length",
        "latency_ms",
        "predicted_ms",
        "error_frac",
    )
    lines += ["", "Worst rows:", "", "| " + " | ".join(shown) + " |"]
    lines.append("|" + "---|" * len(shown))
    for entry in worst:
        cells = [
            f"{entry[key]:.3f}" if isinstance(entry[key], float) else str(entry[key])
            for key in shown
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _errors(rows: Sequence[Row]) -> dict[str, object]:
    if not rows:
        return {"rows": 0, "median_ape": None, "p90_ape": None, "bias": None}
    errors = np.asarray([row.error_frac for row in rows])
    absolute = np.abs(errors)
    return {
        "rows": len(rows),
        "median_ape": round(float(np.median(absolute)), 5),
        "p90_ape": round(float(np.quantile(absolute, 0.9)), 5),
        "bias": round(float(np.median(errors)), 5),
    }


def _percent(share: object) -> str:
    return "-" if share is None else f"{100.0 * float(str(share)):.1f} %"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
