"""Our placement of many LLMs against MuxServe's released one, on its own objective.

    python benchmarks/accuracy/muxserve.py FILES... [--costs FILE] [--format json]

FILES are placement cases of MuxServe's released code (or folders of `case_*.json`): a
cluster, LLMs with rates, the parallel candidates it chose for each, and the objective
it reached. The cost table is `cost.csv` beside the case, in the reference folder, or
the file given. The objective is always that code's rate-weighted mean of the
throughputs that it estimates (`muxserve_estimate.py`), so that only the search differs:

* reproduced: its greedy, index bug included (`muxserve_released.py`);
* greedy: ours (`planner/multiplexing/greedy.py`), with its candidates and its limits;
* same candidates: exact units (`planner/multiplexing/exact.py`), the same again;
* ours: exact units with the SM shares of a unit chosen together, among those profiled,
  and with the memory that its own launch files leave, instead of 43.2 GB of weights.

Gains are over the objective in the file; `seconds` is the time of the greedy and ours.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from muxserve_estimate import ACTIVATION_GB, GPU_MEMORY_GB, PROCESS_GB, Case, CostTable
from muxserve_released import FULL_SM, OVERLOAD_SM, Mesh, released_objective

from planner.multiplexing.columns import Column, Goals, UnitPool
from planner.multiplexing.exact import ChosenUnits, choose_units
from planner.multiplexing.greedy import GreedyPlacement, place_greedily
from planner.multiplexing.meshes import MeshKind, MeshSupply

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "muxserve"
GPU = "a100_80g"


class ReleasedUnits:
    """Units of a case, worth what the released code estimates."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.order = case.by_demand()

    def value(self, mesh: MeshKind, members: tuple[int, ...]) -> float | None:
        """Worth of a unit with the given candidates; None: it may not be."""
        shares = self.candidates(mesh, members)
        if not self._is_allowed(mesh, members, shares):
            return None
        mean, _ = self.case.throughputs(mesh.num_gpus, members, shares)
        return mean * sum(self.case.llms[i].rate for i in members) / self._total

    def with_candidates(self, supply: MeshSupply) -> Iterator[Column]:
        """All units of the given candidates."""
        for mesh, members in self._subsets(supply):
            shares = self.candidates(mesh, members)
            if self._is_allowed(mesh, members, shares):
                tpts = self.case.throughputs(mesh.num_gpus, members, shares)[1]
                yield _column(mesh, members, tpts)

    def with_any_shares(self, supply: MeshSupply) -> Iterator[Column]:
        """All units, each with its best SM shares."""
        choices = {n: self._choices(n) for n in range(1, self._most + 1)}
        for mesh, members in self._subsets(supply):
            if self._fits(mesh, members):
                tpts = self.case.best_shares(
                    mesh.num_gpus, members, choices[len(members)]
                )[1]
                yield _column(mesh, members, tpts)

    def goals(self, columns: Sequence[Column]) -> Goals:
        """The objective: throughputs weighted by rate, each LLM in one unit."""
        rates = [llm.rate for llm in self.case.llms]
        most = [0.0] * len(rates)
        for column in columns:
            for index, tpt in column.served:
                most[index] = max(most[index], tpt)
        return Goals(
            worth=tuple(rate / self._total for rate in rates),
            wanted=tuple(most),
            has_replicas=False,
        )

    @property
    def _total(self) -> float:
        return self.case.total_rate

    @property
    def _most(self) -> int:
        """Most LLMs of a unit: each needs the smallest profiled share."""
        return (FULL_SM + OVERLOAD_SM) // min(self.case.costs.levels)

    def _subsets(
        self, supply: MeshSupply
    ) -> Iterator[tuple[MeshKind, tuple[int, ...]]]:
        """LLMs that have a candidate on the mesh, in the order they are placed."""
        for mesh in supply.kinds:
            usable = [i for i in self.order if self.candidates(mesh, (i,))[0]]
            for num in range(1, self._most + 1):
                for members in combinations(usable, num):
                    yield mesh, members

    def candidates(self, mesh: MeshKind, members: Sequence[int]) -> tuple[int, ...]:
        """Given decode shares of LLMs on a mesh; 0 where there is no candidate."""
        llms = [self.case.llms[i] for i in members]
        return tuple(llm.candidates.get(mesh.num_gpus, 0) for llm in llms)

    def _is_allowed(
        self, mesh: MeshKind, members: Sequence[int], shares: Sequence[int]
    ) -> bool:
        """The limits of the released greedy, whatever the order."""
        placed = Mesh(mesh.num_gpus)
        for index, share in zip(members, shares, strict=True):
            shape = self.case.llms[index].shape
            if share <= 0 or not placed.can_place(shape, share):
                return False
            placed.place(index, shape, share)
        return True

    def _fits(self, mesh: MeshKind, members: Sequence[int]) -> bool:
        """Room for KV on a GPU, as the released launch files count it."""
        weights = sum(self.case.llms[i].shape.weights_gb for i in members)
        processes = len(members) * (ACTIVATION_GB + PROCESS_GB)
        return weights / mesh.num_gpus + processes < GPU_MEMORY_GB

    def _choices(self, num: int) -> np.ndarray:
        """Levels of SM shares for `num` LLMs that together are not too many SMs."""
        shares = self.case.costs.levels

        def extend(left: int, budget: int) -> Iterator[tuple[int, ...]]:
            if left == 0:
                yield ()
                return
            for level, share in enumerate(shares):
                if share + shares[0] * (left - 1) <= budget:
                    for rest in extend(left - 1, budget - share):
                        yield (level, *rest)

        return np.array(list(extend(num, FULL_SM + OVERLOAD_SM)))


