"""What a campaign and its fit recover of a device whose latency law is known.

    python benchmarks/accuracy/synthetic_profile.py [--format json] [--seeds N]

The law is a layer that streams its weights up to 200 tokens and computes beyond, with
attention by squares; decodes stream weights and read the KV cache. Every sample has 3 %
of relative noise, and in half of the runs one in a hundred takes three times as long. A
campaign measures its own grid, held-out points and refinements included; errors are
those of the fitted table against the law itself, at points that no campaign measures.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.latency.profile_build import fit_profile
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.profile_records import Environment, Status, StepPoint, StepRecord
from models.profile_table import read_profile_table
from profiler.campaign import run_campaign
from profiler.grid import GridLimits, GridPoint, decode_point, predicted_ms
from profiler.sections import Section, section_grid
from profiler.subject import Subject
from profiler.timing import SyntheticClock, measure

HERE = Environment(device="synthetic", device_name="paper", gpu="paper")
STREAM_MS, PER_TOKEN_MS, PER_SQUARE_MS = 0.12, 8e-4, 3e-8
PER_REQUEST_MS, PER_KV_MS = 4e-4, 1e-6
NOISE_FRAC = 0.03
UNSEEN = (
    *(StepPoint(new_tokens=(n,)) for n in (100, 300, 700, 1300, 3000, 6000)),
    StepPoint(new_tokens=(1500, 300), past_tokens=(3000, 0)),
    *(decode_point(b, 1000) for b in (1, 3, 12, 24, 48, 100, 200)),
)


def law_ms(point: StepPoint) -> float:
    """Time of a step of one layer."""
    if point.phase == "decode":
        batch = point.num_decodes
        return STREAM_MS + PER_REQUEST_MS * batch + PER_KV_MS * point.kv_tokens
    linear = max(STREAM_MS, PER_TOKEN_MS * point.prompt_tokens)
    return linear + PER_SQUARE_MS * point.squares


@dataclass
class Paper:
    """A device that follows the law."""

    seed: int
    outlier_frac: float
    environment: Environment = HERE

    def grid(
        self, subject: Subject, limits: GridLimits, section: Section
    ) -> tuple[GridPoint, ...]:
        """The points of a section."""
        return section_grid(subject.part, limits, section)

    def measure(self, subject: Subject, target: GridPoint) -> StepRecord:
        """One point, timed as on a device."""
        seeds = [self.seed, *target.point.describe().encode()]
        clock = SyntheticClock(
            rng=np.random.default_rng(seeds),
            noise_frac=NOISE_FRAC,
            outlier_frac=self.outlier_frac,
        )
        ms = law_ms(target.point)
        return StepRecord(
            environment=HERE,
            llm=subject.llm,
            tp=subject.tp,
            part=subject.part,
            dtype=subject.dtype,
            point=target.point,
            role=target.role,
            status=Status.OK,
            step=measure(lambda: ms, clock).spread,
        )


def recovered(seed: int, outlier_frac: float) -> dict[str, float]:
    """Errors of one campaign against the law."""
    llm = LlmSpec.load("llama-3.1-8b")
    subject = Subject(llm=llm, part="dense")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        run_campaign([subject], Paper(seed, outlier_frac), path)
        (model,) = fit_profile(read_profile_table(path)).models
    part = model.parts[0]
    errors = [abs(predicted_ms(part.table, p) / law_ms(p) - 1.0) for p in UNSEEN]
    return {
        "median_frac": float(np.median(errors)),
        "max_frac": max(errors),
        "stated_median_frac": max(
            part.prefill_error.median_frac, part.decode_error.median_frac
        ),
        **coefficient_errors(part.table),
    }


def coefficient_errors(table: StepTable) -> dict[str, float]:
    """Relative errors of the coefficients of the law."""
    kv = table.decode_step_ms(64, 1e5) - table.decode_step_ms(64, 0.0)
    batch = table.decode_step_ms(200, 0.0) - table.decode_step_ms(20, 0.0)
    found = {
        "per_square": table.prefill_per_sq_token_ms / PER_SQUARE_MS,
        "per_kv_token": kv / 1e5 / PER_KV_MS,
        "per_request": batch / 180 / PER_REQUEST_MS,
        "per_token": (
            table.prefill_step_ms([1] * 8192) - table.prefill_step_ms([1] * 1024)
        )
        / 7168
        / PER_TOKEN_MS,
    }
    return {f"{name}_frac": abs(ratio - 1.0) for name, ratio in found.items()}


def compare(num_seeds: int) -> dict[str, Any]:
    """Medians and worst cases over the seeds, with and without outliers."""
    found: dict[str, Any] = {"num_seeds": num_seeds, "noise_frac": NOISE_FRAC}
    for name, outlier_frac in (("clean", 0.0), ("outliers", 0.01)):
        rows = [recovered(seed, outlier_frac) for seed in range(num_seeds)]
        found[name] = {
            key: {
                "median": float(np.median([row[key] for row in rows])),
                "worst": max(row[key] for row in rows),
            }
            for key in rows[0]
        }
    return found


def table_of(found: dict[str, Any]) -> str:
    """The comparison as text."""
    lines = [f"{'error':22} {'clean':>18} {'1 % outliers':>18}   (median, worst)"]
    for key in found["clean"]:
        cells = [
            f"{found[name][key]['median']:8.2%} {found[name][key]['worst']:8.2%}"
            for name in ("clean", "outliers")
        ]
        lines.append(f"{key:22} {cells[0]:>18} {cells[1]:>18}")
    return "\n".join(lines)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--seeds", type=int, default=20)
    chosen = parser.parse_args()
    found = compare(chosen.seeds)
    text = json.dumps(found, indent=2) if chosen.format == "json" else table_of(found)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
