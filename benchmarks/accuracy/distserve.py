"""Our simulator against DistServe's, request by request percentiles.

    python benchmarks/accuracy/distserve.py FILES... [--format json]

FILES are folders (or their `single_sims.json`, `multi_instance_sims.json`) with runs of
DistServe's released simulator: inputs, percentiles and the configuration of each point.
That simulator's habits are put into the *inputs* here, never into the product:

* a prefill stage costs (a + bS + cS2)/PP + PP ms, a decode stage (a + bC + cB)/PP;
* the first stage of every batch pays 2 + 1e-4 * (context tokens) ms more;
* n output tokens take n decode steps, so a request has n + 1 tokens here;
* no KV limit, no KV transfer time, no limit on the number of requests of a batch;
* a decode step covers at most 50 000 context tokens, requests beyond take turns;
* a prefill batch holds at most the tokens of its memory table.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from models.latency.published import PublishedFit, load_published
from models.latency.step_table import StepTable
from planner.simulator.simulate import simulate
from planner.simulator.system import (
    BatchLimits,
    KvRoute,
    Phase,
    ServingReplica,
    ServingSystem,
)
from planner.workload.requests import Requests

PERCENTS = (50, 90, 99)
DECODE_CAP_TOKENS = 50_000
FAR_TOKENS = 1e6
FAR_REQUESTS = 1e5
UNLIMITED_TOKENS = 10**12
MANY_SEQS = 4096

# KV tokens by (LLM, TP, PP) of that simulator's memory table, whose prefill entry caps
# the tokens of a prefill batch. Only the weights' share differs between entries:
# floor((0.94 * 80 GiB - weights / (TP * PP)) / bytes of a block) blocks of 16 tokens.
MEMORY_GIB = 80
LLM_FACTS = {
    "opt_13b": {"layers": 40, "hidden": 5120, "heads": 40},
    "opt_66b": {"layers": 64, "hidden": 9216, "heads": 72},
    "opt_175b": {"layers": 96, "hidden": 12288, "heads": 96},
}


def prefill_cap_tokens(model: str, tp: int, pp: int) -> int:
    """Tokens that one prefill batch may hold."""
    facts = LLM_FACTS[model]
    layers, hidden = facts["layers"], facts["hidden"]
    block_bytes = 16 * 2 * 2 * hidden * layers / (tp * pp)
    weights = 2 * (12 * layers * hidden**2 + 50272 * hidden) / (tp * pp)
    free = 0.94 * MEMORY_GIB * 2**30 - weights
    return int(free // block_bytes) * 16


def stage_tables(fit: PublishedFit, pp: int) -> tuple[StepTable, ...]:
    """Tables of each pipeline stage with that simulator's constants."""
    prefill, small, large = fit.prefill, fit.decode_small, fit.decode_large
    batch = np.array([0.0, 94.0, 95.0, FAR_REQUESTS])
    pieces = (small, small, large, large)
    tables = []
    for stage in range(pp):
        extra_ms, per_context_ms = (2.0, 1e-4) if stage == 0 else (0.0, 0.0)
        start = prefill.fixed_ms / pp + pp + extra_ms
        slope = prefill.per_token_ms / pp + per_context_ms
        # The overhead counts the context without the new token: subtract one a request.
        fixed = [
            piece.at_batch_ms(b) / pp + extra_ms - per_context_ms * b
            for piece, b in zip(pieces, batch, strict=True)
        ]
        tables.append(
            StepTable(
                prefill_tokens=(0.0, FAR_TOKENS),
                prefill_ms=(start, start + slope * FAR_TOKENS),
                prefill_per_sq_token_ms=prefill.per_sq_token_ms / pp,
                decode_batch=tuple(batch),
                decode_ms=tuple(fixed),
                decode_per_kv_token_ms=tuple(
                    piece.per_kv_token_ms / pp + per_context_ms for piece in pieces
                ),
            )
        )
    return tuple(tables)


def published_fit(engine: str, model: str, tp: int) -> PublishedFit:
    """Coefficients of a model at a tensor parallelism."""
    engines = {e.engine: e.fits for e in load_published().engines}
    name = model.replace("_", "-")
    return next(f for f in engines[engine] if f.llm == name and f.tp == tp)


