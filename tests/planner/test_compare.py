"""Plans are compared on the same requests, under the same limits."""

from dataclasses import replace
from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.compare import compare_plans, is_plan_file, load_plans, plans_of_methods
from planner.files import write_plan
from planner.plan import Plan
from planner.slo import Slo
from planner.solve import solve
from planner.workload.workload import Workload
from tests.planner.tiny_problems import QUICK, TINY_LIBRARY, tiny_problem


def planned(**changes) -> Plan:
    best = solve(tiny_problem(**changes), TINY_LIBRARY, effort=QUICK).best
    assert best is not None
    return best


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture(scope="module")
def looser() -> Plan:
    """Made for another rate, other lengths and other limits."""
    return planned(slo=Slo(ttft_ms=500.0, tpot_ms=50.0), lengths="50x11", rate_rps=5.0)


def test_every_plan_sees_the_requests_of_the_first(plan: Plan, looser: Plan) -> None:
    rows = compare_plans({"a": plan, "b": looser}, latency=TINY_LIBRARY)
    assert [row.name for row in rows] == ["a", "b"]
    first, second = (row.evaluation for row in rows)
    assert first == plan.evaluation
    assert second.num_requests == first.num_requests
    assert second.rate_rps == first.rate_rps


def test_goodput_is_that_of_the_common_workload(plan: Plan, looser: Plan) -> None:
    rows = compare_plans({"a": plan, "b": looser}, latency=TINY_LIBRARY)
    assert rows[0].goodput_rps == plan.goodput.rate_rps
    # Twice the tokens under tighter limits: less than on its own workload.
    assert rows[1].goodput_rps < looser.goodput.rate_rps
    assert rows[1].goodput_per_gpu_rps == rows[1].goodput_rps / rows[1].num_gpus


def test_limits_are_those_of_the_first(plan: Plan, looser: Plan) -> None:
    rows = compare_plans({"b": looser, "a": plan}, latency=TINY_LIBRARY)
    for row in rows:
        ttft = row.evaluation.metric("ttft")
        assert ttft is not None
        assert ttft.limit_ms == 500.0


def test_rate_asked_for_is_offered_to_all(plan: Plan) -> None:
    (row,) = compare_plans({"a": plan}, rate_rps=3.0, latency=TINY_LIBRARY)
    assert row.evaluation.offered_rps == 3.0


def test_plans_of_other_models_are_refused(plan: Plan) -> None:
    service = plan.problem.service
    other = replace(service, llm=replace(service.llm, name="other"))
    changed = replace(plan, problem=replace(plan.problem, services=(other,)))
    with pytest.raises(InputError, match="b: llm = 'other': expected the model of"):
        compare_plans({"a": plan, "b": changed}, latency=TINY_LIBRARY)


def test_every_single_method_has_a_plan_or_a_reason() -> None:
    problem = tiny_problem(max_replicas=1, max_pp=1)
    plans, why_not = plans_of_methods(problem, latency=TINY_LIBRARY)
    assert sorted(plans) == [
        "aggregated",
        "distserve-high",
        "distserve-low",
        "exhaustive",
        "hexgen2",
        "homogeneous",
        "local-search",
        "per-type",
        "provisioning",
    ]
    assert why_not == {"pipelines": "all GPUs are of one type"}


def test_methods_that_cannot_are_told_apart() -> None:
    problem = tiny_problem()
    service = problem.service
    loop = Workload.closed_loop(concurrency=2, lengths="100x11")
    closed = replace(problem, services=(replace(service, workload=loop),))
    plans, why_not = plans_of_methods(closed, latency=TINY_LIBRARY)
    assert plans == {}
    assert {"closed loop" in reason for reason in why_not.values()} == {True}


def test_files_are_told_from_problems(plan: Plan, tmp_path: Path) -> None:
    write_plan(plan, tmp_path / "plan.json")
    (tmp_path / "problem.yaml").write_text("api_version: phaseplan/v1\n")
    (tmp_path / "later.json").write_text('{"api_version": "phaseplan/plan-v9"}')
    assert is_plan_file(tmp_path / "plan.json")
    assert is_plan_file(tmp_path / "later.json")
    assert not is_plan_file(tmp_path / "problem.yaml")


def test_the_same_file_twice_is_refused(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    with pytest.raises(InputError, match="each file once"):
        load_plans([path, path])
