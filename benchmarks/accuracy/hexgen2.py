"""HexGen-2's question: unlike GPUs against eight H100 of the same price.

    python benchmarks/accuracy/hexgen2.py [FILE] [--format json] [--cases N]

FILE is the reference file with the clusters (`hexgen2_cases.py`). Four questions:

* `cases`: for two models and four classes of requests, what do `hexgen2`, `distserve`
  and `auto` serve on the unlike GPUs, and `distserve` and the best of all methods on
  8xH100? Same SLO, same rates of links, same simulator.
* `swaps`: which flow do swaps guided by the cut reach, and which do random ones, in the
  same processor time from the same partitions, over 15 seeds?
* `pair`: ThunderServe's four A40 and four 3090 Ti, with 40 and with 5 Gbit/s between.
* `bandwidths`: the links that were assumed.

Every figure is a goodput in requests/s within the SLO. The published figures are
throughputs of real systems, on bandwidths that are not known; so what is compared is
the direction and the size, not the numbers.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hexgen2_cases import (
    CLOUD,
    FILE,
    HOMOGENEOUS,
    SETTINGS,
    bandwidths_of,
    cluster_of,
    read_clusters,
)
from hexgen2_plans import SLOS, run_cases, run_pair
from hexgen2_swaps import run_swaps

NUM_SEEDS = 15
SWAP_KEYS = (
    "cluster",
    "model",
    "class",
    "processor_s",
    "num_guided_not_below",
    "mean_gain_frac",
)
RATIOS = ("over_distserve_8xh100", "over_best_8xh100", "over_distserve_same_gpus")


def summary_of(report: dict[str, Any]) -> dict[str, Any]:
    """The figures that are published, and ours."""
    rows = report["cases"]
    found: dict[str, Any] = {
        "published": {"mean_over_distserve": 1.3, "max_over_distserve": 2.0}
    }
    for slo in SLOS:
        for label, setting in zip(("equal_price", "cheaper"), SETTINGS, strict=True):
            found[f"{slo}_{label}"] = {
                key: _spread(
                    [
                        row[key]
                        for row in rows
                        if row["slo"] == slo and row["setting"] == setting
                    ]
                )
                for key in RATIOS
            }
    autos = [r["auto_over_hexgen2"] for r in rows if r["auto_over_hexgen2"] is not None]
    hexgen2 = [row["unlike"]["hexgen2"] for row in rows]
    return found | {
        "min_auto_over_hexgen2": min(autos, default=None),
        "max_processor_s": max((row["processor_s"] for row in hexgen2), default=None),
        "max_wall_s": max((row["wall_s"] for row in hexgen2), default=None),
        "swaps": [{key: row[key] for key in SWAP_KEYS} for row in report["swaps"]],
    }


def _spread(values: list[float | None]) -> dict[str, float | int | None]:
    """Mean, extremes, and how many cases have none: the other serves nothing."""
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "min": min(known, default=None),
        "max": max(known, default=None),
        "num_above_1": sum(value > 1 for value in known),
        "num": len(known),
        "num_without": len(values) - len(known),
    }


def text_of(report: dict[str, Any]) -> str:
    """Tables for people."""
    lines = [
        "setting  model        class  hexgen2  distserve  auto   | 8xH100: distserve "
        " best  | over distserve, best"
    ]
    for row in report["cases"]:
        ours, eight = row["unlike"], row["eight_h100"]
        rates = [ours[key]["goodput_rps"] for key in ("hexgen2", "distserve", "auto")]
        rates += [eight[key]["goodput_rps"] for key in ("distserve", "best")]
        ratios = [row["over_distserve_8xh100"], row["over_best_8xh100"]]
        cells = "  ".join(f"{rate:8.2f}" for rate in rates)
        over = "  ".join("-" if r is None else f"{r:.2f}" for r in ratios)
        kind = "cheaper" if row["setting"] == SETTINGS[1] else "equal"
        what = f"{row['slo']:11} {kind:8} {row['model']:12} {row['class']}"
        lines.append(f"{what}  {cells}  | {over}")
        lines.append(f"         {row['reason']}")
    for row in report.get("swaps", []):
        lines.append(
            f"swaps {row['cluster']} {row['model']} {row['class']} "
            f"{row['processor_s']} s: guided "
            f"{np.mean(row['guided_rps']):.3f}, random {np.mean(row['random_rps']):.3f}"
            f" requests/s of flow, starts alone {row['starts_alone_rps']:.3f}; not "
            f"below in {row['num_guided_not_below']} of {len(row['guided_rps'])}"
        )
    for row in report.get("pair", []):
        lines.append(
            f"pair {row['slo']} {row['class']} {row['gbit_per_s']:g} Gbit/s: "
            f"{row['hexgen2']['goodput_rps']:.3f} against "
            f"{row['aggregated']['goodput_rps']:.3f} requests/s aggregated, "
            f"{row['plain']['goodput_rps']:.3f} without chunks; caches in 4 bits "
            f"{row['hexgen2_in_4_bits']['goodput_rps']:.3f}; "
            + "; ".join(row["places"])
        )
    lines.append(json.dumps(report["summary"], indent=1))
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--cases", type=int, default=1000, help="Most cases.")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS)
    args = parser.parse_args()
    data = read_clusters(args.file)
    report: dict[str, Any] = {
        "slos": {name: slo.describe() for name, slo in SLOS.items()},
        "bandwidths": {
            name: bandwidths_of(cluster_of(data, name, nic_gbit_per_s=10.0))
            for name in (HOMOGENEOUS, *SETTINGS, CLOUD)
        },
        "cases": run_cases(data, args.cases),
        "swaps": run_swaps(data, args.seeds),
        "pair": run_pair(data),
    }
    report["summary"] = summary_of(report)
    text = json.dumps(report, indent=1) if args.format == "json" else text_of(report)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