def serving_system(point: dict[str, Any]) -> ServingSystem:
    """Replicas of one point of the reference."""
    model, engine = point["model"], point.get("backend", "distserve")
    tp, pp = point["tp_prefill"], point["pp_prefill"]
    limits = BatchLimits(
        max_batch_tokens=prefill_cap_tokens(model, tp, pp),
        max_num_seqs=MANY_SEQS,
        max_step_context_tokens=DECODE_CAP_TOKENS,
    )

    def replica(phase: Phase, tp: int, pp: int) -> ServingReplica:
        return ServingReplica(
            phase=phase,
            stages=stage_tables(published_fit(engine, model, tp), pp),
            limits=limits,
            kv_capacity_tokens=UNLIMITED_TOKENS,
        )

    if engine == "vllm":
        return ServingSystem(
            replicas=(replica(Phase.AGGREGATED, tp, pp),), kv_bytes_per_token=0.0
        )
    num_prefill, num_decode = point.get("n_prefill", 1), point.get("n_decode", 1)
    prefills = [replica(Phase.PREFILL, tp, pp)] * num_prefill
    decodes = [replica(Phase.DECODE, point["tp_decode"], point["pp_decode"])]
    routes = tuple(
        KvRoute(source=i, target=num_prefill + j, latency_ms=0.0, ms_per_byte=0.0)
        for i in range(num_prefill)
        for j in range(num_decode)
    )
    return ServingSystem(
        replicas=(*prefills, *(decodes * num_decode)),
        routes=routes,
        kv_bytes_per_token=0.0,
    )


def read_requests(path: Path) -> Requests:
    """Requests of a point; one more token, for the decode steps of that simulator."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Requests(
        arrival_ms=np.array([float(row["arrival_ms"]) for row in rows]),
        input_tokens=np.array([int(row["input_len"]) for row in rows]),
        output_tokens=np.array([int(row["output_len"]) + 1 for row in rows]),
    )


def compare(point: dict[str, Any], folder: Path, kind: str) -> dict[str, Any]:
    """Simulate one point and compare its percentiles."""
    result = simulate(serving_system(point), read_requests(folder / point["input_csv"]))
    errors: dict[str, float] = {}
    for metric in ("ttft", "tpot"):
        for percent in PERCENTS:
            theirs = point[f"{metric}_ms"][f"p{percent}"]
            ours = result.percentile_ms(metric, percent)
            errors[f"{metric}_p{percent}"] = ours / theirs - 1.0
    return {
        "id": point["id"],
        "kind": kind,
        "model": point["model"],
        "backend": point.get("backend", "distserve"),
        "error_frac": errors,
        "max_error_frac": max(abs(error) for error in errors.values()),
    }


def points_of(path: Path) -> list[tuple[dict[str, Any], Path, str]]:
    """Points in a folder, or in one of its two files."""
    files = [path] if path.is_file() else sorted(path.glob("*_sims.json"))
    found = []
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        rows = data if isinstance(data, list) else data["points"]
        kind = "multi" if any("n_prefill" in row for row in rows) else "single"
        found += [(row, file.parent, kind) for row in rows]
    return found


def main() -> int:
    """Compare every point and print the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    points = [compare(*each) for path in args.files for each in points_of(path)]
    worst = {
        kind: max((p["max_error_frac"] for p in points if p["kind"] == kind), default=0)
        for kind in ("single", "multi")
    }
    summary = {
        "max_error_frac": worst["single"],
        "max_error_frac_multi_instance": worst["multi"],
        "num_points": len(points),
    }
    if args.format == "json":
        print(json.dumps({"summary": summary, "points": points}, indent=2))
        return 0
    for point in points:
        errors = "  ".join(f"{k} {v:+.3%}" for k, v in point["error_frac"].items())
        print(f"{point['id']} {point['model']:8} {point['backend']:9} {errors}")
    print(f"single-instance: worst {worst['single']:.3%}; multi: {worst['multi']:.3%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
