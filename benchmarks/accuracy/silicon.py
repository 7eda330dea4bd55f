"""Simulated serving runs against measured ones: mean TTFT and mean TPOT.

    python benchmarks/accuracy/silicon.py FILE [--format json|markdown] [--fit]

FILE is a CSV of measured closed-loop runs of serving engines with the columns of
aiconfigurator's ``silicon.csv`` (`silicon_rows` says how they are read). Every row is
simulated with the shipped presets of its engine (`planner.engines`); nothing in this
folder is fitted to a row, a model or a GPU.

``summary.compared`` are the rows of the public harness (``source`` begins with a date,
after ``source_file=``, or with ``db-dump``) that the other tool predicts too;
``summary.other_harness`` those of other harnesses. ``summary.cross_validated`` has the
same for rows of the (model, GPU) pairs of the fit, each predicted with constants fitted
without its pair (`benchmarks/results/silicon_left_out.json`), and
``summary.cross_validated_by`` also those without its model and without its GPU
generation.

``--fit`` fits the constants of the engines anew on the aggregated runs of FILE
(`silicon_fit`), takes some minutes, and writes both files. Its report is about rows
left out alone.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from silicon_fit import KINDS, Fitted, fit_engine, group_of
from silicon_predict import Case, Prediction, case_of, predict
from silicon_report import Outcome, markdown_of, report_of
from silicon_rows import Row, read_rows

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import dump_json, dump_yaml, read_mapping, write_text_atomic
from models.latency.request import ExtrapolationWarning, LatencyUnavailableError
from planner.engines import EnginePreset, OverheadFit

ROOT = Path(__file__).parents[2]
LEFT_OUT = ROOT / "benchmarks" / "results" / "silicon_left_out.json"
SHIPPED = ROOT / "planner" / "catalog" / "engine_overheads.yaml"
MAX_FITTED_CONCURRENCY = 512
"""Larger runs take long to simulate and say no more."""
SOURCE = "silicon.csv of aiconfigurator 0.12.0: public runs of InferenceX and others"


def main(arguments: Sequence[str]) -> int:
    """Print the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown")
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", ExtrapolationWarning)
    rows = read_rows(options.file)
    cases, reasons = cases_of(rows)
    if options.fit:
        fitted = fit_all(cases)
        write_fits(fitted, cases)
        left_out = {
            kind: {k: v for e in fitted.values() for k, v in e.held_out[kind].items()}
            for kind in KINDS
        }
        shipped = dict(left_out["pair"])
    else:
        shipped = predictions(cases, reasons)
        left_out = validated({id_: cases[id_] for id_ in shipped})
    report = report_of(
        [
            Outcome(
                row=row,
                predicted=shipped.get(row.id),
                left_out={
                    kind: found[row.id]
                    for kind, found in left_out.items()
                    if row.id in found
                },
                reason=reasons.get(row.id, "not fitted"),
            )
            for row in rows
            if not options.fit or row.id in shipped or row.id in reasons
        ]
    )
    text = json.dumps(report, indent=2) + "\n"
    sys.stdout.write(text if options.format == "json" else markdown_of(report))
    return 0


def cases_of(rows: Sequence[Row]) -> tuple[dict[str, Case], dict[str, str]]:
    """Rows that can be simulated, and the reason for every other."""
    cases: dict[str, Case] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        if row.problem:
            reasons[row.id] = row.problem
            continue
        try:
            cases[row.id] = case_of(row)
        except InputError as error:
            reasons[row.id] = f"{error.key}: {error.expected} expected"
        except LatencyUnavailableError as error:
            reasons[row.id] = str(error)
    return cases, reasons


def predictions(
    cases: Mapping[str, Case], reasons: dict[str, str]
) -> dict[str, Prediction]:
    """Predictions with the shipped constants; `reasons` gets why there is none."""
    found: dict[str, Prediction] = {}
    for id_, case in cases.items():
        try:
            found[id_] = predict(case, shipped_fit(case))
        except InputError as error:
            reasons[id_] = f"{error.key}: {error.expected} expected"
    return found


def shipped_fit(case: Case) -> OverheadFit:
    """The shipped constants of the engine."""
    return EnginePreset.load(case.row.engine).fit


def validated(cases: Mapping[str, Case]) -> dict[str, dict[str, Prediction]]:
    """Predictions with constants that were fitted without a row's group, by kind."""
    stored = read_mapping(LEFT_OUT) if LEFT_OUT.exists() else {}
    found: dict[str, dict[str, Prediction]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for id_, case in cases.items():
            fits = stored.get(kind, {}).get(case.row.engine, {})
            entry = fits.get(group_of(case, kind))
            if entry is not None:
                found[kind][id_] = predict(case, from_mapping(OverheadFit, entry))
    return found


def fit_all(cases: Mapping[str, Case]) -> dict[str, Fitted]:
    """Constants of every engine from all the rows that can be simulated."""
    found = {}
    for engine in EnginePreset.names():
        own = [
            case
            for case in cases.values()
            if case.row.engine == engine
            and case.row.mode == "agg"
            and case.concurrency <= MAX_FITTED_CONCURRENCY
        ]
        if own:
            found[engine] = fit_engine(own)
    return found


def write_fits(fitted: Mapping[str, Fitted], cases: Mapping[str, Case]) -> None:
    """Ship the constants with their evidence, and keep those of groups left out."""
    shipped = {}
    for engine, each in fitted.items():
        errors = {
            metric: [
                abs(getattr(p, metric) / getattr(cases[id_].row, metric) - 1.0)
                for id_, p in each.held_out["pair"].items()
                if cases[id_].row.is_public or metric == "tpot_ms"
            ]
            for metric in ("ttft_ms", "tpot_ms")
        }
        shipped[engine] = replace(
            each.fit,
            ttft_median_error_frac=round(float(np.median(errors["ttft_ms"])), 4),
            tpot_median_error_frac=round(float(np.median(errors["tpot_ms"])), 4),
            source=SOURCE,
        )
    write_text_atomic(SHIPPED, dump_yaml(to_mapping(shipped)))
    left_out = {
        kind: {
            engine: {k: to_mapping(fit) for k, fit in each.without[kind].items()}
            for engine, each in fitted.items()
        }
        for kind in KINDS
    }
    write_text_atomic(LEFT_OUT, dump_json(left_out))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
