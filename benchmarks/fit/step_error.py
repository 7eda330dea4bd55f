"""Store in the shipped fits how far off whole steps of models not fitted are.

    python benchmarks/fit/step_error.py STEPS.csv

STEPS.csv comes from `steps.py`. Each fit file gets the median and 90th percentile of
its system and engine, which `LatencyLibrary` reports as the expected error.
"""

import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from clusters.serde import write_text_atomic
from models.latency.fit_file import FITS, load_fit

sys.path.insert(0, str(Path(__file__).parents[1] / "accuracy"))
from step_latency import predicted, read_rows


def main(arguments: list[str]) -> int:
    """Rewrite the fit files; returns the exit code."""
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in predicted(read_rows(Path(arguments[0]))):
        if not row.problem:
            errors[row.system, row.backend].append(abs(row.error_frac))
    for (system, engine), found in sorted(errors.items()):
        median, p90 = np.quantile(found, [0.5, 0.9])
        fit = replace(
            load_fit(system, engine),
            step_median_error_frac=round(float(median), 4),
            step_p90_error_frac=round(float(p90), 4),
        )
        text = json.dumps(fit.to_json(), separators=(",", ":")) + "\n"
        write_text_atomic(FITS / system / f"{engine}.json", text)
        sys.stdout.write(f"{system} {engine}: {len(found)} {median:.3f} {p90:.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
