"""The latency section of docs/validation.md.

    python benchmarks/accuracy/latency_report.py GRID.csv VIDUR_FOLDER [STEPS.csv]

Prints Markdown: steps of GRID.csv, steps of models in STEPS.csv (from
`benchmarks/fit/steps.py`), Vidur's profiles, and the evidence of every shipped fit.
"""

import sys
from pathlib import Path

import vidur
from step_latency import markdown_of, predicted, read_rows, report_of

from models.latency.fit_file import ENGINES, load_fit, shipped_systems


def main(arguments: list[str]) -> int:
    """Print the section; returns the exit code."""
    grid, folder, *more = arguments
    sys.stdout.write("## Step latencies from fitted operators\n\n" + _INTRODUCTION)
    _steps("Llama-3.1-8B and Qwen3-32B, five systems, two engines", Path(grid))
    for path in more:
        _steps("Other models, ten systems, three engines", Path(path))
    sys.stdout.write("\n### Vidur's profiles\n\n")
    vidur.main([folder])
    sys.stdout.write("\n### Evidence of the shipped fits\n\n")
    sys.stdout.write(
        "| system | engine | operator | variant | rows | left out | median | p90 | "
        "held out median | held out p90 |\n" + "|---" * 10 + "|\n"
    )
    for engine in (*ENGINES, "vidur"):
        for system in shipped_systems(engine):
            for kind, variants in load_fit(system, engine).operators.items():
                for key, operator in variants.items():
                    found = operator.evidence
                    errors = " | ".join(found.errors_text())
                    sys.stdout.write(
                        f"| {system} | {engine} | {kind} | {key} | {found.rows_used} | "
                        f"{found.rows_discarded} | {errors} |\n"
                    )
    return 0


def _steps(title: str, path: Path) -> None:
    sys.stdout.write(f"\n### {title}\n\n")
    sys.stdout.write(markdown_of(report_of(predicted(read_rows(path)))))


_INTRODUCTION = """\
Steps composed from fitted operators against those of the package aiconfigurator-core
0.12.0, which composes them from the same tables by interpolation. Operators are fitted,
steps never. Left out, and counted, are rows where more work of the same configuration
took at least 2 % less time, and rows in a number format whose table holds no kernel
times (`benchmarks/fit/README.md`).
"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