def _column(mesh: MeshKind, members: Sequence[int], tpts: Sequence[float]) -> Column:
    return Column(mesh=mesh, served=tuple(zip(members, tpts, strict=True)))


def greedy_columns(units: ReleasedUnits, greedy: GreedyPlacement) -> list[Column]:
    """The units of a greedy placement."""
    found = []
    for unit in greedy.units:
        shares = units.candidates(unit.mesh, unit.members)
        tpts = units.case.throughputs(unit.mesh.num_gpus, unit.members, shares)[1]
        found.append(_column(unit.mesh, unit.members, tpts))
    return found


def compare(path: Path, costs_path: Path | None) -> dict[str, Any]:
    """All searches on one case."""
    data = json.loads(path.read_text(encoding="utf-8"))
    case = Case(data, cost_table(path, costs_path, data))
    supply = MeshSupply.even(
        GPU, num_nodes=case.num_nodes, gpus_per_node=case.node_gpus
    )
    units = ReleasedUnits(case)
    reproduced = released_objective(case)

    started, cpu_started = time.perf_counter(), time.process_time()
    greedy = place_greedily(supply, units, by_demand=units.order)
    start = [] if greedy is None else greedy_columns(units, greedy)

    def exact(found: Iterator[Column]) -> ChosenUnits:
        columns = list(found)
        pool = UnitPool(columns, num_llms=len(case.llms))
        return choose_units(units.goals(columns), supply, pool, start=start)

    ours = exact(units.with_any_shares(supply))
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu_started
    same = exact(units.with_candidates(supply))
    return {
        "case": case.name,
        "num_llms": len(case.llms),
        "num_gpus": case.num_nodes * case.node_gpus,
        "released": data["muxserve_tpt"] if data.get("found", True) else None,
        "reproduced": reproduced,
        "greedy": None if greedy is None else greedy.value,
        "same_candidates": same.value,
        "ours": ours.value,
        "status": str(ours.status),
        "gap_frac": ours.gap_frac,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def cost_table(path: Path, given: Path | None, data: dict[str, Any]) -> CostTable:
    """The cost table of a case, read for the lengths that the case was solved with."""
    places = [given] if given else [path.parent / "cost.csv", REFERENCE / "cost.csv"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SystemExit(f"no cost table: {' or '.join(str(p) for p in places)}")
    prompt, output = data["avg_prompt_len_used"], data["avg_output_len_used"]
    return CostTable(found, prompt=prompt, output=output)


def gain_frac(row: dict[str, Any], name: str) -> float | None:
    """How much more than the released objective; None where either has none."""
    if row[name] is None or not row["released"]:
        return None
    return float(row[name] / row["released"] - 1.0)


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Worst reproduction, gains and time."""
    errors = [
        abs(row["reproduced"] / row["released"] - 1.0)
        if row["reproduced"] and row["released"]
        else float(row["reproduced"] != row["released"])
        for row in rows
    ]
    summary: dict[str, Any] = {
        "num_cases": len(rows),
        "max_reproduction_error_frac": max(errors),
        "max_seconds": max(row["seconds"] for row in rows),
        "max_cpu_seconds": max(row["cpu_seconds"] for row in rows),
        "max_gap_frac": max(row["gap_frac"] or 0.0 for row in rows),
    }
    for name, prefix in (
        ("ours", ""),
        ("same_candidates", "same_candidates_"),
        ("greedy", "greedy_"),
    ):
        gains = [g for row in rows if (g := gain_frac(row, name)) is not None]
        summary[f"{prefix}min_gain_frac"] = min(gains, default=None)
        summary[f"{prefix}median_gain_frac"] = median(gains) if gains else None
    return summary


def case_files(paths: Sequence[Path]) -> list[Path]:
    """Cases among files and folders."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.glob("case_*.json")) if path.is_dir() else [path]
    return found


def main() -> int:
    """Compare every case and print the gains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    rows = [compare(path, args.costs) for path in case_files(args.files)]
    summary = summary_of(rows)
    if args.format == "json":
        print(json.dumps({"summary": summary, "cases": rows}, indent=2))
        return 0
    for row in rows:
        gains = "  ".join(
            f"{name} {gain:+.2%}"
            for name in ("greedy", "same_candidates", "ours")
            if (gain := gain_frac(row, name)) is not None
        )
        print(f"{row['case']:40} {gains}  {row['status']}  {row['seconds']:.1f} s")
    for name, value in summary.items():
        print(f"{name:36} {value:.6g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
