"""Knots of published latency tables, from the tables themselves.

    python benchmarks/fit/published_tables.py FOLDER

FOLDER holds `splitwise/perf_model_medians.csv` (Patel et al., "Splitwise: Efficient
Generative LLM Inference Using Phase Splitting", ISCA 2024; medians of the released
`perf_model.csv`) and `muxserve/cost.csv` with `cost_outliers.csv` (Duan et al.,
"MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM Serving", ICML 2024).
Writes models/catalog/published/{splitwise,muxserve,muxserve_sm_share}.yaml.

A published grid becomes the knots of a `StepTable`; the error stored with them is the
90th percentile of the distance from the published points.
"""

import argparse
import csv
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clusters.serde import write_text_atomic
from models.latency.step_table import StepTable

CATALOG = Path(__file__).parents[2] / "models" / "catalog" / "published"
LLMS = {"llama2-70b": "llama-2-70b"}
GPUS = {
    "a100-80gb": "a100_sxm",
    "h100-80gb": "h100_sxm",
    "h100-80gb-pcap": "h100_sxm_capped",
}
SWEEP_PROMPT, SWEEP_OUTPUT = 512, 128
"""Of Splitwise's grid: the prompt and output of its batches."""
SHARE_BATCHES = (1, 8, 32, 128)
FASTER_WITH_MORE_WORK = 0.8
"""A larger batch that took less than this share of a smaller one's time failed."""

SCRIPT = "written by benchmarks/fit/published_tables.py"
SPLITWISE_NOTE = (
    "Knots of the latency table released with Splitwise (Patel et al., ISCA 2024, "
    f"arXiv 2311.18677): medians of its repeats, {SCRIPT}. Prompts up to 8192 tokens "
    "ran one at a time; knots beyond are batches of 512-token prompts, so the square "
    "of a prompt is inside `prefill_ms`. Batches of 64 at TP2 took less time than 32 "
    "and are left out as failed. `h100_sxm_capped` is an H100 at half of its power: "
    "exactly 1.3 times the prefill of the H100 in every row, so an assumption."
)
MUXSERVE_SOURCE = (
    "MuxServe, examples/placement/llama.json, github.com/hao-ai-lab/MuxServe"
)
MUXSERVE_NOTE = (
    "Knots of the cost table released with MuxServe (Duan et al., ICML 2024, arXiv "
    f"2404.02015) on all SMs of A100-80G GPUs, fp16, {SCRIPT} without its 9 isolated "
    "spikes. Prompts have 32 to 512 tokens: no squares show. Decode is linear in the "
    "attended tokens at every batch."
)
SM_SHARE_NOTE = (
    "Slowdown of a step on a share of the SMs, against all SMs, from the cost table "
    "released with MuxServe (Duan et al., ICML 2024, arXiv 2404.02015) on A100-80G, "
    f"fp16: medians over its prompt lengths, never rising with the share, {SCRIPT}. "
    "Rows are batches."
)

Points = list[tuple[float, float, float]]
"""Requests, tokens of each (prompt, or attended), ms."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Published points of one model, GPU type and tensor parallelism."""

    llm: str
    gpu: str
    tp: int
    prefill: Points
    decode: Points


