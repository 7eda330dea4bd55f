"""Every example runs, ends well, and answers its question as its header says."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.files import plan_to_mapping
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.shared_plan import SharedPlan, plan_services
from planner.problem import Problem
from planner.solve import solve
from planner.workload.traces import read_trace

EXAMPLES = Path(__file__).parent.parent / "examples"
SHARED = "shared_llms_a100.yaml"
APART = "one_disaggregated_a100.yaml"
"""Several services: planned by `plan_services`."""
PROBLEMS = sorted(
    path.name for path in EXAMPLES.glob("*.yaml") if path.name not in (SHARED, APART)
)
SLOW = {
    "azure_code_h200.yaml",
    "azure_trace_a100.yaml",
    "dont_disaggregate.yaml",
    "leftovers_l4_t4.yaml",
}
"""More than about three seconds."""

ANSWERS = {
    "quickstart.yaml": "Do not disaggregate",
    "mixed_h100_a100_l40s.yaml": "Disaggregate",
    "dont_disaggregate.yaml": "Do not disaggregate",
    "azure_code_h200.yaml": "Disaggregate",
    "azure_trace_a100.yaml": "Disaggregate",
    "million_tokens_l40s.yaml": "Disaggregate",
}
"""What headers promise: the verdict begins so."""


def marked(names: list[str]) -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in names
    ]


@pytest.mark.parametrize("name", marked(PROBLEMS))
def test_example_has_a_plan(name: str) -> None:
    result = solve(Problem.load(EXAMPLES / name))
    assert result.status.is_success, str(result)
    assert result.best is not None
    assert result.best.evaluation.attainment.is_met
    assert result.best.verdict.startswith(ANSWERS.get(name, ""))
    json.dumps(plan_to_mapping(result.best), allow_nan=False)


def test_unpopular_llms_share_gpus() -> None:
    plan = plan_services(SharedProblem.load(EXAMPLES / SHARED))
    assert isinstance(plan, SharedPlan)
    assert plan.status.is_success
    assert plan.verdict.startswith("share GPUs")
    (spatial,) = (each for each in plan.alternatives if each.method == "spatial")
    assert plan.placed.num_gpus < spatial.num_gpus


def test_one_of_three_llms_is_disaggregated() -> None:
    plan = plan_services(SharedProblem.load(EXAMPLES / APART))
    assert isinstance(plan, SharedPlan)
    assert plan.status.is_success
    assert plan.placed.disaggregated == ("assistant",)
    others = [each.within_slo_rps for each in plan.alternatives]
    assert plan.evaluation.within_slo_rps > 1.1 * max(others)


def test_distserve_example_gives_the_shapes_of_its_header() -> None:
    # FACTS.md: DistServe's own search finds prefill (TP2, PP1) and decode (TP1, PP1).
    problem = Problem.load(EXAMPLES / "distserve_opt13b.yaml")
    as_published = replace(problem.search, max_replicas=1, is_batching_searched=False)
    one_each = replace(problem, search=as_published)
    best = solve(one_each, method="distserve").best
    assert best is not None
    shapes = [pool.shape for pool in best.deployment.pools()]
    assert [f"{s.phase} {s.gpu_type} {s.parallelism}" for s in shapes] == [
        "prefill a100_sxm TP2 PP1",
        "decode a100_sxm TP1 PP1",
    ]


@pytest.mark.parametrize("name", PROBLEMS)
def test_example_says_how_to_run_it(name: str) -> None:
    header = [
        line
        for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    assert f"#   phaseplan plan examples/{name}" in " ".join(header)
    assert "?" in " ".join(header)


def test_readme_lists_every_example() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [*PROBLEMS, *(path.name for path in EXAMPLES.glob("*.py"))]
    assert [name for name in files if f"[{name}]({name})" not in readme] == []


def test_shipped_trace_is_a_thousand_requests() -> None:
    # Its first and last rows: 18:15:46.680590 and 18:19:22.707983.
    trace = read_trace(EXAMPLES / "traces" / "azure_conversation_head.csv")
    assert len(trace) == 1000
    assert trace.duration_ms == pytest.approx(216_027.393)
    assert (trace.input_tokens[0], trace.output_tokens[0]) == (374, 44)


def test_api_example_prints_two_plans(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "plan_api.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert out.count("\nFEASIBLE\n") == 2
    assert out.count("limits the plan") == 2


def test_api_example_runs_outside_the_repository(tmp_path: Path) -> None:
    script = EXAMPLES / "plan_api.py"
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='example')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