def main(arguments: Sequence[str]) -> int:
    """Write the three files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=CATALOG)
    options = parser.parse_args(arguments)
    costs = clean_costs(options.folder / "muxserve")
    texts = {
        "splitwise": splitwise_text(
            options.folder / "splitwise" / "perf_model_medians.csv"
        ),
        "muxserve": muxserve_text(costs),
        "muxserve_sm_share": sm_share_text(costs),
    }
    for name, text in texts.items():
        write_text_atomic(options.output / f"{name}.yaml", text)
    return 0


# Splitwise


def splitwise_text(path: Path) -> str:
    """The file of Splitwise's table."""
    header = [
        *comment(SPLITWISE_NOTE),
        'source: "Splitwise, perf_model.csv, github.com/Mutinifni/splitwise-sim"',
        'date: "2024-06"',
        "engine: splitwise",
        "tables:",
    ]
    groups: dict[tuple[str, str, int], list[dict[str, str]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            groups[row["model"], row["hardware"], int(row["tp"])].append(row)
    lines = []
    for (model, hardware, tp), rows in sorted(groups.items()):
        measured = Measured(
            llm=LLMS.get(model, model),
            gpu=GPUS[hardware],
            tp=tp,
            prefill=without_failures(points(rows, "prompt_ms", attended=0.0)),
            decode=without_failures(points(rows, "token_ms", attended=0.5)),
        )
        lines += table_lines(measured, splitwise_table(measured))
    return "\n".join([*header, *lines, ""])


def points(rows: Iterable[dict[str, str]], column: str, *, attended: float) -> Points:
    """Requests, prompt plus the share `attended` of the output, and the time."""
    return [
        (
            float(row["batch_size"]),
            float(row["prompt_size"]) + attended * float(row["output_size"]),
            float(row[column]),
        )
        for row in rows
    ]


def without_failures(all_points: Points) -> Points:
    """Points no smaller batch of the same requests took clearly longer than."""
    return [
        (batch, tokens, ms)
        for batch, tokens, ms in all_points
        if not any(
            fewer < batch and same == tokens and ms < FASTER_WITH_MORE_WORK * longer
            for fewer, same, longer in all_points
        )
    ]


def splitwise_table(measured: Measured) -> StepTable:
    """Prompts by size, then batches; decode by batch, with the slope in context."""
    alone = medians((t, ms) for b, t, ms in measured.prefill if b == 1)
    longest = max(alone)
    batched = {
        b * t: ms
        for b, t, ms in measured.prefill
        if t == SWEEP_PROMPT and b * t > longest
    }
    tokens, prefill = rising({**alone, **batched})
    single = medians((t, ms) for b, t, ms in measured.decode if b == 1)
    slope = max(0.0, float(np.polyfit(list(single), list(single.values()), 1)[0]))
    context = SWEEP_PROMPT + SWEEP_OUTPUT / 2
    batches = medians((b, ms) for b, t, ms in measured.decode if t == context)
    requests, decode = rising(
        {b: ms - slope * b * context for b, ms in batches.items()}
    )
    return StepTable(
        prefill_tokens=tokens,
        prefill_ms=prefill,
        prefill_per_sq_token_ms=0.0,
        decode_batch=requests,
        decode_ms=decode,
        decode_per_kv_token_ms=(slope,) * len(requests),
    )


# MuxServe


def clean_costs(folder: Path) -> dict[tuple[str, int, int], dict[str, Points]]:
    """Points by model, GPUs and percentage of SMs, then phase, without the spikes."""
    with (folder / "cost_outliers.csv").open(newline="") as file:
        spikes = {
            (*(row[key] for key in ("model", "ngpu", "mps", "batch", "seq_len")), c)
            for row in csv.DictReader(file)
            for c in [row["column"]]
        }
    found: dict[tuple[str, int, int], dict[str, Points]] = defaultdict(
        lambda: {"prefill": [], "decode": []}
    )
    with (folder / "cost.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(row[k] for k in ("model", "ngpu", "mps", "batch", "seq_len"))
            for phase in ("prefill", "decode"):
                column = f"{phase}_ms"
                if (
                    row[column]
                    and float(row[column]) > 0
                    and (*key, column) not in spikes
                ):
                    place = row["model"], int(row["ngpu"]), int(row["mps"])
                    point = (
                        float(row["batch"]),
                        float(row["seq_len"]),
                        float(row[column]),
                    )
                    found[place][phase].append(point)
    return found


def muxserve_text(costs: dict[tuple[str, int, int], dict[str, Points]]) -> str:
    """The file of MuxServe's table on whole GPUs."""
    header = [
        *comment(MUXSERVE_NOTE),
        f'source: "{MUXSERVE_SOURCE}"',
        'date: "2024-07"',
        "engine: muxserve",
        "tables:",
    ]
    lines = []
    for (llm, tp, share), phases in sorted(costs.items()):
        if share == 100:
            measured = Measured(llm=llm, gpu="a100_sxm", tp=tp, **phases)
            lines += table_lines(measured, muxserve_table(measured))
    return "\n".join([*header, *lines, ""])


def muxserve_table(measured: Measured) -> StepTable:
    """Prefill by total tokens; decode at every batch as a line in attended tokens."""
    tokens, prefill = rising(medians((b * t, ms) for b, t, ms in measured.prefill))
    by_batch: dict[float, Points] = defaultdict(list)
    for batch, context, ms in measured.decode:
        by_batch[batch].append((batch, context, ms))
    fixed, slopes, before = {}, {}, None
    for batch, rows in sorted(by_batch.items()):
        attended, times = [b * t for b, t, _ in rows], [ms for *_, ms in rows]
        least = 0.0
        if before is not None:  # another request of equal context never helps
            least = slopes[before] * batch / (2.0 * batch - before)
        fixed[batch], slopes[batch] = line(attended, times, least)
        before = batch
    requests, decode = rising(fixed)
    return StepTable(
        prefill_tokens=tokens,
        prefill_ms=prefill,
        prefill_per_sq_token_ms=0.0,
        decode_batch=requests,
        decode_ms=decode,
        decode_per_kv_token_ms=tuple(slopes[b] for b in requests),
    )


def line(x: Sequence[float], y: Sequence[float], least: float) -> tuple[float, float]:
    """Intercept and slope (at least `least`) of least relative squares."""
    xs, ys = np.asarray(x), np.asarray(y)
    slope = float(np.polyfit(xs, ys, 1, w=1.0 / ys)[0]) if len(xs) > 1 else 0.0
    slope = max(least, slope)
    return float(np.average(ys - slope * xs, weights=ys**-2.0)), slope


def sm_share_text(costs: dict[tuple[str, int, int], dict[str, Points]]) -> str:
    """The file of slowdowns on a share of the SMs."""
    header = [
        *comment(SM_SHARE_NOTE),
        f'source: "{MUXSERVE_SOURCE}"',
        'date: "2024-07"',
        "gpu: a100_sxm",
        "slowdowns:",
    ]
    shares = sorted({share for _, _, share in costs})
    lines = []
    for llm, tp in sorted({(llm, tp) for llm, tp, _ in costs}):
        for phase in ("prefill", "decode"):
            by_share = {s: costs[llm, tp, s][phase] for s in shares}
            batches, grid = slowdown_grid(by_share)
            lines += [
                f"  - llm: {llm}",
                f"    tp: {tp}",
                f"    phase: {phase}",
                f"    share_frac: [{', '.join(f'{s / 100:g}' for s in shares)}]",
                f"    num_requests: [{', '.join(f'{b:g}' for b in batches)}]",
                "    slowdown:",
                *(f"      - [{', '.join(f'{v:.3f}' for v in row)}]" for row in grid),
            ]
    return "\n".join([*header, *lines, ""])


def slowdown_grid(by_share: dict[int, Points]) -> tuple[list[float], list[list[float]]]:
    """Batches, and a row for each: slowdown by share, falling to 1 at all SMs."""
    whole = {(b, t): ms for b, t, ms in by_share[100]}
    ratios: dict[tuple[float, int], list[float]] = defaultdict(list)
    for share, rows in by_share.items():
        for batch, tokens, ms in rows:
            if (batch, tokens) in whole:
                ratios[batch, share].append(ms / whole[batch, tokens])
    shares = sorted(by_share)
    batches = [b for b in SHARE_BATCHES if all((b, s) in ratios for s in shares)]
    grid = []
    for batch in batches:
        row = [float(np.median(ratios[batch, share])) for share in shares]
        row[-1] = 1.0
        grid.append(np.maximum.accumulate(row[::-1])[::-1].tolist())
    return [float(b) for b in batches], grid


# Both


def medians(pairs: Iterable[tuple[float, float]]) -> dict[float, float]:
    """Median of the second at each first, in order."""
    found: dict[float, list[float]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return {key: float(np.median(found[key])) for key in sorted(found)}


def rising(
    knots: dict[float, float],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots in order, and values that never fall."""
    keys = sorted(knots)
    values = np.maximum.accumulate([knots[key] for key in keys])
    return tuple(keys), tuple(float(f"{value:.4g}") for value in values)


def table_lines(measured: Measured, table: StepTable) -> list[str]:
    """YAML of one table with its distance from the published points."""
    off = [
        abs(table.prefill_step_ms([int(t)] * int(b)) / ms - 1.0)
        for b, t, ms in measured.prefill
    ] + [
        abs(table.decode_step_ms(int(b), b * t) / ms - 1.0)
        for b, t, ms in measured.decode
    ]
    where = f"{measured.llm} {measured.gpu} TP{measured.tp}"
    sys.stderr.write(f"{where}: median {np.median(off):.3f} max {max(off):.3f}\n")
    return [
        f"  - llm: {measured.llm}",
        f"    gpu: {measured.gpu}",
        f"    tp: {measured.tp}",
        f"    rows_used: {len(off)}",
        f"    p90_error_frac: {np.quantile(off, 0.9):.3f}",
        f"    prefill_tokens: {flow(table.prefill_tokens)}",
        f"    prefill_ms: {flow(table.prefill_ms)}",
        f"    decode_batch: {flow(table.decode_batch)}",
        f"    decode_ms: {flow(table.decode_ms)}",
        f"    decode_per_kv_token_ms: {flow(table.decode_per_kv_token_ms)}",
    ]


def comment(text: str) -> list[str]:
    """Lines of a YAML comment."""
    return textwrap.wrap(text, 88, initial_indent="# ", subsequent_indent="# ")


def flow(values: Iterable[float]) -> str:
    """A YAML list on one line."""
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
